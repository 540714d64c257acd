"""detectors benchmark inference: both programs find the same boxes; operations are counted; rows and JSON."""

from __future__ import annotations

import json

import pytest
import torch
from torch.testing import assert_close

from detectors.commands.benchmark import command, inference_speed, step_speed
from detectors.commands.benchmark.inference_speed import own_postprocess, torchvision_postprocess
from detectors.commands.benchmark.loss_runs import MultiBoxInputs
from detectors.commands.benchmark.operation_count import operation_facts
from detectors.structures import HeadOutputs
from tests.commands.benchmark.test_step_speed import NARROW, TinyStepRun


@pytest.mark.parametrize("threshold", [0.01, 0.5])
def test_torchvision_finds_our_detections(threshold):
    """It clips boxes before the suppression and we do not, so all boxes lie inside."""
    detector = NARROW["ssd300"](num_classes=20).eval()
    detector.postprocess.score_threshold = threshold
    grid = detector.grid((300, 300))
    offsets, logits = (leaf.detach() for leaf in MultiBoxInputs(2, grid, 20).leaves)
    logits = 3 * logits - 30 * ((grid.boxes < 30) | (grid.boxes > 270)).any(-1)[:, None]
    logits[..., 0] = 0
    outputs = HeadOutputs(offsets / 4, logits)
    ours = own_postprocess(detector, outputs, 300)()
    theirs = torchvision_postprocess(detector, outputs, 300)()
    assert len(ours.scores) > 2 * 50
    assert torch.equal(ours.image, theirs.image)
    assert torch.equal(ours.labels, theirs.labels)
    assert_close(ours.scores, theirs.scores)
    assert_close(ours.boxes, theirs.boxes, atol=1e-3, rtol=0)


def test_operations_and_waits():
    x = torch.arange(4.0)

    def work():
        y = x + 1
        z = y[y > 2]  # the host must know its size
        return float(z.sum())  # and this number

    assert operation_facts(work) == {"operations": 5, "waits": 2}


def test_the_table_and_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(step_speed, "MODEL_BUILDERS", NARROW)
    for module in (step_speed, inference_speed):
        monkeypatch.setattr(module, "SIDES", {"ssd300": 300, "yolov2": 64})
    monkeypatch.setattr(step_speed, "TorchvisionStepRun", TinyStepRun)
    monkeypatch.setattr(step_speed, "optional_peer", lambda name: (None, "not installed"))
    file = tmp_path / "inference.json"
    command.main(["inference", "--batch", "1", "2", "--repeats", "1", "--json", str(file)])
    rows = {(row["what"], row["program"]): row for row in json.loads(file.read_text())["rows"]}
    assert rows["yolov2 forward, 2 images, float32", "lightnet"]["missing"] == "not installed"
    ours = rows["ssd300 post-processing, 2 images, untrained", "ours"]
    theirs = rows["ssd300 post-processing, 2 images, untrained", "torchvision"]
    assert ours["facts"]["detections"] == 2 * 200 and ours["facts"]["waits"] > 0
    assert theirs["facts"]["operations"] > 200
    assert ("yolov2 post-processing, 1 images, score > 0.5", "ours") in rows
    assert "operations" in capsys.readouterr().out
