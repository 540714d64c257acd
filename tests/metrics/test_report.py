"""The report holds the evaluators' numbers, and None where they have none."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from detectors.annotations import Annotations
from detectors.metrics.coco import evaluate_coco
from detectors.metrics.report import report
from detectors.metrics.voc import evaluate_voc
from detectors.structures import Detections


@pytest.fixture
def annotations() -> Annotations:
    """Two images and three classes; the last class has no box."""
    boxes = np.array([[10.0, 10, 50, 50], [20, 20, 80, 90], [5, 5, 30, 30]])
    flags = np.zeros(3, bool)
    return Annotations(
        class_names=("cat", "dog", "none"),
        image_ids=("a", "b"),
        paths=("a.jpg", "b.jpg"),
        sizes=np.full((2, 2), 100),
        offsets=np.array([0, 2, 3]),
        boxes_original=boxes,
        labels=np.array([0, 1, 0]),
        difficult=flags,
        crowd=flags,
        areas=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
        category_ids=(1, 2, 3),
    )


def test_each_number_is_the_evaluators(annotations):
    detections = Detections(
        torch.tensor([0, 0, 1]),
        torch.tensor([[10.0, 10, 50, 52], [0, 0, 9, 9], [5, 5, 30, 28]]),
        torch.tensor([0.9, 0.8, 0.3]),
        torch.tensor([0, 1, 0]),
    )
    result = report(annotations, detections)
    voc = evaluate_voc(annotations, detections)
    coco = evaluate_coco(annotations, detections)
    assert result.scalars["AP"] == coco.stats["AP"]
    assert result.scalars["AP50_voc07"] == voc.map07
    assert result.scalars["AP50_voc10"] == voc.map10 == 0.5
    assert result.scalars["AP_large"] is None
    assert result.per_class["cat"] == {
        "AP": coco.ap[0],
        "AP50": 1.0,
        "AP50_voc07": 1.0,
        "AP50_voc10": 1.0,
        "truths": 2,
    }
    assert result.per_class["none"]["AP50_voc10"] is None
    assert (result.images, result.detections) == (2, 3)
    assert json.loads(json.dumps(result.as_dict()))["per_class"]["none"]["truths"] == 0
    first_words = [line.split()[0] for line in result.table().splitlines()[:5]]
    assert first_words == ["class", "cat", "dog", "none", "mean"]


def test_without_detections_every_class_with_boxes_has_zero(annotations):
    result = report(annotations, Detections.concatenate([]))
    assert result.scalars["AP"] == result.scalars["AP50_voc10"] == 0
