"""detectors predict on all kinds of places at once: nothing is lost, and each fault is one line."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest

import detectors
from detectors.commands.predict import command
from detectors.commands.predict.predictor import Predictor
from detectors.commands.predict.views import ViewPlan
from tests.commands.predict.test_predictor import images, run, same  # noqa: F401


def predict(*arguments, status: int = 0) -> None:
    words = [str(argument) for argument in arguments]
    if status == 0:
        command.main(words)
        return
    with pytest.raises(SystemExit) as ended:
        command.main(words)
    assert ended.value.code == status


@pytest.fixture
def video(tmp_path) -> Path:
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (500, 300))
    rng = np.random.default_rng(0)
    for _ in range(7):
        writer.write(cv2.resize(rng.integers(0, 256, (9, 15, 3)).astype(np.uint8), (500, 300)))
    writer.release()
    return path


def test_everything_at_once_and_each_fault_is_one_line(run, images, video, tmp_path, capsys):  # noqa: F811
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no video")
    faults = [tmp_path / "empty", tmp_path / "text.mp4", "webcam:99", tmp_path / "*.gif", "ftp://h/x.jpg"]
    places = [images, *faults, video]
    found = tmp_path / "found.json"
    predict(
        run,
        *places,
        "--score",
        0,
        "--format",
        f"json={found}",
        "--every",
        3,
        "--output",
        tmp_path / "o",
        status=2,
    )
    output, error = capsys.readouterr()
    lines = error.splitlines()
    assert len([line for line in lines if line.startswith("error: ")]) == len(faults) + 1
    for line, fault in zip(lines, faults, strict=False):
        assert line.startswith(f"error: {fault}: ")
    assert "6 images in " in error and "left out, see above: 5" in error
    names = [(Path(image["image"]).name, image.get("frame")) for image in json.loads(found.read_text())]
    assert names == [("a.png", None), ("b.jpg", None), ("c.png", None), *[("clip.mp4", n) for n in (0, 3, 6)]]
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["a.png", "b.png", "c.png", "clip.mp4"]
    drawn = cv2.VideoCapture(str(tmp_path / "o/clip.mp4"), cv2.CAP_FFMPEG)
    assert drawn.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    assert output == f"json: {found}\npictures: {tmp_path / 'o'}\n"


def test_classes_counts_and_crops(run, images, tmp_path, capsys):  # noqa: F811
    predict(run, images, "--score", 0.3, "--class", "dog", "--count", "--save-crops", "--output", tmp_path)
    output = capsys.readouterr().out.splitlines()
    assert output[3].startswith("in all 3 images: ") and "cat" not in "".join(output[:4])
    assert output[4:] == [f"crops: {tmp_path / 'crops'}", f"pictures: {tmp_path}"]
    total = int(output[3].partition(": ")[2].split()[0])
    assert [path.name for path in (tmp_path / "crops").iterdir()] == ["dog"]
    assert total >= len(list((tmp_path / "crops/dog").iterdir())) > 3  # some boxes have no pixel
    predict(run, images, "--class", "dgo", status=2)
    assert "--class dgo: no class of this detector; did you mean dog?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "xml"], "--format xml: choose lines, json, csv, coco, voc, darknet"),
        (["--format", "json", "--format", "csv"], "--format json and --format csv: only one can be printed"),
        (["--format", "json", "--count"], "--count and --format json: only one can be printed"),
        (["--format", "json=a", "--format", "csv=a"], "--format: a is named twice"),
        (["--format", "json="], "--format json=: name a file or folder behind ="),
        (["--overlap", "0.3"], "--overlap: only together with --tile"),
        (["--no-whole"], "--no-whole: only together with --tile"),
        (["--tile", "9"], "tile=9: must be 32 or more"),
        (["--augment", "flip,turn"], "augment='turn': choose from flip, scales"),
        (["--batch-size", "0"], "--batch-size 0: must be 1 or more"),
        (["--every", "0"], "--every 0: must be 1 or more"),
    ],
)
def test_options_that_do_not_fit(run, images, capsys, options, message):  # noqa: F811
    predict(run, images, *options, status=2)
    assert message in capsys.readouterr().err


def test_json_on_stdout_is_alone_there(run, images, tmp_path, capsys):  # noqa: F811
    predict(run, images, "--format", "json", "--no-pictures", "--output", tmp_path / "none")
    output, error = capsys.readouterr()
    assert len(json.loads(output)) == 3
    assert "3 images in " in error
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_batches_and_threads_change_nothing(run, images, batch_size):  # noqa: F811
    detector = detectors.load(run)
    alone = [detector.predict(path, score=0.1)[0] for path in sorted(images.glob("*.*g"))]
    same(detector.predict(images, score=0.1, batch_size=batch_size), alone)


def test_tiles_and_augmentation_go_through_the_network(run, images):  # noqa: F811
    """Tiles are a batch; a mirrored image gives mirrored boxes; sizes change the input."""
    detector = detectors.load(run)
    image = np.random.default_rng(1).integers(0, 256, (300, 400, 3), np.uint8)
    seen: list[tuple[int, ...]] = []
    detector.module.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    detector.predict(image, tile=200, overlap=0.0)
    assert seen == [(5, 3, 160, 160)]
    seen.clear()
    (found,) = detector.predict(image, augment=("flip", "scales"), score=0.05)
    assert seen == [(2, 3, 160, 160), (2, 3, 128, 128), (2, 3, 192, 192)]
    assert len(found) > 0 and (np.diff(found.scores) <= 0).all()
    (mirrored,) = detector.predict(
        np.ascontiguousarray(image[:, ::-1]), augment=("flip", "scales"), score=0.05
    )
    np.testing.assert_allclose(np.sort(mirrored.scores), np.sort(found.scores), atol=1e-4)
    np.testing.assert_allclose(
        np.sort(400 - mirrored.boxes_xyxy[:, [2, 0]], 0), np.sort(found.boxes_xyxy[:, [0, 2]], 0), atol=0.05
    )


def test_ssd_takes_its_own_size_only(images, tmp_path):  # noqa: F811
    from detectors.config.check import check
    from detectors.config.composing import composed
    from detectors.config.schema import to_plain
    from detectors.training import assemble
    from detectors.training.checkpoint import Checkpoint, save_checkpoint

    config = check(composed(["model=ssd160", "model.width=0.125"]))
    state = assemble.build_detector(config, 2).state_dict()
    save_checkpoint(Checkpoint(tmp_path / "best.pt", 0, to_plain(config), ("cat", "dog"), state, {}, {}, {}))
    with pytest.raises(
        ValueError, match="augment scales needs an input of 128 x 128, but this network takes"
    ):
        detectors.load(tmp_path).predict(images, augment=("scales",))
    assert len(detectors.load(tmp_path).predict(images, augment=("flip",))) == 3


def test_ctrl_c_leaves_whole_files(run, images, video, tmp_path, capsys, monkeypatch):  # noqa: F811
    """In the middle of a video: its frames so far are a video, and the JSON is complete."""
    taken = command.PredictRun.take

    def take_then_interrupt(self, outcome, writers) -> None:
        taken(self, outcome, writers)
        if self.images == 5:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(command.PredictRun, "take", take_then_interrupt)
    found = tmp_path / "found.json"
    output = tmp_path / "o"
    options = ["--format", f"json={found}", "--batch-size", 1, "--output", output]
    predict(run, images, video, images, *options, status=command.INTERRUPTED)
    assert "stopped; what was found until then is written" in capsys.readouterr().err
    assert len(json.loads(found.read_text())) == 5
    assert sorted(path.name for path in output.iterdir()) == ["a.png", "b.png", "c.png", "clip.mp4"]
    drawn = cv2.VideoCapture(str(output / "clip.mp4"), cv2.CAP_FFMPEG)
    assert drawn.get(cv2.CAP_PROP_FRAME_COUNT) == 2


def test_a_camera_gives_its_images_at_once(run):  # noqa: F811
    """Not after a whole batch."""
    from detectors.commands.predict.frames import Frame
    from detectors.commands.predict.inputs import InputSource

    predictor: Predictor = detectors.load(run)
    image = np.zeros((40, 40, 3), np.uint8)
    read: list[int] = []

    def frames():
        for number in range(9):
            read.append(number)
            yield Frame(InputSource("camera", "webcam:0"), image, number, 25.0)

    outcomes = predictor.outcomes(frames(), ViewPlan(), score=0.3, batch_size=8)
    assert next(outcomes).prediction.place == "webcam:0#0"
    assert read == [0]


@pytest.mark.slow
def test_an_exported_file_finds_what_its_run_finds(run, images, tmp_path, capsys):  # noqa: F811
    pytest.importorskip("onnxruntime")
    from detectors.commands.export.command import main as export

    (tmp_path / "run").mkdir()
    shutil.copy(run / "best.pt", tmp_path / "run")
    file = tmp_path / "boxes.onnx"
    export([str(tmp_path / "run"), "--with-boxes", "--output", str(file)])
    score = 0.4
    expected = detectors.load(run).predict(images, score=score)
    same(detectors.load(file).predict(images, score=score), expected)
    capsys.readouterr()
    predict(file, images, "--score", score, "--no-pictures")
    assert len(capsys.readouterr().out.splitlines()) == sum(map(len, expected))
    with pytest.raises(ValueError, match="augment scales needs other inputs than the file.s 160 x"):
        detectors.load(file).predict(images, augment=("scales",))
    with pytest.raises(ValueError, match="device=cuda: "):
        detectors.load(file, device="cuda")
