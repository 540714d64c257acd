"""docs/adding-a-detector.md: its file and its yaml, taken from the page, with no shared file changed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from torch.testing import assert_close
from torchvision.ops import box_iou, sigmoid_focal_loss

from detectors.commands import train as script
from detectors.commands.cluster.command import main as cluster
from detectors.commands.predict.predictor import load
from detectors.config.build import TRUSTED
from detectors.config.check import ConfigError, check
from detectors.config.composing import prepared
from detectors.config.schema import CONF
from detectors.structures import BACKGROUND, IGNORED
from detectors.training import engine
from detectors.training.checkpoint import load_checkpoint
from tests.oracles import pad_targets
from tests.training.test_engine import cache, one_thread  # noqa: F401 - fixtures

PROJECT = Path(__file__).resolve().parents[1]
PAGE = (PROJECT / "docs/adding-a-detector.md").read_text()
BUILDERS = "builders=[retina.retinanet,retina.FocalLoss]"
SMALL = (
    "model=retina",
    "data.shapes.train=8",
    "data.shapes.val=4",
    "trainer.steps=3",
    "schedule.warmup_steps=0",
    "trainer.batch_size=4",
    "trainer.device=cpu",
)


def block(language: str) -> str:
    (text,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The user's folder."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "model").mkdir()
    (folder / "retina.py").write_text(block("python"))
    (folder / "model/retina.yaml").write_text(block("yaml"))
    return folder


@pytest.fixture
def retina(folder, monkeypatch):
    """The module; builders are trusted for this test alone."""
    monkeypatch.syspath_prepend(folder)
    yield import_module("retina")
    TRUSTED.clear()


def composed(folder: Path, *overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [*prepared(overrides, "train"), f"hydra.searchpath=[file://{folder}]"])


def test_it_trains_evaluates_and_predicts(folder, retina, cache, tmp_path):  # noqa: F811
    config = composed(folder, *SMALL, BUILDERS, f"paths.cache={cache}")
    with pytest.raises(ConfigError, match="_target_='retina.retinanet': only builders of this package"):
        check(config)
    TRUSTED.update({"retina.retinanet", "retina.FocalLoss"})
    run = script.build_run(check(config), tmp_path, None)
    evaluation = engine.train(run)
    run.tracker.close(finished=True)
    assert 0 <= evaluation.scalars["AP"] <= 1
    assert load_checkpoint(tmp_path / "last.pt").step == 3
    Image.new("RGB", (200, 100)).save(tmp_path / "a.png")
    prediction = load(tmp_path, device="cpu").predict(tmp_path / "a.png")
    assert prediction is not None
    names = {layer.name: layer.shared for layer in run.task.module.output_layers()}
    assert names == {"head.offsets": None, "head.class_logits": 0}


def test_the_focal_loss_equals_torchvisions(retina):
    torch.manual_seed(0)
    logits = torch.randn(3, 5, 4) * 5
    truth = (torch.rand(3, 5, 4) > 0.5).float()
    for alpha, gamma in ((0.25, 2.0), (0.6, 0.5)):
        expected = sigmoid_focal_loss(logits, truth, alpha=alpha, gamma=gamma)
        assert_close(retina.focal(logits, truth, alpha=alpha, gamma=gamma), expected)


def test_thresholds_and_the_loss_over_what_is_not_ignored(retina):
    """Against torchvision's IoU and a loop over the anchors."""
    torch.manual_seed(0)
    detector = retina.retinanet(num_classes=3, width=0.05)
    targets = pad_targets([[[10.0, 12, 50, 50], [60, 60, 140, 130]], []])
    grid = detector.grid((160, 160))
    outputs = detector(torch.randint(0, 256, (2, 3, 160, 160), dtype=torch.uint8))
    encoded = detector.encoder(targets, grid, outputs)
    assert (encoded.matched[1] == BACKGROUND).all()
    iou = box_iou(grid.boxes, targets.boxes[0])
    kinds = set()
    for anchor, row in enumerate(iou):
        best = row.max().item()
        expected = int(row.argmax()) if best >= 0.5 else IGNORED if best >= 0.4 else BACKGROUND
        assert encoded.matched[0, anchor] == expected
        kinds.add(min(expected, 0))
    assert kinds == {0, BACKGROUND, IGNORED}
    truth = torch.zeros(2, grid.num_anchors, 3)
    for image, anchor in encoded.positive.nonzero().tolist():
        truth[image, anchor, targets.labels[image, encoded.matched[image, anchor]]] = 1
    used = encoded.matched != IGNORED
    terms = detector.loss(outputs, encoded, grid)
    expected = sigmoid_focal_loss(outputs.class_logits[used], truth[used], reduction="sum")
    assert_close(terms["class"], expected / encoded.positive.sum())
    sum(terms.values()).backward()
    assert all(parameter.grad is not None for parameter in detector.parameters())


def test_cluster_refuses_anchors_that_it_does_not_know(folder, retina, monkeypatch, capsys):
    monkeypatch.setattr("detectors.commands.cluster.command.composed", lambda words: _checked(folder, words))
    with pytest.raises(SystemExit):
        cluster(["data.shapes.train=8", "data.shapes.val=4"])
    assert "model=retina: its anchors are RetinaAnchors; cluster proposes" in capsys.readouterr().err


def _checked(folder: Path, words: list[str]):
    TRUSTED.update({"retina.retinanet", "retina.FocalLoss"})
    return composed(folder, "model=retina", *words)


@pytest.mark.slow
def test_the_commands_of_the_page(folder, tmp_path):
    Image.new("RGB", (200, 100)).save(folder / "image.jpg")
    commands = re.findall(r"^(?:python|detectors) .*retina.*$", PAGE, re.MULTILINE)
    assert len(commands) == 3
    environment = os.environ | {"DETECTORS_CACHE": str(tmp_path), "PYTHONPATH": str(PROJECT)}
    for command in commands:
        name, *words = command.split()
        start = [str(PROJECT / words.pop(0))] if name == "python" else ["-m", "detectors"]
        extra = SMALL[1:] if "--config-dir" in words else ()
        words = [sys.executable, *start, *words, *extra]
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (folder / "runs/retina/best.pt").exists() and (folder / "runs/retina/evaluation.json").exists()
