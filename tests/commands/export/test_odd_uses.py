"""Uses that go wrong, each with one message (what, where, how to fix it), and unusual ones that work."""

from __future__ import annotations

import tempfile
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from detectors.commands.export.verification import FileComparison, OutputDifference
from detectors.models.exported import EXPORT_SUFFIXES, open_exported
from detectors.training import assemble
from detectors.training.checkpoint import load_checkpoint, save_checkpoint
from tests.commands.export.networks import NARROW, export, some_images, write_run
from tests.faults import file_size_limit

SCRIPT = ("--to", "torchscript")
KINDS = dict(zip(("onnx", "torch_export", "torchscript"), EXPORT_SUFFIXES, strict=True))
SIZE = (160, 160)
FILE_LIMIT = 20_000  # bytes; each file of the small run is larger


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs") / "yolo"
    return write_run(place, "model=yolov2_160", NARROW, "model.max_detections=150", classes=("cell",))


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The current folder, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(capsys, *arguments) -> str:
    """The error message of a command that ends with status 2."""
    with pytest.raises(SystemExit) as exit_info:
        export(*arguments)
    assert exit_info.value.code == 2
    return capsys.readouterr().err


def network_of(folder):
    return assemble.load_network(load_checkpoint(folder / "best.pt"), torch.device("cpu"))[0]


@pytest.mark.parametrize(
    ("kind", "boxes"), [("onnx", True), ("torch_export", True), ("torchscript", True), ("torchscript", False)]
)
def test_one_class_and_other_batches(run, kind, boxes, tmp_path):
    path = tmp_path / f"x{KINDS[kind]}"
    export(run, "--to", kind, "--output", path, *["--with-boxes"] * boxes)
    file, detector = open_exported(path), network_of(run)
    images = some_images(7, SIZE)
    with torch.no_grad():
        expected = detector(images)
        if boxes:
            expected = detector.postprocess(expected, detector.grid(SIZE))
    found = file(images)
    for name in file.metadata["outputs"]:
        if boxes:
            assert len(getattr(found, name)) == len(getattr(expected, name)) > 0
        else:
            assert_close(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"\(0, 3, 160, 160\): .* takes 1 image or more"):
        file(images[:0])


def test_a_run_that_is_named_like_a_model(run, elsewhere, capsys):
    (elsewhere / "ssd160").symlink_to(run)
    message = refusal(capsys, "ssd160", *SCRIPT)
    assert "ssd160: is a model of conf/model, and" in message and "type ./ssd160" in message
    export("./ssd160", *SCRIPT, "--output", "x.torchscript")
    (elsewhere / "ssd160").unlink()
    (elsewhere / "ssd160").mkdir()  # of another program
    export("ssd160", NARROW, *SCRIPT, "--output", "y.torchscript")
    names = [open_exported(elsewhere / f"{name}.torchscript").metadata["name"] for name in "xy"]
    assert names == ["yolov2_160", "ssd160"]


def test_a_model_begins_with_the_weights_it_names(run, tmp_path, capsys):
    path = tmp_path / "x.torchscript"
    export("yolov2_160", NARROW, "data.class_names=[cell]", f"init.from={run}", *SCRIPT, "--output", path)
    assert f"weights of {run}" in capsys.readouterr().out
    images = some_images(2, SIZE)
    with torch.no_grad():
        assert_close(open_exported(path)(images).offsets, network_of(run)(images).offsets)


def test_a_run_without_a_checkpoint(elsewhere, capsys):
    """The models are listed for what is not there at all."""
    (elsewhere / "killed").mkdir()
    message = refusal(capsys, "killed")
    assert "killed: neither best.pt nor last.pt in this folder; did the training reach its first" in message
    assert "nor is it a model" not in message
    assert "nor is it a model: classifier, " in refusal(capsys, "kiled")


def test_an_exported_file_is_no_run(run, elsewhere, capsys):
    export(run, *SCRIPT, "--output", "x.torchscript")
    message = refusal(capsys, "x.torchscript", *SCRIPT)
    assert message.startswith(
        "error: x.torchscript: this is an exported file; name the run or the checkpoint"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_no_room_on_the_disk(run, kind, tmp_path, capsys):
    """The file that was there before is still there, and no draft."""
    path = tmp_path / f"x{KINDS[kind]}"
    path.write_text("before")
    with file_size_limit(FILE_LIMIT):
        message = refusal(capsys, run, "--to", kind, "--output", path)
    assert f"error: {path}: cannot be written (File too large); name another file with --output" in message
    assert [file.read_text() for file in tmp_path.iterdir()] == ["before"]
    if kind == "torchscript":
        export(run, "--to", kind, "--output", path)
        assert [file.name for file in tmp_path.iterdir()] == [path.name]
        assert path.stat().st_size > FILE_LIMIT


def test_a_place_that_cannot_be_written(run, elsewhere, monkeypatch, capsys):
    (elsewhere / "notes").write_text("notes")
    message = refusal(capsys, run, *SCRIPT, "--output", "notes/x.torchscript")
    assert "error: notes/x.torchscript: cannot be written (" in message
    assert (elsewhere / "notes").read_text() == "notes"

    def refused(*args, **kwargs):
        raise PermissionError(13, "Permission denied", "draft")

    monkeypatch.setattr(tempfile, "mkdtemp", refused)
    message = refusal(capsys, run, *SCRIPT, "--output", "x.torchscript")
    assert "error: x.torchscript: cannot be written (Permission denied); name another file" in message


def test_int8_reads_its_data_first(run, elsewhere, monkeypatch, capsys):
    """A class that the data have and the network has not: before the network is traced."""
    monkeypatch.setenv("DETECTORS_CACHE", str(elsewhere / "cache"))
    monkeypatch.delattr("torch.onnx.export")
    shapes = write_run(
        elsewhere / "run", "model=yolov2_160", NARROW, "data.shapes.train=2", "data.shapes.val=2"
    )
    assert "objects of unknown classes: " in refusal(capsys, shapes, "--quantize", "int8")
    assert "--split: invalid choice: 'tset'" in refusal(capsys, run, "--quantize", "int8", "--split", "tset")
    assert [path.name for path in shapes.iterdir()] == ["best.pt"]


def test_averaged_weights_and_half_precision(tmp_path):
    """The file has the averages, in float32."""
    folder = write_run(tmp_path / "run", "model=yolov2_160", NARROW, "trainer.precision=bfloat16")
    stored = load_checkpoint(folder / "best.pt")
    averages = {
        name: value * 0.5 if value.is_floating_point() else value for name, value in stored.model.items()
    }
    save_checkpoint(replace(stored, ema=averages))
    export(folder, *SCRIPT)
    images = some_images(2, SIZE)
    network = network_of(folder)
    with torch.no_grad():
        expected = network(images).offsets
        network.load_state_dict(stored.model)
        assert (network(images).offsets - expected).abs().max() > 0.01
    assert_close(open_exported(folder / "best.torchscript")(images).offsets, expected)


def test_numbers_that_are_all_near_zero():
    """1e-4 is absolute below 1: such an output passes whatever the file computes, so that is said."""
    comparison = FileComparison(
        [OutputDifference(1, "offsets", 1e-6, 0.5), OutputDifference(1, "class_logits", 1e-9, 2e-9)], None, 0
    )
    assert comparison.problem() is None
    first, second, note = comparison.lines()
    assert first.endswith("1.0e-06 (numbers up to 0.5)") and second.endswith("1.0e-09 (numbers up to 2e-09)")
    assert note.startswith("class_logits: all numbers are below 0.0001, so the comparison cannot tell them")


@pytest.mark.parametrize("kind", KINDS)
def test_one_detection_and_none(run, kind, tmp_path):
    """torch.export's assumption about nms, that it keeps two boxes or more, must not be in the file."""
    detector = network_of(run)
    images = some_images(4, SIZE)
    with torch.no_grad():
        everything = detector.postprocess(detector(images), detector.grid(SIZE))
    best, second = everything.scores.topk(2)
    path = tmp_path / f"x{KINDS[kind]}"
    threshold = float(best[:2].mean())
    export(run, "--to", kind, "--output", path, "--with-boxes", "--score-threshold", threshold)
    file = open_exported(path)
    found = file(images)
    assert_close(found.scores, best[:1])
    assert_close(found.boxes, everything.boxes[second[:1]], rtol=1e-4, atol=1e-3)
    without = torch.arange(4) != found.image
    assert file(images[without]).boxes.shape == (0, 4)
