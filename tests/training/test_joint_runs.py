"""Runs on boxes and labels mixed: they resume bit for bit in mid-epoch, and report what a tree adds."""

from __future__ import annotations

import json

import pytest
import torch
from torch.testing import assert_close

from detectors.commands import evaluate as evaluation
from detectors.config.check import check
from detectors.config.schema import EvaluateConfig
from detectors.training import checkpoint as ckpt
from detectors.training import engine
from detectors.training.detection import every_node_scored
from tests.test_configs import composed
from tests.training.test_engine import cache, interrupt_after, make_run, one_thread  # noqa: F401 - fixtures

SETS = [
    *(f"data.mix.{name}.shapes.{key}={value}" for name in ("boxes", "labels") for key, value in
      {"train": 6, "size": 64}.items()),
    "data.mix.all.shapes.val=4",
    "data.mix.all.shapes.size=64",
    "data.mix.labels.weight=2",
]  # fmt: skip
JOINT = ["data=shapes_joint", "loss=region_tree", *SETS]


def weights_of(run) -> dict[str, torch.Tensor]:
    return run.task.module.state_dict()


def test_a_resumed_run_equals_an_uninterrupted_one(cache, tmp_path):  # noqa: F811
    """Bit for bit, also with loading processes; stopped within an epoch: after 20 images, and it has 12."""
    workers = "data.workers=2"
    whole = make_run(tmp_path / "whole", cache, *JOINT)
    engine.train(whole)

    first = make_run(tmp_path / "parts", cache, *JOINT, workers)
    interrupt_after(first, 5)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 5"):
        engine.train(first)
    stored = ckpt.load_checkpoint(tmp_path / "parts" / ckpt.LAST)
    second = make_run(tmp_path / "parts", cache, *JOINT, workers, stored=stored)
    engine.train(second)

    assert_close(weights_of(second), weights_of(whole), rtol=0, atol=0)
    states = (run.optimizer.state_dict()["state"] for run in (second, whole))
    assert_close(*states, rtol=0, atol=0)
    assert second.progress.images_seen == whole.progress.images_seen == 24


def test_a_run_reports_classes_without_boxes_and_hits(cache, tmp_path, caplog):  # noqa: F811
    run = make_run(tmp_path / "run", cache, *JOINT, "trainer.steps=2", "trainer.eval_every=2")
    assert "12 training images with " in caplog.text and "6 of them with a label alone" in caplog.text
    result = engine.train(run)
    assert {"AP50_boxes", "AP50_no_boxes", "hits_level1", "hits_level2"} <= result.scalars.keys()
    tags = (tmp_path / "run/metrics.csv").read_text()
    assert "val/hits_level2" in tags and "val/AP50_no_boxes" in tags
    settings = check(
        composed(f"run={tmp_path}/run", "device=cpu", "progress=false", config_name="evaluate"),
        EvaluateConfig,
    )
    evaluation.evaluate(settings)
    (written,) = (tmp_path / "run").glob("evaluation*.json")
    content = json.loads(written.read_text())
    assert content["hits_level1"] == result.scalars["hits_level1"]
    assert content["AP_no_boxes"] == result.scalars["AP_no_boxes"]
    taught = {name: row["taught_by"] for name, row in content["per_class"].items()}
    assert set(taught.values()) == {"boxes", "labels"} and taught.get("ring", "boxes") == "boxes"


def test_evaluations_score_every_node_and_users_get_one_label(cache, tmp_path):  # noqa: F811
    run = make_run(tmp_path / "run", cache, *JOINT)
    detector = run.task.module.eval()
    detector.postprocess.score_threshold = 0.0
    images = torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8)
    grid = detector.grid((96, 96))
    with torch.no_grad():
        outputs = detector(images)
    one = detector.postprocess(outputs, grid)
    with every_node_scored(detector, torch.device("cpu")):
        every = detector.postprocess(outputs, grid)
    assert set(every.labels.tolist()) == set(range(8))
    assert len(one.labels) <= grid.num_anchors < len(every.labels)
    assert_close(detector.postprocess(outputs, grid).scores, one.scores, rtol=0, atol=0)


def test_a_flat_loss_refuses_labels_alone(cache, tmp_path):  # noqa: F811
    with pytest.raises(ValueError, match=r"6 of 12 training images have a label and no boxes.*region_tree"):
        make_run(tmp_path / "run", cache, "data=shapes_joint", *SETS)
    flat = ("data.train=[boxes]", "trainer.steps=2", "trainer.eval_every=0")
    run = make_run(tmp_path / "run", cache, "data=shapes_joint", *SETS, *flat)
    assert run.task.module.loss.tree is None
    assert "AP50_no_boxes" in engine.train(run).scalars
