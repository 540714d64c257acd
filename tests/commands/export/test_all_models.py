"""Slow: every yaml of conf/model, some of torchvision's backbones, and int8, through the command itself.

Each export compares the file with the network and fails above 1e-4.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from detectors.config.schema import CONF
from tests.commands.export.networks import export

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
BACKBONES = ("resnet18", "mobilenet_v3_small", "efficientnet_b0")


def exported(capsys, target: Path, model: str, *settings: str) -> str:
    export(model, *settings, "--output", target)
    assert target.exists()
    return capsys.readouterr().out


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
    """Head outputs: an untrained mobilenet_v3_small has scores that are equal within rounding."""
    size = ["--size", "96", "128"] if model == "yolov2" else []
    place = tmp_path / f"x{SUFFIXES[kind]}"
    out = exported(capsys, place, model, f"model.backbone={backbone}", *size, "--to", kind)
    assert len(re.findall(r"^batch [13]: class_logits ", out, re.MULTILINE)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("model", ["yolov2_160", "ssd160"])
def test_int8_keeps_the_ap_of_shapes(model, tmp_path, capsys):
    """A short training, so that there is an AP to lose; docs/export.md has those of `make demo`."""
    run = tmp_path / "run"
    settings = ["trainer.steps=400", "trainer.eval_every=400", "trainer.threads=1", f"hydra.run.dir={run}"]
    command = [sys.executable, PROJECT / "train.py", f"model={model}", *settings]
    subprocess.run(command, check=True, capture_output=True)
    export(run, "--with-boxes", "--quantize", "int8")
    out = capsys.readouterr().out
    float_ap, int_ap = (
        float(re.search(rf"^{kind} +AP ([\d.]+),", out, re.MULTILINE)[1]) for kind in ("float32", "int8")
    )
    assert float_ap > 0.2
    assert abs(float_ap - int_ap) < 0.02
