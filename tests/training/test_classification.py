"""The second task: it learns, resumes bit for bit, and its numbers are those of naive counts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from detectors.commands import train as script
from detectors.config.check import ConfigError, check
from detectors.config.composing import composed
from detectors.training import checkpoint as ckpt
from detectors.training import engine
from detectors.training.run import Run
from tests.data.labelled import write_idx
from tests.training.test_engine import interrupt_after, one_thread  # noqa: F401 - a fixture

SMALL = (
    "trainer.steps=6",
    "trainer.batch_size=4",
    "trainer.log_every=3",
    "trainer.eval_every=3",
    "trainer.progress=false",
    "trainer.device=cpu",
    "trainer.memory_format=contiguous",
    "schedule.warmup_steps=2",
)
DIGITS = ("model=first_network", "data=mnist", "augment=digits")
DARKNET = (
    "model=darknet19_classifier",
    "model.width=0.05",
    "input.size=[32,32]",
    "data=mnist",
    "augment=darknet_classifier",
    "augment.min_crop=28",
    "augment.max_crop=40",
    "trainer.accumulate=2",
    "trainer.batch_size=2",
    "trainer.ema_decay=0.9",
)
CROPS = (
    "model=darknet19_classifier",
    "model.width=0.05",
    "input.size=[32,32]",
    "data.box_crops=0.1",
    "data.shapes.train=6",
    "data.shapes.val=3",
    "data.shapes.size=64",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return write_idx(tmp_path_factory.mktemp("digits"))


def settings(place: Path, overrides: tuple[str, ...]) -> list[str]:
    root = [f"data.root={place}"] if "data=mnist" in overrides else []
    return [*overrides[:1], *SMALL, *overrides[1:], *root, f"paths.cache={place / 'cache'}"]


def make_classifier_run(
    folder: Path, place: Path, *overrides: str, stored: ckpt.Checkpoint | None = None
) -> Run:
    folder.mkdir(exist_ok=True)
    return script.build_run(check(composed(settings(place, overrides))), folder, stored)


@pytest.mark.parametrize("overrides", [DIGITS, DARKNET, CROPS], ids=["digits", "darknet19", "crops"])
def test_a_resumed_classifier_equals_an_uninterrupted_one(overrides, place, tmp_path):
    """Bit for bit, stopped within an epoch; BatchNorm, average and optimiser state included."""
    whole = make_classifier_run(tmp_path / "whole", place, *overrides)
    engine.train(whole)
    first = make_classifier_run(tmp_path / "parts", place, *overrides)
    interrupt_after(first, 4 * first.config.trainer.accumulate)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 4"):
        engine.train(first)
    stored = ckpt.load_checkpoint(tmp_path / "parts" / ckpt.LAST)
    second = make_classifier_run(tmp_path / "parts", place, *overrides, stored=stored)
    engine.train(second)
    for run, other in ((second, whole), (second.ema, whole.ema)):
        if run is not None:
            module = getattr(run, "task", run)
            twin = getattr(other, "task", other)
            assert_close(module.module.state_dict(), twin.module.state_dict(), rtol=0, atol=0)
    states = [run.optimizer.state_dict()["state"] for run in (second, whole)]
    assert_close(*states, rtol=0, atol=0)
    assert second.progress.best == whole.progress.best


def test_it_learns_and_its_numbers_are_counts(place, tmp_path):
    overrides = ("trainer.steps=60", "trainer.batch_size=20", "optimizer.rate=0.01", "augment=none")
    run = make_classifier_run(tmp_path, place, *DIGITS, *overrides, "trainer.eval_every=0")
    report = engine.train(run)
    assert report.scalars["accuracy"] == 1.0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["task"], summary["validation"]["accuracy"], summary["best"]["accuracy"]) == (
        "classification",
        1.0,
        1.0,
    )
    images = np.fromfile(place / "MNIST/raw/t10k-images-idx3-ubyte", np.uint8)[16:].reshape(-1, 1, 28, 28)
    pixels = torch.from_numpy(images).expand(-1, 3, -1, -1)
    with torch.no_grad():
        logits = run.task.evaluated(pixels)
    assert logits.argmax(1).tolist() == [row % 10 for row in range(8)]


def test_each_validation_image_counts_once_in_the_loss(place, tmp_path):
    """Though the last batch is smaller. Untrained, because a loss of nearly 0 would hide the weights."""
    run = make_classifier_run(tmp_path, place, *DIGITS, "trainer.eval_batch_size=5")
    run.task.evaluate()
    images = np.fromfile(place / "MNIST/raw/t10k-images-idx3-ubyte", np.uint8)[16:].reshape(-1, 1, 28, 28)
    with torch.no_grad():
        logits = run.task.evaluated(torch.from_numpy(images).expand(-1, 3, -1, -1))
    losses = torch.nn.functional.cross_entropy(logits, torch.arange(8) % 10, reduction="none")
    mean_of_batches = (losses[:5].mean() + losses[5:].mean()) / 2
    assert abs(mean_of_batches - losses.mean()) > 1e-3
    assert_close(torch.tensor(run.task.curves()["val/loss/total"]), losses.mean(), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=first_network"], r"data=shapes: its images have boxes.*data\.box_crops=0\.1"),
        (["model=yolov2", "data=mnist"], r"data=mnist: its images have one label each and no boxes"),
        (["model=yolov2", "data.box_crops=0"], r"data\.box_crops=0.*but yolov2 is a detector"),
        (["model=yolov2", "input.resize=crop"], r"input\.resize=crop: would cut off boxes"),
        ([*DIGITS, "mixing.mosaic=0.5"], r"mixing\.mosaic=0\.5: mixes images with boxes"),
        ([*DIGITS, "data.box_crops=0.1"], r"data\.box_crops=0\.1: data=mnist has no boxes"),
        ([*DIGITS, "data.val_share=0.1"], r"set data\.val=\['train'\]"),
        ([*DIGITS, "input.size=[20,20]"], r"input\.size=\[20, 20\]: first_network cannot take it"),
        ([*DIGITS, "loss=region"], r"first_network is trained with CrossEntropyLoss; set loss=cross_entropy"),
        ([*DIGITS, "task=detection"], "is a detector"),
    ],
)
def test_what_does_not_go_together_is_one_clear_error(overrides, message):
    with pytest.raises(ConfigError, match=message):
        check(composed(overrides))
