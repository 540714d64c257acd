"""Exported files against the detectors that they were made of, and what the command refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import version

import onnx
import pytest
import torch
from torch.testing import assert_close

from detectors.commands.export.verification import FileComparison, compare_file
from detectors.models.exported import ExportedClassifier, ExportedDetector, open_exported
from detectors.structures import HeadOutputs, ImageInfo
from detectors.training import assemble
from detectors.training.checkpoint import load_checkpoint
from tests.commands.export.networks import (
    CLASSES,
    NARROW,
    assert_same_detections,
    export,
    some_images,
    write_run,
)

SIZE = (160, 160)
CPU = torch.device("cpu")
SHAPE_CLASSES = ("cross", "disc", "ring", "square", "star", "triangle")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Untrained: YOLOv2 and SSD for 160 pixels, and the course's classifier."""
    place = tmp_path_factory.mktemp("runs")
    return {
        "yolo": write_run(place / "yolo", "model=yolov2_160", NARROW, "model.max_detections=150"),
        "ssd": write_run(place / "ssd", "model=ssd160", NARROW),
        "classifier": write_run(place / "classifier", "model=first_network", "data=mnist"),
    }


@pytest.fixture(scope="module")
def onnx_files(runs):
    """With boxes."""
    for name in ("yolo", "ssd"):
        export(runs[name], "--with-boxes")
    return {name: runs[name] / "best_boxes.onnx" for name in ("yolo", "ssd")}


def network_of(run):
    return assemble.load_network(load_checkpoint(run / "best.pt"), CPU)[0]


def assert_alike(run, path, batch: int) -> None:
    """The file's detections in the original frame are the detector's."""
    exported = open_exported(path)
    assert isinstance(exported, ExportedDetector)
    images = some_images(batch, exported.size)
    infos = [ImageInfo(i, "", "", (90 + i, 120), (1.3, 0.7), (3.0, 4.0 + i)) for i in range(batch)]
    detector = network_of(run)
    with torch.no_grad():
        expected = detector.detections(detector(images), infos, exported.size)
        found = exported.detections(exported(images), infos, exported.size)
    assert_same_detections(found, expected)


@pytest.mark.parametrize("name", ["yolo", "ssd"])
def test_an_onnx_file_finds_what_the_detector_finds(name, runs, onnx_files):
    assert_alike(runs[name], onnx_files[name], batch=1)
    assert_alike(runs[name], onnx_files[name], batch=4)


def test_what_the_file_says_of_itself(onnx_files):
    model = onnx.load(onnx_files["ssd"])
    told = {prop.key: json.loads(prop.value) for prop in model.metadata_props}
    assert told == {
        "format": 1,
        "detectors_version": version("detectors"),
        "name": "ssd160",
        "task": "detection",
        "class_names": list(CLASSES),
        "size": [160, 160],
        "resize": "stretch",
        "padding": 127,
        "channel_order": "rgb",
        "pixel_mean": [123.0, 117.0, 104.0],
        "pixel_std": [1.0, 1.0, 1.0],
        "network_channel_order": "rgb",
        "with_boxes": True,
        "outputs": ["image", "boxes", "scores", "labels"],
        "score_rule": "ssd_scores",
        "coder": "SSDBoxCoder",
        "score_threshold": 0.01,
        "nms_iou": 0.45,
        "candidates_per_class": 400,
        "max_detections": 200,
        "precision": "float32",
        "checkpoint": "best.pt",
        "step": 7,
        "opset": 18,
    }
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [told["opset"]]
    assert [output.name for output in model.graph.output] == told["outputs"]


def test_files_for_torch_run_without_this_package(runs, tmp_path):
    """A fresh process loads both, without detectors, and finds the same."""
    export(runs["yolo"], "--to", "torch_export", "--with-boxes")
    export(runs["yolo"], "--to", "torchscript", "--with-boxes")
    images = some_images(3, SIZE)
    torch.save(images, tmp_path / "images.pt")
    code = """
import sys
sys.modules["detectors"] = None
import torch, torchvision
folder, out = sys.argv[1:]
images = torch.load(out + "/images.pt")
extra = {"detectors.json": ""}
script = torch.jit.load(folder + "/best_boxes.torchscript", _extra_files=extra)
program = torch.export.load(folder + "/best_boxes.pt2").module()
with torch.no_grad():
    torch.save([list(script(images)), list(program(images)), str(extra["detectors.json"])], out + "/found.pt")
"""
    subprocess.run([sys.executable, "-c", code, runs["yolo"], tmp_path], check=True, cwd=tmp_path)
    *results, told = torch.load(tmp_path / "found.pt")
    detector = network_of(runs["yolo"])
    with torch.no_grad():
        expected = detector.postprocess(detector(images), detector.grid(SIZE))
    for found in results:
        for number, name in enumerate(("image", "boxes", "scores", "labels")):
            assert_close(found[number], getattr(expected, name))
    assert "big bird" in told
    for suffix in (".pt2", ".torchscript"):
        assert_alike(runs["yolo"], runs["yolo"] / f"best_boxes{suffix}", batch=2)


def test_without_boxes_a_file_gives_head_outputs(runs, tmp_path):
    path = tmp_path / "heads.torchscript"
    export(runs["ssd"], "--to", "torchscript", "--output", path)
    exported = open_exported(path)
    images = some_images(2, SIZE)
    outputs = exported(images)
    assert isinstance(outputs, HeadOutputs)
    with torch.no_grad():
        expected = network_of(runs["ssd"])(images)
    assert_close(outputs.offsets, expected.offsets)
    assert_close(outputs.class_logits, expected.class_logits)
    assert outputs.objectness is None
    with pytest.raises(ValueError, match="heads.torchscript: it holds raw head outputs; export the run with"):
        exported.detections(outputs, [])


def test_int8_of_head_outputs(tmp_path, monkeypatch, capsys):
    """Both files are measured on val; the scales come from four of six training images."""
    monkeypatch.setenv("DETECTORS_CACHE", str(tmp_path / "cache"))
    shapes = ["data.shapes.train=6", "data.shapes.val=4", "data.workers=0"]
    run = write_run(tmp_path / "run", "model=yolov2_160", NARROW, *shapes, classes=SHAPE_CLASSES)
    export(run, "--quantize", "int8", "--calibration-images", "4")
    out = capsys.readouterr().out
    assert re.search(r"^on shapes val; int8 is calibrated on 3 training images:$", out, re.MULTILINE)
    assert len(re.findall(r"^(?:float32|int8) +AP [\d.]+, AP50 [\d.]+, ", out, re.MULTILINE)) == 2
    exact, rounded = (open_exported(run / f"best{kind}.onnx") for kind in ("", "_int8"))
    assert (exact.metadata["precision"], rounded.metadata["precision"]) == ("float32", "int8")
    images = some_images(2, SIZE)
    with torch.no_grad():
        expected = network_of(run)(images)
    assert_close(exact(images).class_logits, expected.class_logits, atol=1e-4, rtol=1e-4)
    assert_close(exact(images).objectness, expected.objectness, atol=1e-4, rtol=1e-4)
    error = (rounded(images).class_logits - expected.class_logits).abs()
    assert 0 < error.max() < 0.2 * expected.class_logits.abs().max()
    weights = onnx.load(run / "best_int8.onnx").graph.initializer
    assert sum(tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 4 for tensor in weights) == 9


def test_a_classifier(runs, capsys):
    export(runs["classifier"])
    assert "logits" in capsys.readouterr().out
    exported = open_exported(runs["classifier"] / "best.onnx")
    assert isinstance(exported, ExportedClassifier)
    assert (exported.size, exported.resize, exported.class_names) == ((28, 28), "stretch", CLASSES)
    images = some_images(5, (28, 28))
    with torch.no_grad():
        assert_close(exported(images), network_of(runs["classifier"])(images), atol=1e-5, rtol=1e-4)


def test_another_networks_file_is_noticed(runs, onnx_files, tmp_path):
    """The comparison that each export ends with, between a file and a detector with other weights."""
    exported = open_exported(onnx_files["yolo"])
    own = compare_file(network_of(runs["yolo"]), exported)
    assert own.problem() is None and own.unmatched == 0 and own.detections > 0
    assert [d.largest < 1e-4 * d.scale for d in own.differences] == [True] * 4
    other = write_run(tmp_path / "other", "model=yolov2_160", NARROW, "model.max_detections=150", seed=1)
    problem = compare_file(network_of(other), exported).problem()
    assert "detections have no counterpart" in problem


def test_a_comparison_of_nothing_says_so():
    last_line = FileComparison([], 0, 0).lines()[-1]
    assert last_line.startswith("detections: none on the made-up images, so boxes and scores could not be")
    assert FileComparison([], None, 0).lines() == []
    assert FileComparison([], 0, 2).problem() == "2 of 0 detections have no counterpart"


def test_a_file_that_differs_is_not_written(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("detectors.commands.export.verification.TOLERANCE", -1.0)
    with pytest.raises(SystemExit):
        export(runs["classifier"], "--to", "torchscript", "--output", tmp_path / "x.torchscript")
    message = capsys.readouterr().err
    assert "not written, because the file does not compute what the network does: output logits" in message
    assert list(tmp_path.iterdir()) == []


def test_images_that_do_not_fit(onnx_files):
    exported = open_exported(onnx_files["ssd"])
    with pytest.raises(ValueError, match=r"takes \(B, 3, 160, 160\) torch.uint8"):
        exported(torch.zeros(1, 3, 160, 192, dtype=torch.uint8))
    with pytest.raises(ValueError, match="type torch.float32"):
        exported(torch.zeros(1, 3, 160, 160))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["yolo", "--nms-iou", "0.5"], "--nms-iou 0.5: belongs to the suppression; add --with-boxes"),
        (
            ["yolo", "--with-boxes", "--score-threshold", "1.5"],
            "--score-threshold 1.5: must be between 0 and 1",
        ),
        (["yolo", "--to", "torchscript", "--quantize", "int8"], "is for --to onnx, not --to torchscript"),
        (["yolo", "--output", "x.pt2"], "--output x.pt2: must end in .onnx for --to onnx"),
        (["yolo", "--size", "100", "160"], "100"),
        (["ssd", "--size", "128", "128"], "128"),
        (["ssd", "model.width=1"], "model.width=1: a run keeps its settings; only a model takes others: "),
        (["classifier", "--with-boxes"], "is a classifier; leave it out"),
        (["ssd300", "model.nms=soft_linear", NARROW, "--with-boxes"], "only hard suppression can be written"),
        (["no_such_run"], "no_such_run: no such run folder or checkpoint; nor is it a model: "),
    ],
)
def test_what_is_refused(arguments, message, runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    place, *others = arguments
    with pytest.raises(SystemExit) as exit_info:
        export(runs.get(place, place), *others)
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_absent_package_is_named(runs, monkeypatch, capsys):
    monkeypatch.setattr("detectors.commands.export.command.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        export(runs["yolo"])
    expected = "--to onnx: not installed: onnx, onnxruntime, onnxscript; pip install 'detectors[export]'"
    assert expected in capsys.readouterr().err
