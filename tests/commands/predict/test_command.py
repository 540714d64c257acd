"""Predicting with Darknet's files: Darknet's own numbers from the JPEG on, its lines, and error messages."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from detectors.commands.predict.command import main
from detectors.commands.predict.darknet_files import DarknetFiles, read_darknet_image
from detectors.commands.predict.predictor import Prediction
from detectors.commands.predict.result_writers import detect_lines, detection_lines
from detectors.data.class_names import VOC_CLASSES
from tests.darknet import cfgs, streams

NANO = [[8, 3, 3, 1], [21, 8, 1, 0]]


@pytest.fixture
def files(tmp_path):
    """Two convolutions, three anchors, two classes, 32 x 48 pixels: cfg, weights, names; and an image."""
    region = "[region]\nanchors=1,1,2,1,1,3\nnum=3\nclasses=2\nsoftmax=1\n"
    text = (
        "[net]\nwidth=48\nheight=32\nchannels=3\n" + cfgs.conv(8, 3) + cfgs.pool(8) + cfgs.linear(21) + region
    )
    paths = {
        "cfg": cfgs.write(tmp_path, text),
        "weights": streams.write(tmp_path / "net.weights", NANO, 3),
        "names": tmp_path / "two.names",
    }
    paths["names"].write_text("cat\nbig dog\n\n")
    paths["image"] = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)).save(paths["image"])
    return paths


def options(files: dict, *names: str) -> list[str]:
    return [word for name in names for word in (f"--{name}", str(files[name]))]


def test_prints_darknets_lines_then_ours_and_draws(files, tmp_path, capsys):
    main(
        [
            *options(files, "cfg", "weights", "names"),
            str(files["image"]),
            "--thresh",
            "0.2",
            "--output",
            str(tmp_path / "drawn"),
            "--report",
        ]
    )
    out = capsys.readouterr().out.splitlines()
    assert "version 0.2.0, header of 20 bytes" in out[0]
    assert [line.split(":")[1] for line in out[1:3]] == [" layers.0", " layers.2"]
    assert re.fullmatch(rf"{files['image']}: Predicted in \d+\.\d{{6}} seconds\.", out[3])
    short = [line for line in out[4:-1] if re.fullmatch(r"(cat|big dog): \d+%", line)]
    long = [
        re.fullmatch(rf"{files['image']}: (cat|big dog) (0\.\d+)((?: -?\d+\.\d){{4}})", line)
        for line in out[4 + len(short) : -1]
    ]
    assert len(short) == len(long) > 0
    for line, match in zip(short, long, strict=True):
        name, percent = line[:-1].split(": ")
        assert name == match[1]
        assert abs(int(percent) - 100 * float(match[2])) <= 0.6
        box = [float(edge) for edge in match[3].split()]
        assert 0 <= box[0] <= box[2] <= 80 and 0 <= box[1] <= box[3] <= 60
    assert cv2.imread(str(tmp_path / "drawn/image.png")) is not None


def test_the_options_change_what_is_found(files, tmp_path, capsys):
    def found(*more: str) -> list[str]:
        main(
            [
                *options(files, "cfg", "weights"),
                str(files["image"]),
                "--output",
                str(tmp_path / "drawn"),
                *more,
            ]
        )
        return [
            line
            for line in capsys.readouterr().out.splitlines()
            if line.startswith(f"{files['image']}: ") and "Predicted" not in line
        ]

    assert found() == found("--thresh", "0.5")
    low = ("--thresh", "0.2")
    usual = found(*low)
    assert {line.split()[1] for line in usual} <= {"0", "1"}
    assert usual == found(*low, "--resize", "letterbox", "--nms", "0.45", "--batch-norm", "cpu")
    assert usual != found(*low, "--resize", "stretch")
    assert len(found(*low, "--nms", "1")) > len(usual)
    assert len(found("--score", "0.3")) not in (0, len(usual), len(found()))
    assert found("--thresh", "1") == []


def fails(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_options_stand_anywhere(files, tmp_path, capsys, monkeypatch):
    """Before, between and behind the places; behind -- there are places only."""
    dashed = tmp_path / "--score"
    dashed.write_bytes(files["image"].read_bytes())
    monkeypatch.chdir(tmp_path)
    network = options(files, "cfg", "weights")
    image = str(files["image"])
    results = []
    for words in (
        ["--thresh", ".2", *network, image, "./--score"],
        [image, "--thresh", ".2", "./--score", *network],
        [image, *network, "--thresh=.2", "--output", "pictures", "./--score"],
        [*network, "--thresh", ".2", image, "--", "--score"],
        [*network, image, "--thresh", ".2", "--", "--score"],
        [*network, "--thresh", ".2", "--", image, "--score"],
    ):
        main(words if "pictures" in words else ["--output", "pictures", *words])
        results.append([line for line in capsys.readouterr().out.splitlines() if "Predicted" not in line])
    assert len(results[0]) > 3
    assert any(line.startswith("--score: ") for line in results[0])
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("value", ["-0.1", "1.5", "nan", "inf", "30"])
@pytest.mark.parametrize("option", ["score", "thresh", "nms"])
def test_scores_and_overlaps_are_between_0_and_1(files, capsys, option, value):
    words = [*options(files, "cfg", "weights"), str(files["image"]), f"--{option}", value]
    name = "nms" if option == "nms" else "score"
    assert f"error: --{name} {float(value)}: must be between 0 and 1\n" in fails(capsys, *words)


def test_a_picture_that_cannot_be_written_is_named(files, tmp_path, capsys):
    (tmp_path / "drawn").write_text("in the way")
    words = [*options(files, "cfg", "weights"), str(files["image"]), "--output", str(tmp_path / "drawn")]
    assert f"{tmp_path / 'drawn/image.png'}: the picture could not be written (" in fails(capsys, *words)


def test_mistakes(files, tmp_path, capsys):
    image = str(files["image"])
    three = tmp_path / "three.names"
    three.write_text("a\nb\nc\n")
    both = options(files, "cfg", "weights")
    assert "--names: only together with --cfg" in fails(capsys, *options(files, "names"), "run", image)
    assert "a run or checkpoint alone; name the images" in fails(capsys, "run")
    assert "name a run or checkpoint, then images or folders" in fails(capsys)
    assert "--weights is missing" in fails(capsys, *options(files, "cfg"), image)
    assert "3 names, but" in fails(capsys, *both, "--names", str(three), image)
    assert "no such file of class names" in fails(capsys, *both, "--names", str(tmp_path / "absent"), image)
    assert "no such image or folder" in fails(capsys, *both, str(tmp_path / "absent.jpg"))
    assert "no such weights file" in fails(
        capsys, *options(files, "cfg"), "--weights", str(tmp_path / "absent"), image
    )
    classifier = cfgs.write(tmp_path, cfgs.darknet19(0.0625, 4), "classifier.cfg")
    weights = streams.write(tmp_path / "classifier.weights", darknet19_convs(), 0)
    assert "its last layer is not [region]" in fails(
        capsys, "--cfg", str(classifier), "--weights", str(weights), image
    )


@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
def test_extreme_images_do_not_stop_the_others(files, tmp_path, capsys, resize):
    """Those too thin for Darknet's letterbox are named and left out; the others are predicted; status 2."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, size in (("dot", (1, 1)), ("line", (1, 9000)), ("strip", (9000, 3)), ("usual", (60, 80))):
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(folder / f"{name}.png")
    words = [*options(files, "cfg", "weights"), str(folder), "--output", str(tmp_path / "drawn")]
    if resize == "stretch":
        main([*words, "--resize", "stretch"])
        assert len(list((tmp_path / "drawn").iterdir())) == 4
        return
    error = fails(capsys, *words)
    assert f"error: {folder / 'line.png'}: an image of 9000 x 1 pixels has no room in a letterbox" in error
    assert f"error: {folder / 'strip.png'}: an image of 3 x 9000 pixels has no room in a letterbox" in error
    assert "left out, see above: 2" in error
    assert {path.name for path in (tmp_path / "drawn").iterdir()} == {"dot.png", "usual.png"}


def darknet19_convs() -> list[list[int]]:
    from detectors.models.darknet19 import darknet19
    from tests.darknet.test_weights import shapes

    return shapes(darknet19(num_classes=4, width=0.0625))


def test_options_without_effect_are_reported(files, tmp_path, capsys):
    files["cfg"].write_text(files["cfg"].read_text() + "mask=0,1\n")
    main([*options(files, "cfg", "weights"), str(files["image"]), "--output", str(tmp_path / "drawn")])
    assert "[region] mask=0,1 is not known and not used" in capsys.readouterr().err


def test_values_that_darknet_reads_otherwise_are_reported(files, tmp_path, capsys):
    files["cfg"].write_text(files["cfg"].read_text().replace("activation=linear", "activation=linear # last"))
    main([*options(files, "cfg", "weights"), str(files["image"]), "--output", str(tmp_path / "drawn")])
    error = capsys.readouterr().err
    assert error.startswith(f"note: {files['cfg']}:")
    assert "activation=linear#last: Darknet compares the whole text, knows no such activation" in error


def test_a_jpeg_of_another_kind_is_read_and_reported(tmp_path, capsys):
    path = tmp_path / "progressive.jpg"
    Image.fromarray(np.full((16, 24, 3), 90, np.uint8)).save(path, progressive=True)
    assert read_darknet_image(str(path)).shape == (16, 24, 3)
    assert "decoded by libjpeg" in capsys.readouterr().err


@pytest.mark.data
@pytest.mark.parametrize("mode", ["letterbox", "stretch"])
@pytest.mark.parametrize(
    ("net", "cfg", "weights"), [("voc_bn", "tiny-yolov2-trial3", ""), ("coco_nobn", "coco_trial6", "_653550")]
)
@torch.no_grad()
def test_a_photograph_gives_darknets_numbers(net, cfg, weights, mode, shared):
    """From the bytes of dog.jpg to the region layer, as Darknet's CPU build computed it."""
    folder = shared / "weights/yolo-lite"
    model = DarknetFiles(
        folder / f"cfg/{cfg}.cfg",
        folder / f"weights/{cfg}{weights}.weights",
        None,
        torch.device("cpu"),
        resize=mode,
        batch_norm="cpu",
    )
    recorded = np.load(folder / "oracle/darknet_dog_224.npz")
    key = {"stretch": "resize"}.get(mode, mode)
    pixels, _ = model.prepare(model.read(str(folder / "oracle/dog.jpg")), model.size)
    assert_close(pixels, torch.from_numpy(recorded[f"x__{key}"]), atol=0, rtol=0)
    *_, raw, region = model.module.outputs(pixels[None])
    assert_close(raw[0], torch.from_numpy(recorded[f"{net}__{key}__raw"]), atol=5e-5, rtol=0)
    assert_close(region[0], torch.from_numpy(recorded[f"{net}__{key}__region"]), atol=1e-5, rtol=0)


@pytest.mark.data
def test_the_dog_is_found(shared, tmp_path, capsys):
    """Darknet's own example image; the percentages are objectness * class of the recorded region layer."""
    folder = shared / "weights/yolo-lite"
    names = tmp_path / "voc.names"
    names.write_text("\n".join(VOC_CLASSES))
    network = [
        "--cfg",
        str(folder / "cfg/tiny-yolov2-trial3.cfg"),
        "--weights",
        str(folder / "weights/tiny-yolov2-trial3.weights"),
    ]
    main(
        [
            *network,
            "--names",
            str(names),
            str(folder / "oracle/dog.jpg"),
            "--thresh",
            "0.3",
            "--output",
            str(tmp_path),
        ]
    )
    out = capsys.readouterr().out.splitlines()
    assert out[1:5] == ["bicycle: 79%", "car: 65%", "car: 60%", "dog: 32%"]
    recorded = np.load(folder / "oracle/darknet_dog_224.npz")["voc_bn__letterbox__region"].reshape(5, 25, 49)
    best = (recorded[:, 4] * recorded[:, 5 + 1]).max()
    assert out[5].split()[2] == f"{best:.3f}"


def test_a_class_name_cannot_control_the_terminal():
    boxes = np.array([[1, 2, 3, 4]], np.float32)
    found = Prediction("a.png", (9, 9), boxes, np.array([0.5], np.float32), np.array([0]), ("cat\x1b[2K",))
    assert list(detection_lines(found)) == [r"a.png: cat\x1b[2K 0.500 1.0 2.0 3.0 4.0"]
    assert list(detect_lines(found, 0.0))[1] == r"cat\x1b[2K: 50%"
