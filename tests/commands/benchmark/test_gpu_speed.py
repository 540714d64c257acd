"""detectors benchmark gpu: its rows are those of docs/performance.md; every one is filled."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from detectors.commands.benchmark import (
    command,
    gpu_speed,
    loss_growth,
    step_speed,
)
from detectors.commands.benchmark.gpu_kernels import kernel_facts, save_trace, waits_for_device
from detectors.commands.benchmark.gpu_table import GPU_ROWS, Measured, gpu_markdown
from detectors.commands.benchmark.ratio_table import rows_of
from tests.commands.benchmark.test_step_speed import NARROW, TinyStepRun

PAGE = Path(__file__).parents[3] / "docs" / "performance.md"
NO_KERNELS = {"kernels": 4, "us": 12.5}


def made_up() -> Measured:
    """Steps of 64 images: SSD300 in 40 ms of 2 ms loss, compiled in 32; torchvision in 80; YOLOv2 in 20."""
    parts = {"forward": [0.018], "loss": [0.002], "backward": [0.02]}
    ssd = {"ours, channels_last": parts, "ours, compiled": {"": [0.032]}, "torchvision": {"": [0.08]}}
    yolo = {"ours, channels_last": {"forward": [0.0199], "loss": [0.0001]}}
    rows = rows_of("ssd300 step, 64 images, bfloat16", ssd)
    rows += rows_of("yolov2 step, 64 images, bfloat16", yolo)
    kernels = {"region": {"kernels": 3, "us": 18.0}, "multibox": {"kernels": 6, "us": 44.4}}
    return Measured(rows, kernels, {"ssd300": "", "yolov2": "loss"}, 64)


def test_the_rows():
    lines = gpu_markdown(made_up()).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    values = {what: value for what, _, value in cells[2 : 2 + len(GPU_ROWS)]}
    assert list(values.values()) == [
        "44.4 us",
        "6",
        "18.0 us",
        "3",
        "5.0%",
        "0.5%",
        "2,000",
        "2.50",
        "3,200",
        "loss",
    ]


def test_the_page_has_every_row():
    """With a measured value, or with "not measured"."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.read_text().splitlines()]
    rows = {cells[0]: cells[1:] for cells in lines if len(cells) > 2}
    for row in GPU_ROWS:
        assert rows[row.what][0] == row.goal
        assert rows[row.what][1]


def test_without_a_gpu(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SystemExit, match="2"):
        command.main(["gpu"])
    assert "PyTorch sees no GPU here" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        command.main(["gpu", "--device", "cpu"])
    assert "--device cpu: it measures a GPU" in capsys.readouterr().err


@pytest.mark.slow
def test_everything_is_measured(monkeypatch):
    """On a CPU, with narrow networks and without counting kernels: every row finds its comparison."""
    for module in (step_speed, gpu_speed):
        monkeypatch.setattr(module, "MODEL_BUILDERS", NARROW)
    monkeypatch.setattr(step_speed, "TorchvisionStepRun", TinyStepRun)
    monkeypatch.setattr(step_speed, "_compiled_runs", lambda model, batch, precision: {})
    monkeypatch.setattr(gpu_speed, "LOSS_BATCH", 2)
    monkeypatch.setattr(gpu_speed, "BOX_COUNTS", (1, 2))
    monkeypatch.setattr(loss_growth, "LARGE", {"batch": 1, "per_image": 2})
    monkeypatch.setattr(gpu_speed, "kernel_facts", lambda work: NO_KERNELS)
    monkeypatch.setattr(gpu_speed, "waits_for_device", lambda phases: "")
    args = argparse.Namespace(repeats=1, batch=1, trace=None)
    measured = gpu_speed.measure_gpu(args, torch.device("cpu"))
    lines = gpu_markdown(measured).splitlines()
    assert len(lines) > 2 + len(GPU_ROWS) + 40
    assert {row.what for row in measured.rows} >= {
        "region loss, 2 images, 80 classes, bfloat16",
        "multibox loss, 2 images, 81 outputs, float32",
        "ssd300 step, 1 images, bfloat16",
        "yolov2 forward, 8 images, float32",
    }


@pytest.mark.gpu
def test_kernels_waits_and_a_trace(tmp_path):
    x = torch.ones(1000, device="cuda")
    assert kernel_facts(lambda: x + 1)["kernels"] == 1
    assert kernel_facts(lambda: x.sin().cos())["us"] > 0
    assert waits_for_device({"a": lambda: x + 1, "b": lambda: x.sum().item()}) == "b"
    assert waits_for_device({"a": lambda: x + 1}) == ""
    save_trace({"a": lambda: x + 1}, tmp_path / "trace.json")
    assert (tmp_path / "trace.json").stat().st_size > 100


@pytest.mark.gpu
def test_one_call_fills_all_rows(capsys):
    command.main(["gpu", "--repeats", "2", "--batch", "4"])
    printed = capsys.readouterr().out
    for row in GPU_ROWS:
        assert f"| {row.what}" in printed
