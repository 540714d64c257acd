"""The report holds the evaluators' numbers, and None where they have none."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from detectors.annotations import Annotations
from detectors.metrics.coco import evaluate_coco
from detectors.metrics.report import report, truths_hash
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


def test_the_hash_is_that_of_the_truths_alone(annotations):
    """Folders and the order of images, boxes and classes do not change it; everything measured on does."""
    reordered = Annotations(
        class_names=("none", "dog", "cat"),
        image_ids=("b", "a"),
        paths=("/moved/b.jpg", "/moved/a.jpg"),
        sizes=annotations.sizes[::-1],
        offsets=np.array([0, 1, 3]),
        boxes_original=annotations.boxes_original[[2, 1, 0]],
        labels=np.array([2, 1, 2]),
        difficult=annotations.difficult,
        crowd=annotations.crowd,
        areas=annotations.areas[[2, 1, 0]],
        category_ids=(7, 8, 9),
    )
    assert truths_hash(reordered) == truths_hash(annotations)
    flag = np.array([False, True, False])
    changes = {
        "class_names": ("cat", "dog", "other"),
        "image_ids": ("a", "c"),
        "sizes": np.full((2, 2), 101),
        "offsets": np.array([0, 1, 3]),
        "boxes_original": annotations.boxes_original + np.array([0, 0, 0, 0.5]),
        "labels": np.array([0, 1, 1]),
        "difficult": flag,
        "crowd": flag,
        "areas": annotations.areas + 1,
    }
    hashes = {name: truths_hash(replace(annotations, **{name: value})) for name, value in changes.items()}
    assert len({*hashes.values(), truths_hash(annotations)}) == len(changes) + 1
    assert truths_hash(Annotations.without_images(("cat",))) == truths_hash(
        Annotations.without_images(["cat"])
    )
    assert report(annotations, Detections.concatenate([])).as_dict()["truths_hash"] == truths_hash(
        annotations
    )
