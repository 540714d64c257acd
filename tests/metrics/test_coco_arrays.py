"""COCO's tables from flat arrays, against pycocotools bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from detectors.annotations import Annotations
from detectors.data.checks import to_offsets
from detectors.metrics.coco import evaluate_coco
from detectors.metrics.coco_reference import evaluate_with_pycocotools
from detectors.structures import Detections


def random_case(seed: int, *, images: int = 7, classes: int = 4) -> tuple[Annotations, Detections]:
    """Whole-numbered boxes and few different scores, so that IoUs, areas and scores are often equal."""
    rng = np.random.default_rng(seed)
    count = rng.integers(0, 8, images)
    total = int(count.sum())

    def boxes(number: int, image: np.ndarray) -> np.ndarray:
        corner = rng.integers(0, 4, (number, 2)) * 16 + image[:, None] % 2
        return np.concatenate([corner, corner + rng.choice([8, 16, 32, 48, 96, 128], (number, 2))], axis=1)

    gt_image = np.repeat(np.arange(images), count)
    gt_boxes = boxes(total, gt_image).astype(np.float64)
    areas = (gt_boxes[:, 2:] - gt_boxes[:, :2]).prod(1)
    annotations = Annotations(
        class_names=tuple("abcdefgh"[:classes]),
        image_ids=[int(number) for number in rng.permutation(1000)[:images]],
        paths=[f"{number}.jpg" for number in range(images)],
        sizes=np.full((images, 2), 200),
        offsets=to_offsets(count),
        boxes_original=gt_boxes,
        labels=rng.integers(0, classes - 1, total),  # the last class has no box
        difficult=rng.random(total) < 0.15,
        crowd=rng.random(total) < 0.15,
        areas=np.where(rng.random(total) < 0.5, areas, areas / 2),
        category_ids=tuple(int(number) for number in rng.permutation(90)[:classes]),
    )
    number = int(rng.integers(0, 260))
    image = rng.integers(0, images, number)
    near = rng.random(number) < 0.5
    found = boxes(number, image)
    if total:
        found = np.where(
            near[:, None], gt_boxes[rng.integers(0, total, number)] + rng.integers(-4, 5, (number, 4)), found
        )
    detections = Detections(
        torch.from_numpy(image),
        torch.from_numpy(found.astype(np.float32)),
        torch.from_numpy(rng.integers(1, 9, number) / 8).float(),
        torch.from_numpy(rng.integers(0, classes, number)),
    )
    return annotations, detections


def assert_same(annotations: Annotations, detections: Detections) -> None:
    ours = evaluate_coco(annotations, detections)
    theirs = evaluate_with_pycocotools(annotations, detections)
    assert ours.stats == theirs.stats
    for name in ("ap", "ap50", "ap75", "ap_table", "ar_table"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)


@pytest.mark.parametrize("seed", range(200))
def test_random_cases_equal_pycocotools(seed):
    assert_same(*random_case(seed))


def test_more_than_100_detections_of_one_image_and_class():
    annotations, detections = random_case(1, images=1, classes=2)
    many = Detections.concatenate([detections] * 4)
    assert np.bincount(many.labels).min() > 100
    assert_same(annotations, many)


def test_nothing_to_compare():
    annotations, detections = random_case(3)
    nothing = Detections.concatenate([])
    assert_same(annotations, nothing)
    empty = Annotations.without_images(annotations.class_names)
    assert set(evaluate_coco(empty, nothing).stats.values()) == {-1.0}
    assert len(detections.scores)
