"""detectors show over HTTP, with tiny untrained networks: answers, refusals, and what others may ask."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from detectors.commands.predict.predictor import load
from detectors.commands.show.command import main, opened, page_names
from detectors.commands.show.image_store import KEPT_IMAGES
from detectors.commands.show.options import options
from detectors.commands.show.page_server import PAGE, PageServer, content_policy
from detectors.commands.show.shown_run import Suppression, anchors_behind, objectness
from detectors.config.schema import to_plain
from detectors.structures import Detections, HeadOutputs
from detectors.training import assemble
from detectors.training import checkpoint as ckpt
from tests.data.files import box_xml, write_voc
from tests.training.initial.starts import NAMES, configured

SIZE = (60, 90)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Two runs, yolo with a data set of two images, and ssd."""
    place = tmp_path_factory.mktemp("show")
    write_voc(place / "set", {"one": box_xml("a", 11, 11, 50, 40), "two": ""}, size=SIZE, split="val")
    for name in ("one", "two"):
        cv2.imwrite(str(place / f"set/JPEGImages/{name}.jpg"), picture())
    data = ["data=voc", f"data.root={place / 'set'}", "data.cache=null", "trainer.device=cpu"]
    for name, model in (("yolo", "yolov2_160"), ("ssd", "ssd160")):
        (place / name).mkdir()
        torch.manual_seed(3)
        config = configured(*data, model=model)
        network = assemble.build_detector(config, len(NAMES))
        ckpt.save_checkpoint(
            ckpt.Checkpoint(
                path=place / name / "best.pt",
                step=0,
                config=to_plain(config),
                class_names=NAMES,
                model=network.state_dict(),
                progress={"images_seen": 0},
                optimizer={},
                random={},
            )
        )
    return place


def picture(size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


@pytest.fixture(scope="module")
def server(place) -> Iterator[PageServer]:
    arguments = [str(place / "yolo"), str(place / "ssd"), "--split", "val", "--port", "0", "--device", "cpu"]
    server = opened(options([*arguments, "--megabytes", "1"]))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


class Answer:
    def __init__(self, response: http.client.HTTPResponse):
        self.status, self.headers, self.body = response.status, response.headers, response.read()

    @property
    def content(self) -> dict:
        return json.loads(self.body)


def ask(server: PageServer, method: str, where: str, body: bytes | None = None, **headers: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request(method, where, body, headers)
        return Answer(connection.getresponse())
    finally:
        connection.close()


def get(server: PageServer, where: str) -> dict:
    answer = ask(server, "GET", where)
    assert answer.status == 200, answer.body
    return answer.content


def drop(server: PageServer, image: np.ndarray) -> dict:
    answer = ask(server, "POST", "/images", png(image))
    assert answer.status == 200, answer.body
    return answer.content


def detections(server: PageServer, image: str, score: float = 0.01, iou: float = 0.45, rule: str = "hard"):
    return get(server, f"/detections?image={image}&score={score}&iou={iou}&rule={rule}")["runs"]


def test_the_page_names_runs_and_images(server):
    about = get(server, "/about")
    assert [run["name"] for run in about["runs"]] == ["yolo", "ssd"]
    assert about["runs"][0]["network"].startswith("yolov2_160, input 160 x 160 px, letterbox, ")
    assert about["runs"][1]["classes"] == list(NAMES)
    assert about["images"] == ["one", "two"]
    assert about["rules"] == ["hard", "soft_linear", "soft_gaussian", "diou"]


def test_an_image_of_the_data_has_its_truth_and_picture(server):
    assert get(server, "/images/0") == {
        "image": "0", "width": 90, "height": 60, "truths": [{"box": [10, 10, 50, 40], "name": "a"}]
    }  # fmt: skip
    shown = cv2.imdecode(np.frombuffer(ask(server, "GET", "/pictures/0").body, np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == (*SIZE, 3)


@pytest.mark.parametrize("score", [0.05, 0.17])
def test_detections_are_those_of_predict(server, place, score):
    """At the run's own IoU, for the run that letterboxes and for the one that stretches."""
    name = drop(server, picture())["image"]
    for number, run in enumerate(("yolo", "ssd")):
        (expected,) = load(place / run, device="cpu").predict(picture(), score=score)
        found = detections(server, name, score)[number]["detections"]
        assert len(found) == min(len(expected), 300) > 0
        count = len(found)
        assert_allclose([one["box"] for one in found], expected.boxes_xyxy[:count], atol=1e-3)
        assert [one["label"] for one in found] == expected.labels[:count].tolist()


def test_sliders_change_what_is_found_and_the_network_sees_an_image_once(server, monkeypatch):
    name = drop(server, picture())["image"]
    number = len(detections(server, name, 0.2, 0.3)[0]["detections"])
    monkeypatch.setattr(type(server.runs[0].model), "outputs", None)  # would fail if it were called again

    def found(*sliders: object) -> int:
        return len(detections(server, name, *sliders)[0]["detections"])

    assert 0 < found(0.2, 0.05) < number < found(0.2, 0.6)
    assert found(0.3, 0.3) < number < found(0.18, 0.3)
    assert found(0.2, 0.3, "soft_linear") != number
    assert server.runs[0].detector.postprocess.nms == "hard"  # the run itself stays as it was


def test_a_rule_of_one_run_is_the_message_of_the_others(server, monkeypatch):
    """As `related`, of a run whose classes are a tree."""
    monkeypatch.setattr(server.runs[0].detector.postprocess, "nms", "related")
    monkeypatch.setattr(server.runs[0], "detections", lambda look, suppression: {"detections": []})
    assert get(server, "/about")["rules"][-1] == "related"
    first, second = detections(server, "0", rule="related")
    assert first == {"detections": []}
    assert "related is a rule for classes in a tree" in second["error"]


def test_anchors_that_fired_are_those_that_decode_to_the_boxes(server, place):
    """By hand: the detection's box is its anchor's, decoded and brought back to the image."""
    run = server.runs[1]
    look = run.look(picture())
    decoded = run.detector.postprocess.coder.decode(look.outputs.offsets, run.grid)[0]
    grid = run.grid
    for one in run.detections(look, Suppression(0.1, 0.45, "hard"))["detections"][:20]:
        scaled = torch.tensor(one["anchor"]) * torch.tensor([160 / 90, 160 / 60] * 2)  # stretched
        anchor = int((grid.boxes - scaled).abs().sum(1).argmin())
        assert_allclose(grid.boxes[anchor], scaled, atol=1e-3)
        box = (decoded[anchor] / torch.tensor([160 / 90, 160 / 60] * 2)).clamp(min=0)
        assert_allclose(one["box"], torch.minimum(box, torch.tensor([90.0, 60, 90, 60])), atol=1e-3)
        assert grid.cell[anchor].tolist() == one["cell"]
        level = sum(anchor >= end for end in (20 * 20 * 4, 20 * 20 * 4 + 10 * 10 * 6, 1600 + 600 + 150))
        assert one["level"] == level


def test_no_detections_have_no_anchors():
    none = Detections(torch.zeros(0), torch.zeros(0, 4), torch.zeros(0), torch.zeros(0))
    assert anchors_behind(none, torch.zeros(5, 4)).shape == (0,)


def test_the_heat_map_is_objectness_or_what_is_not_background(server):
    name = drop(server, picture())["image"]
    (yolo,) = get(server, f"/heat?image={name}&run=0")["levels"]
    levels = get(server, f"/heat?image={name}&run=1")["levels"]
    assert (yolo["rows"], yolo["columns"], len(yolo["values"])) == (10, 10, 100)
    assert [level["rows"] for level in levels] == [20, 10, 5, 3]
    outputs = server.images.get(name).looks["yolo"].outputs
    expected = outputs.objectness[0].sigmoid().view(100, 5).amax(1)  # (cells, anchors)
    assert_allclose(yolo["values"], expected, atol=6e-4)
    outputs = server.images.get(name).looks["ssd"].outputs
    background = outputs.class_logits[0, :1600].softmax(-1)[:, 0].view(400, 4)
    assert_allclose(levels[0]["values"], 1 - background.amin(1), atol=6e-4)
    # A letterbox has bars above and below this image of 90 x 60 pixels; stretching has none.
    assert_allclose(yolo["frame"], [0, -15, 90, 75], atol=0.5)
    assert_allclose(levels[0]["frame"], [0, 0, 90, 60], atol=0.1)


def test_a_detector_without_background_and_objectness_has_its_best_class():
    logits = torch.tensor([[[0.0, 2.0], [-1.0, -3.0]]])
    assert_allclose(objectness(HeadOutputs(torch.zeros(1, 2, 4), logits), 2), [0.880797, 0.268941], rtol=1e-5)


def test_what_is_no_image_gives_one_message(server):
    whole = png(picture())
    for content, message in (
        (b"", "the file is empty"),
        (b"GIF89a nothing", "cannot be decoded"),
        (whole[: len(whole) // 2], "cannot be decoded"),
        (b"<svg/>", "cannot be decoded"),
    ):
        answer = ask(server, "POST", "/images", content)
        assert answer.status == 400 and message in answer.content["error"]
        assert "\n" not in answer.content["error"] and "/tmp" not in answer.content["error"]
    assert get(server, "/about")  # it still answers


def test_an_image_without_room_is_the_message_of_one_run(server):
    """A letterbox of 160 pixels has no room for 1 x 900; the run that stretches takes it."""
    name = drop(server, picture((1, 900)))["image"]
    yolo, ssd = detections(server, name)
    assert "has no room in a letterbox of 160 x 160" in yolo["error"]
    assert ssd["detections"] is not None
    answer = ask(server, "GET", f"/heat?image={name}&run=0")
    assert answer.status == 400 and "has no room" in answer.content["error"]


def test_a_large_file_is_refused_with_an_answer(server):
    answer = ask(server, "POST", "/images", bytes(1_500_000))
    assert answer.status == 413
    assert answer.content["error"] == "the file has 1.5 MB, more than the 1 MB that --megabytes allows"


def test_uploads_that_break_off_or_have_no_length(server):
    for head, body in (("Content-Length: 100", b"short"), ("X: y", b"")):
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
            text = f"POST /images HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n{head}\r\n\r\n"
            connection.sendall(text.encode() + body)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.makefile("rb").read()
        assert b"the upload broke off" in answer or b"the length of the image is missing" in answer
    assert get(server, "/about")


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example:80"},
        {"Host": "127.0.0.1.evil.example:80"},
        {"Host": "127.0.0.1"},  # another port's server
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ],
)
def test_only_this_machines_page_is_answered(headers, server):
    """DNS rebinding: a page of another name that leads here. And requests of other sites' pages."""
    for method, where in (("GET", "/"), ("GET", "/about"), ("POST", "/images")):
        answer = ask(server, method, where, png(picture()) if method == "POST" else None, **headers)
        assert answer.status == 403
        assert set(answer.content) == {"error"}


def test_this_machines_names_are_answered(server):
    assert server.server_address[0] == "127.0.0.1"
    for name in ("127.0.0.1", "localhost"):
        host = f"{name}:{server.port}"
        assert ask(server, "GET", "/about", Host=host, Origin=f"http://{host}").status == 200


@pytest.mark.parametrize(
    ("where", "status", "message"),
    [
        ("/detections?image=0&score=x&iou=.5", 400, "score=x: must be a number from 0 to 1"),
        ("/detections?image=0&score=nan&iou=.5", 400, "score=nan: must be"),
        ("/detections?image=0&score=.5&iou=2", 400, "iou=2: must be"),
        ("/detections?image=0&score=.5&iou=.5&rule=best", 400, "rule=best: there is no such rule"),
        ("/detections?image=99&score=.5&iou=.5", 404, "no longer kept; drop it again"),
        ("/detections?image=../../etc/passwd&score=.5&iou=.5", 404, "no longer kept"),
        ("/images/%2e%2e", 404, "no longer kept"),
        ("/heat?image=0&run=2", 400, "run=2: there is no such run"),
        ("/page.html", 404, "/page.html: there is no such place"),
    ],
)
def test_wrong_requests(where, status, message, server):
    answer = ask(server, "GET", where)
    assert answer.status == status
    assert message in answer.content["error"]


def test_few_images_stay_in_memory(server):
    first = drop(server, picture())["image"]
    for _ in range(KEPT_IMAGES):
        drop(server, picture())
    assert ask(server, "GET", f"/images/{first}").status == 404
    assert len(server.images.kept) == KEPT_IMAGES


class Places(HTMLParser):
    """Everything in a page that a browser would load."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.found += [value for name, value in attributes if name in ("src", "href", "action", "srcset")]


def test_the_page_loads_nothing_and_runs_nothing_else(server):
    answer = ask(server, "GET", "/")
    places = Places()
    places.feed(answer.body.decode())
    assert places.found == ["data:,"]
    policy = answer.headers["Content-Security-Policy"]
    assert policy == content_policy(PAGE.read_text())
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe" not in policy
    assert policy.count("sha256-") == 2
    assert "innerHTML" not in PAGE.read_text()  # names of runs, classes and images stay text


def test_names_of_runs():
    assert page_names([Path("/r/a/best.pt"), Path("/r/b/best.pt")]) == ["a", "b"]
    assert page_names([Path("/r/a/best.pt"), Path("/s/a/last.pt")]) == ["r/a/best.pt", "s/a/last.pt"]
    assert page_names([Path("/r/a/best.pt")] * 2) == ["r/a/best.pt (1)", "r/a/best.pt (2)"]


def test_the_command_names_its_address_and_ends_with_ctrl_c(place, monkeypatch, capsys):
    def interrupted(server: PageServer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PageServer, "serve_forever", interrupted)
    main([str(place / "ssd"), "--port", "0", "--device", "cpu"])
    assert capsys.readouterr().out.startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere"),
        (["RUN", "--port", "70000"], "--port 70000: must be 65535 or less"),
        (["RUN", "--megabytes", "0"], "--megabytes 0: must be 1 or more"),
        (["RUN"] * 9, "9 runs: the page has room for 8; name fewer"),
        (["RUN", "--split", "test"], "test"),
        (["RUN", "--port", "TAKEN"], "--port 0 takes a free one"),
    ],
)
def test_what_cannot_be_shown(arguments, message, place, server, capsys):
    known = {"RUN": str(place / "yolo"), "TAKEN": str(server.port)}
    with pytest.raises(SystemExit, match="2"):
        main([*(known.get(word, word) for word in arguments), "--device", "cpu"])
    assert message in capsys.readouterr().err
