"""Slow: every yaml of conf/model, some of torchvision's backbones, trained networks and int8, by the command.

Each export compares the file with the network and fails above 1e-4.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from detectors.config.schema import CONF
from tests.commands.export.networks import CLASSES, export, write_run

MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
CLASSIFIERS = {name for name in MODELS if "classifier" in name} | {"first_network"}
PROJECT = Path(__file__).resolve().parents[3]
CASES = [(name, boxes) for name in MODELS for boxes in (False, True) if not boxes or name not in CLASSIFIERS]
NARROW_ONE = "model.width=0.25"


def smaller(model: str) -> list[str]:
    """Widths and sizes below the papers', where the builder allows it; classifiers need labels."""
    if model in ("ssd160", "yolov2_160"):
        return []
    if model == "first_network":
        return ["data=mnist"]
    if model in ("classifier", "torchvision_classifier"):
        return ["data=mnist", "--size", "96", "96"]
    if model in CLASSIFIERS:
        return ["data=mnist", "--size", "96", "96", NARROW_ONE]
    return [NARROW_ONE, *(["--size", "96", "128"] if model.startswith("yolo") else [])]


SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2", "torchscript": ".torchscript"}
FEW_SHAPES = ("data.shapes.train=400", "data.shapes.val=100")  # 45 s of one core with 300 steps and int8
BACKBONES = ("resnet18", "mobilenet_v3_small", "efficientnet_b0")


def exported(capsys, target: Path, model: str | Path, *settings: str) -> str:
    export(model, *settings, "--output", target)
    assert target.exists()
    return capsys.readouterr().out


def trained(run: Path, model: str, *settings: str, steps: int) -> Path:
    """A run on shapes, one thread."""
    fixed = [f"trainer.steps={steps}", f"trainer.eval_every={steps}", "trainer.threads=1", "data.workers=0"]
    words = [f"model={model}", f"hydra.run.dir={run}", *fixed, *settings]
    subprocess.run([sys.executable, PROJECT / "train.py", *words], check=True, capture_output=True)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("kind", SUFFIXES)
@pytest.mark.parametrize(("model", "boxes"), CASES)
def test_every_model(model, kind, boxes, tmp_path, capsys):
    out = exported(
        capsys,
        tmp_path / f"x{SUFFIXES[kind]}",
        model,
        *smaller(model),
        "--to",
        kind,
        *["--with-boxes"] * boxes,
    )
    assert len(re.findall(r"^batch [13]: ", out, re.MULTILINE)) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "torch_export"])
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("model", ["yolov2", "ssd300"])
def test_other_backbones(model, backbone, kind, tmp_path, capsys):
    """Head outputs. Without settled batch norms efficientnet_b0's logits are below 1e-8 for all images."""
    size = "input.size=[96,128]" if model == "yolov2" else "input.size=[300,300]"
    run = write_run(
        tmp_path / "run", f"model={model}", f"model.backbone={backbone}", size, classes=CLASSES, settled=True
    )
    out = exported(capsys, tmp_path / f"x{SUFFIXES[kind]}", run, "--to", kind)
    largest = re.findall(r"^batch [13]: class_logits .* \(numbers up to (\S+)\)", out, re.MULTILINE)
    assert len(largest) == 2 and min(map(float, largest)) > 0.5


@pytest.mark.slow
def test_a_trained_mobilenet_with_boxes(tmp_path, capsys):
    """Without training all its scores are equal within rounding, and --with-boxes refuses it."""
    settings = ("model.backbone=mobilenet_v3_small", "schedule.warmup_steps=5", *FEW_SHAPES)
    run = trained(tmp_path / "run", "yolov2_160", *settings, steps=50)
    for kind in ("onnx", "torch_export"):
        place = tmp_path / f"x{SUFFIXES[kind]}"
        out = exported(capsys, place, run, "--to", kind, "--with-boxes")
        detections, alone = re.search(
            r"^detections: (\d+), without a counterpart: (\d+)$", out, re.MULTILINE
        ).groups()
        assert int(detections) > 100 and int(alone) <= 0.01 * int(detections)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["yolov2_160", "ssd160"])
def test_int8_keeps_the_ap_of_shapes(model, tmp_path, capsys):
    """A short training, so that there is an AP to lose; docs/export.md has those of `make demo`."""
    run = trained(tmp_path / "run", model, *FEW_SHAPES, steps=300)
    export(run, "--with-boxes", "--quantize", "int8", "--calibration-images", "40")
    out = capsys.readouterr().out
    float_ap, int_ap = (
        float(re.search(rf"^{kind} +AP ([\d.]+),", out, re.MULTILINE)[1]) for kind in ("float32", "int8")
    )
    assert float_ap > 0.2
    assert abs(float_ap - int_ap) < 0.02
