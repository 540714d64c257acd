"""detectors benchmark evaluate: all programs measure the same made-up set and find the same numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from detectors.commands.benchmark import command, evaluate_speed
from detectors.commands.benchmark.evaluate_speed import faster_statistics
from detectors.commands.benchmark.made_up_evaluation import made_up_evaluation
from detectors.metrics.coco import evaluate_coco
from detectors.metrics.report import report


def test_the_made_up_set():
    """As large for its number of images as COCO val2017 and a detector's results; AP is neither 0 nor 1."""
    annotations, detections = made_up_evaluation(300)
    assert len(annotations.labels) == pytest.approx(300 * 7.36, rel=0.15)
    assert (np.bincount(detections.image.numpy()) == 100).all()
    assert (np.diff(detections.scores.numpy()) <= 0).sum() >= 300 * 99  # the best first within an image
    assert annotations.crowd.any()
    wh = detections.boxes[:, 2:] - detections.boxes[:, :2]
    assert (wh > 0).all()
    assert 0.05 < evaluate_coco(annotations, detections).stats["AP"] < 0.6


def test_the_table_and_the_file(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluate_speed, "optional_peer", lambda name: (None, "not installed"))
    file = tmp_path / "evaluate.json"
    command.main(["evaluate", "--images", "5", "--repeats", "2", "--json", str(file)])
    rows = {row["program"]: row for row in json.loads(file.read_text())["rows"]}
    assert list(rows) == ["ours", "ours, report", "pycocotools", "faster-coco-eval"]
    assert len(rows["ours"]["seconds"]) == 2
    assert rows["pycocotools"]["facts"]["differs by"] < 1e-9
    assert rows["ours, report"]["facts"]["differs by"] == 0
    assert rows["faster-coco-eval"]["missing"] == "not installed"
    assert "5 images" in capsys.readouterr().out


def test_one_report_is_timed(monkeypatch):
    """Not one for each of its numbers."""
    calls = []
    monkeypatch.setattr(evaluate_speed, "report", lambda *data: calls.append(1) or report(*data))
    evaluate_speed.report_statistics(*made_up_evaluation(5))
    assert calls == [1]


def test_faster_coco_eval_finds_our_numbers():
    faster = pytest.importorskip("faster_coco_eval")
    data = made_up_evaluation(20)
    ours = list(evaluate_coco(*data).stats.values())
    np.testing.assert_allclose(faster_statistics(faster, *data), ours, rtol=0, atol=1e-9)
