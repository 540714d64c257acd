"""Checks of boxes, against loops over all pairs and sides; and their time on a data set of COCO's size."""

from __future__ import annotations

import time

import numpy as np
import pytest

from detectors.annotations import Annotations
from detectors.data.problems import Problem
from detectors.data.suspicious_boxes import outside, overreach, remark, sides_at_input, suspicious, twins
from tests.commands.lint.sets import split_of

SIZE = (160, 160)


def iou(a: list[float], b: list[float]) -> float:
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    overlap = width * height
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


def clustered_boxes(rng: np.random.Generator, images: int) -> tuple[list[list[list[float]]], list[list[int]]]:
    """Boxes and labels of images with up to 30 boxes in clusters: many IoUs are close to the limit."""
    boxes = []
    labels = []
    for _ in range(images):
        centres = rng.uniform([-10, -10, 20, 20], [90, 90, 120, 120], (rng.integers(1, 4), 4))
        count = rng.integers(0, 30)
        image = rng.choice(centres, count)
        image += rng.normal(0, 1.0, (count, 4)) * rng.choice([0, 0.2, 1], (count, 1))
        image[:, 2:] = np.maximum(image[:, 2:], image[:, :2] + 0.5)
        boxes.append(image.tolist())
        labels.append(rng.integers(0, 2, count).tolist())
    return boxes, labels


@pytest.mark.parametrize("limit", [0.5, 0.8, 0.95])
def test_twins_equal_a_loop_over_all_pairs(limit):
    rng = np.random.default_rng(0)
    boxes, labels = clustered_boxes(rng, 60)
    crowd = (rng.uniform(size=sum(map(len, labels))) < 0.05).tolist()
    annotations = split_of(boxes, labels, crowd=crowd).annotations
    expected = []
    row = 0
    for image in boxes:
        for later in range(len(image)):
            for first in range(later):
                any_crowd = crowd[row + first] or crowd[row + later]
                if not any_crowd and iou(image[first], image[later]) > limit:
                    expected.append([row + first, row + later])
        row += len(image)
    assert len(expected) > 100
    assert twins(annotations, limit).tolist() == sorted(expected, key=lambda pair: pair[::-1])


def test_images_with_one_box_or_none_have_no_twins():
    assert twins(split_of([]).annotations).shape == (0, 2)
    assert twins(split_of([[], [[1, 1, 9, 9]], [[1, 1, 9, 9]], []]).annotations).shape == (0, 2)


def test_overreach_equals_a_loop():
    rng = np.random.default_rng(1)
    corners = rng.uniform(-40, 110, (400, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(1, 60, (400, 2))], 1)
    annotations = split_of(boxes.reshape(20, 20, 4).tolist()).annotations
    pixels = overreach(annotations)
    is_outside = outside(annotations)
    for row, (xmin, ymin, xmax, ymax) in enumerate(boxes.tolist()):
        inside = max(min(xmax, 80) - max(xmin, 0), 0) * max(min(ymax, 60) - max(ymin, 0), 0)
        assert is_outside[row] == (inside == 0)
        np.testing.assert_allclose(pixels[row], max(0, -xmin, -ymin, xmax - 80, ymax - 60))
    assert 100 < is_outside.sum() < 300


def test_a_box_that_only_touches_the_image_is_outside():
    annotations = split_of([[[-9, 0, 0, 9], [80, 0, 90, 9], [-9, 0, 0.1, 9]]]).annotations
    rows = suspicious(annotations, size=SIZE, resize="letterbox")
    assert rows["outside-image"].tolist() == [0, 1]


def test_half_a_pixel_outside_is_rounding():
    annotations = split_of([[[0, 0, 80.4, 60], [0, 0, 80.6, 60], [-1, 0, 30, 60]]]).annotations
    rows = suspicious(annotations, size=SIZE, resize="letterbox")
    assert rows["partly-outside"].tolist() == [1, 2]


def test_sides_at_the_input():
    annotations = split_of([[[0, 0, 40, 30]]], size=(300, 400)).annotations
    letterbox = sides_at_input(annotations, (160, 200), "letterbox")
    np.testing.assert_allclose(letterbox, [[20, 15]])  # times 1/2, the smaller of .5 and .533
    stretch = sides_at_input(annotations, (160, 200), "stretch")
    np.testing.assert_allclose(stretch, [[20, 16]])


def test_whether_a_box_is_tiny_depends_on_the_input():
    annotations = split_of([[[10, 10, 30, 10.6], [10, 30, 30, 50]]]).annotations
    rows = suspicious(annotations, size=(60, 80), resize="letterbox")
    assert rows["tiny-box"].tolist() == [0]
    assert suspicious(annotations, size=(120, 160), resize="letterbox") == {}


def test_the_remark_counts_problems_per_split():
    train = split_of([[[10, 10, 50, 50], [10, 10, 50, 50], [70, 10, 95, 50]]])
    problem = Problem("no-area", "/set/Annotations/train_0.xml", "object 9 dog [1, 1, 1, 1]")
    val = split_of([[[70, 10, 95, 50]]], name="val")
    splits = {"train": (train.annotations, [problem]), "val": (val.annotations, [])}
    assert remark(splits, size=SIZE, resize="letterbox") == (
        "data: left out boxes without area: 1 in train; "
        "boxes that reach out of their image: 1 in train, 1 in val; "
        "boxes that repeat another of the same class: 1 in train; detectors lint shows them"
    )
    faultless = {"train": (split_of([[[10, 10, 50, 50]]]).annotations, [])}
    assert remark(faultless, size=SIZE, resize="letterbox") is None


def test_a_data_set_of_cocos_size_takes_less_than_a_second():
    """118,287 images, 860,001 boxes. Processor time is measured, so other programs cannot fail the test."""
    rng = np.random.default_rng(2)
    counts = np.bincount(rng.integers(0, 118_287, 860_001), minlength=118_287)
    corners = rng.uniform(0, 500, (860_001, 2))
    annotations = Annotations(
        class_names=("cat", "dog"),
        image_ids=tuple(range(118_287)),
        paths=("/set/JPEGImages/a.jpg",) * 118_287,
        sizes=np.tile([480, 640], (118_287, 1)),
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        boxes_original=np.concatenate([corners, corners + rng.exponential(80, (860_001, 2)) + 1], 1),
        labels=rng.integers(0, 2, 860_001),
        difficult=np.zeros(860_001, bool),
        crowd=np.zeros(860_001, bool),
        areas=np.ones(860_001),
        category_ids=(1, 2),
    )
    started = time.process_time()
    assert "partly-outside" in suspicious(annotations, size=SIZE, resize="letterbox")
    assert time.process_time() - started < 2  # 0.5 measured
