"""detectors benchmark step: the programs' steps are their own training steps; rows and JSON."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from torch.testing import assert_close

from detectors.commands.benchmark import command, step_speed
from detectors.commands.benchmark.floor_rates import PRODUCT_SIDE, seconds_of_flops
from detectors.commands.benchmark.step_runs import (
    LightnetStepRun,
    OwnStepRun,
    StepRun,
    TorchvisionStepRun,
    made_up_images,
)
from detectors.models.ssd import ssd300
from detectors.models.yolov2 import yolov2
from detectors.training.detection import TrainStep

NARROW = {"ssd300": partial(ssd300, width=0.125), "yolov2": partial(yolov2, width=0.125)}


class TinyStepRun(StepRun):
    """Stands in for another program, which always has its full width."""

    def __init__(self, batch, precision):
        super().__init__(torch.nn.Linear(2, 2), precision, batch.images.device)

    def forward(self):
        self.output = self.module(torch.ones(2))

    def loss(self):
        self.value = self.output.sum()


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setattr(step_speed, "MODEL_BUILDERS", NARROW)
    monkeypatch.setattr(step_speed, "SIDES", {"ssd300": 300, "yolov2": 64})
    monkeypatch.setattr(step_speed, "TorchvisionStepRun", TinyStepRun)
    monkeypatch.setattr(step_speed, "optional_peer", lambda name: (None, "not installed"))


@pytest.mark.usefixtures("narrow")
def test_the_table_and_the_file(tmp_path, capsys):
    file = tmp_path / "step.json"
    command.main(["step", "--batch", "1", "--repeats", "2", "--json", str(file)])
    rows = {(row["what"], row["program"]): row for row in json.loads(file.read_text())["rows"]}
    ssd, yolo = "ssd300 step, 1 images, float32", "yolov2 step, 1 images, float32"
    assert {program for what, program in rows if what == ssd} == {
        "ours, contiguous",
        "ours, channels_last",
        "torchvision",
        "floor",
    }
    ours = rows[ssd, "ours, contiguous"]
    assert set(ours["shares"]) == {"forward", "loss", "backward", "optimiser"}
    assert ours["facts"]["images/s"] == pytest.approx(2 / sum(ours["seconds"]))
    expected = 3 * NARROW["ssd300"](num_classes=20).flops((300, 300)) / 1e9
    assert rows[ssd, "floor"]["facts"]["GFLOP"] == pytest.approx(expected)
    assert rows[yolo, "lightnet"]["missing"] == "not installed"
    assert "backward" in capsys.readouterr().out


@pytest.mark.usefixtures("narrow")
def test_untrained_networks_are_the_same_in_each_run():
    first, second = (step_speed.untrained("yolov2") for _ in range(2))
    for left, right in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(left, right)


def test_a_floor_is_flops_over_the_measured_rate():
    """The product of two n x n matrices has 2 n^3 FLOPs."""
    flops = 2 * PRODUCT_SIDE["cpu"] ** 3
    assert seconds_of_flops(3 * flops, [2.0, 4.0], torch.device("cpu")) == [6.0, 12.0]


def test_our_step_is_that_of_training():
    """Loss and gradients are those of TrainStep, in both memory formats."""
    batch = made_up_images(2, 300)
    for name in ("contiguous", "channels_last"):
        torch.manual_seed(0)
        run = OwnStepRun(NARROW["ssd300"](num_classes=20), batch, name, "float32")
        run.forward()
        run.loss()
        run.backward()
        gradient = next(run.module.parameters()).grad.clone()
        run.optimise()
        terms, *_ = TrainStep(run.detector, "float32")(batch.images, batch.targets, run.grid)
        sum(terms.values()).backward()
        assert_close(run.value, sum(terms.values()))
        assert_close(next(run.module.parameters()).grad, gradient)


def test_torchvisions_step_is_its_own():
    """The parts add up to its forward() in training."""
    run = TorchvisionStepRun(made_up_images(1, 300), "float32")
    with torch.no_grad():
        run.forward()
        run.loss()
        terms = run.module(run.images, run.targets)
    assert_close(run.value, sum(terms.values()))


def test_lightnets_network_is_as_large_as_ours():
    lightnet = pytest.importorskip("lightnet")
    batch = made_up_images(1, 64)
    run = LightnetStepRun(lightnet, batch, "float32")
    assert sum(p.numel() for p in run.module.parameters()) == yolov2(num_classes=20).parameter_count
    run.forward()
    run.loss()
    run.backward()
    assert run.raw.shape == (1, 125, 2, 2) and run.value.isfinite()


def test_weights_stay_as_they_are():
    run = OwnStepRun(NARROW["yolov2"](num_classes=20), made_up_images(1, 64), "contiguous", "float32")
    before = [p.detach().clone() for p in run.module.parameters()]
    for work in (*run.phases.values(), *run.phases.values()):
        work()
    for weights, old in zip(run.module.parameters(), before, strict=True):
        assert torch.equal(weights, old)


@pytest.mark.slow
def test_a_compiled_step(monkeypatch, tmp_path):
    monkeypatch.setattr(step_speed, "MODEL_BUILDERS", NARROW)
    monkeypatch.setattr(step_speed, "SIDES", {"yolov2": 64})
    file = tmp_path / "step.json"
    options = ["--model", "yolov2", "--batch", "2", "--repeats", "1", "--compile", "--json", str(file)]
    command.main(["step", *options])
    assert "ours, compiled" in [row["program"] for row in json.loads(file.read_text())["rows"]]
