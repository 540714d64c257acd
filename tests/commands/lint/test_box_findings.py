"""Boxes against loops over pairs and sides."""

import time

import numpy as np
import pytest

from detectors.commands.lint.box_findings import box_findings
from detectors.data import suspicious_boxes
from detectors.data.problems import Problem
from tests.commands.lint.sets import split_of

FRAME = {"size": (160, 160), "resize": "letterbox"}


def iou(a, b) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(width, 0) * max(height, 0)
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


def crowded(rng: np.random.Generator, images: int):
    """Images of up to 30 boxes in clusters, so that many pairs lie on either side of the limit."""
    made, labels = [], []
    for _ in range(images):
        centres = rng.uniform([-10, -10, 20, 20], [90, 90, 120, 120], (rng.integers(1, 4), 4))
        count = rng.integers(0, 30)
        made.append(
            rng.choice(centres, count) + rng.normal(0, 1.0, (count, 4)) * rng.choice([0, 0.2, 1], (count, 1))
        )
        made[-1][:, 2:] = np.maximum(made[-1][:, 2:], made[-1][:, :2] + 0.5)
        labels.append(rng.integers(0, 2, count).tolist())
    return [image.tolist() for image in made], labels


@pytest.mark.parametrize("limit", [0.5, 0.8, 0.95])
def test_twins_equal_a_loop_over_all_pairs(limit):
    rng = np.random.default_rng(0)
    made, labels = crowded(rng, 60)
    crowd = (rng.uniform(size=sum(map(len, labels))) < 0.05).tolist()
    annotations = split_of(made, labels, crowd=crowd).annotations
    expected, row = [], 0
    for image in made:
        for later in range(len(image)):
            for first in range(later):
                regions = crowd[row + first] or crowd[row + later]
                if not regions and iou(image[first], image[later]) > limit:
                    expected.append((row + first, row + later))
        row += len(image)
    assert len(expected) > 100
    assert suspicious_boxes.twins(annotations, limit).tolist() == sorted(
        map(list, expected), key=lambda pair: pair[::-1]
    )


def test_twins_in_images_of_one_box_or_none():
    assert suspicious_boxes.twins(split_of([]).annotations).shape == (0, 2)
    assert suspicious_boxes.twins(split_of([[], [[1, 1, 9, 9]], [[1, 1, 9, 9]], []]).annotations).shape == (
        0,
        2,
    )


def test_reach_equals_a_loop():
    rng = np.random.default_rng(1)
    corners = rng.uniform(-40, 110, (400, 2))
    made = np.concatenate([corners, corners + rng.uniform(1, 60, (400, 2))], 1)
    annotations = split_of(made.reshape(20, 20, 4).tolist()).annotations
    reach, outside = suspicious_boxes.overreach(annotations), suspicious_boxes.outside(annotations)
    for row, (x0, y0, x1, y1) in enumerate(made.tolist()):
        inside = max(min(x1, 80) - max(x0, 0), 0) * max(min(y1, 60) - max(y0, 0), 0)
        assert outside[row] == (inside == 0)
        np.testing.assert_allclose(reach[row], max(0, -x0, -y0, x1 - 80, y1 - 60))
    assert 100 < outside.sum() < 300


def test_a_box_that_only_touches_the_image_lies_outside():
    rows = suspicious_boxes.suspicious(
        split_of([[[-9, 0, 0, 9], [80, 0, 90, 9], [-9, 0, 0.1, 9]]]).annotations, **FRAME
    )
    assert rows["outside-image"].tolist() == [0, 1]


def test_rounding_is_no_reach():
    rows = suspicious_boxes.suspicious(
        split_of([[[0, 0, 80.4, 60], [0, 0, 80.6, 60], [-1, 0, 30, 60]]]).annotations, **FRAME
    )
    assert rows["partly-outside"].tolist() == [1, 2]


def test_sides_at_the_input():
    annotations = split_of([[[0, 0, 40, 30]]], size=(300, 400)).annotations
    np.testing.assert_allclose(
        suspicious_boxes.sides_at_input(annotations, (160, 200), "letterbox"), [[20, 15]]
    )  # by 1/2, the smaller of .5 and .533
    np.testing.assert_allclose(
        suspicious_boxes.sides_at_input(annotations, (160, 200), "stretch"), [[20, 16]]
    )


def test_tiny_depends_on_the_input():
    annotations = split_of([[[10, 10, 30, 10.6], [10, 30, 30, 50]]]).annotations
    assert suspicious_boxes.suspicious(annotations, size=(60, 80), resize="letterbox")[
        "tiny-box"
    ].tolist() == [0]
    assert suspicious_boxes.suspicious(annotations, size=(120, 160), resize="letterbox") == {}


def test_findings_say_where_and_how_much():
    """Coordinates as VOC's file has them, 1-based."""
    made = [[[10, 10, 50, 50], [10, 10, 50, 50], [10, 10, 50, 50.5], [70, 10, 95, 50], [90, 10, 95, 50]]]
    split = split_of(made, [[0, 0, 1, 1, 1]])
    found = {finding.problem.kind: str(finding) for finding in box_findings(split, **FRAME)}
    assert found == {
        "duplicate-box": "train: /set/Annotations/train_0.xml: cat [11, 11, 50, 50], and cat [11, 11, 50, 50]",
        "two-classes": "train: /set/Annotations/train_0.xml: dog [11, 11, 50, 50.5], and cat [11, 11, 50, 50]",
        "partly-outside": "train: /set/Annotations/train_0.xml: dog [71, 11, 95, 50], by 15 px out of 80 x 60",
        "outside-image": "train: /set/Annotations/train_0.xml: dog [91, 11, 95, 50], by 15 px out of 80 x 60",
    }


def test_three_copies_are_two_findings():
    found = box_findings(split_of([[[10, 10, 50, 50]] * 3]), **FRAME)
    assert [finding.problem.kind for finding in found] == ["duplicate-box"] * 2


def test_a_box_that_repeats_two_is_told_once():
    """As a repetition of the one of its class."""
    found = box_findings(split_of([[[10, 10, 50, 50]] * 3], [[0, 1, 1]]), **FRAME)
    assert [(finding.problem.kind, finding.problem.what) for finding in found] == [
        ("duplicate-box", "dog [11, 11, 50, 50], and dog [11, 11, 50, 50]"),
        ("two-classes", "dog [11, 11, 50, 50], and cat [11, 11, 50, 50]"),
    ]


def test_coco_findings_name_the_image():
    split = split_of([[[70, 10, 95, 50]]], instances="/set/train.json", paths=["/set/images/7.jpg"])
    (finding,) = box_findings(split, **FRAME)
    assert str(finding) == "train: /set/train.json: 7.jpg: cat [70, 10, 25, 40], by 15 px out of 80 x 60"
    assert finding.problem.image == "/set/images/7.jpg"
    assert finding.problem.box == (70, 10, 95, 50)


def test_remark_of_a_training():
    train = split_of([[[10, 10, 50, 50], [10, 10, 50, 50], [70, 10, 95, 50]]])
    problem = Problem("no-area", "/set/Annotations/train_0.xml", "object 9 dog [1, 1, 1, 1]")
    val = split_of([[[70, 10, 95, 50]]], name="val")
    splits = {"train": (train.annotations, [problem]), "val": (val.annotations, [])}
    assert suspicious_boxes.remark(splits, **FRAME) == (
        "data: left out boxes without area: 1 in train; boxes that reach out of their image: 1 in train, 1 in val; "
        "boxes that repeat another of the same class: 1 in train; detectors lint shows them"
    )
    assert (
        suspicious_boxes.remark({"train": (split_of([[[10, 10, 50, 50]]]).annotations, [])}, **FRAME) is None
    )


def test_a_set_as_large_as_cocos_takes_less_than_a_second():
    """118,287 images, 860,001 boxes. Processor time of this process: other programs must not fail this test."""
    rng = np.random.default_rng(2)
    counts = np.bincount(rng.integers(0, 118_287, 860_001), minlength=118_287)
    empty = split_of([[]]).annotations
    corners = rng.uniform(0, 500, (860_001, 2))
    flat = np.concatenate([corners, corners + rng.exponential(80, (860_001, 2)) + 1], 1)
    fields = {
        "image_ids": tuple(range(118_287)),
        "paths": ("/set/JPEGImages/a.jpg",) * 118_287,
        "sizes": np.tile([480, 640], (118_287, 1)),
        "offsets": np.concatenate([[0], np.cumsum(counts)]),
        "boxes_original": flat,
        "labels": rng.integers(0, 2, 860_001),
        "difficult": np.zeros(860_001, bool),
        "crowd": np.zeros(860_001, bool),
        "areas": np.ones(860_001),
    }
    annotations = type(empty)(class_names=empty.class_names, category_ids=empty.category_ids, **fields)
    started = time.process_time()
    assert "partly-outside" in suspicious_boxes.suspicious(annotations, **FRAME)
    assert time.process_time() - started < 2  # 0.5 measured
