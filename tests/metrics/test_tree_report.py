"""Hits at every level against a plain loop; classes without boxes; guesses of a classifier on a tree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from detectors.annotations import Annotations
from detectors.metrics.class_report import Guesses, class_report
from detectors.metrics.report import report
from detectors.metrics.tree_report import TaughtNodes, hits_by_level, most_specific
from detectors.structures import Detections
from detectors.wordtree.nodes import WordTree

# animal(0): cat(2): tabby(5), persian(6); dog(3)      thing(1): cup(4)
TREE = WordTree.of(("animal", "thing", "cat", "dog", "cup", "tabby", "persian"), (-1, -1, 0, 0, 1, 2, 2))
NAMES = TREE.names


def truths(
    image: list[int], boxes: list[list[float]], labels: list[int], images: int, **changes
) -> Annotations:
    counts = np.bincount(image, minlength=images)
    count = len(labels)
    parts = {
        "class_names": NAMES,
        "image_ids": [str(n) for n in range(images)],
        "paths": [f"/{n}.jpg" for n in range(images)],
        "sizes": np.full((images, 2), 100),
        "offsets": np.concatenate([[0], np.cumsum(counts)]),
        "boxes_original": np.array(boxes, float).reshape(-1, 4),
        "labels": np.array(labels, np.int64),
        "difficult": np.zeros(count, bool),
        "crowd": np.zeros(count, bool),
        "areas": np.full(count, 100.0),
        "category_ids": tuple(range(1, 8)),
    }
    return Annotations(**parts | changes)


def found(image, boxes, scores, labels) -> Detections:
    return Detections(
        torch.tensor(image), torch.tensor(boxes).float().reshape(-1, 4), torch.tensor(scores).float(),
        torch.tensor(labels),
    )  # fmt: skip


def iou(a, b) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def plain_hits(annotations: Annotations, detections: Detections) -> list[float]:
    """The rule as a loop over levels, boxes and detections."""
    shares = []
    for level in range(3):
        right = []
        for row, image in enumerate(annotations.image.tolist()):
            path = TREE.path(int(annotations.labels[row]))[::-1]
            if annotations.difficult[row] or annotations.crowd[row] or len(path) <= level:
                continue
            best, named = -1.0, None
            for place in range(len(detections.scores)):
                other = TREE.path(int(detections.labels[place]))[::-1]
                if int(detections.image[place]) != image or len(other) <= level:
                    continue
                near = iou(detections.boxes[place].tolist(), annotations.boxes_original[row]) > 0.5
                if near and float(detections.scores[place]) > best:
                    best, named = float(detections.scores[place]), other[level]
            right.append(named == path[level])
        if right:
            shares.append(float(np.mean(right)))
    return shares


@pytest.mark.parametrize("seed", range(3))
def test_hits_are_those_of_a_plain_loop(seed):
    random = np.random.default_rng(seed)
    images = 130  # more than are computed at once
    image = np.sort(random.integers(images, size=200))
    boxes = random.integers(0, 60, (200, 2)).repeat(2, 0).reshape(200, 4)[:, [0, 2, 1, 3]] + [0, 0, 30, 30]
    labels = random.integers(7, size=200)
    annotations = truths(
        image.tolist(), boxes.tolist(), labels.tolist(), images, difficult=random.random(200) < 0.1
    )
    rows = random.integers(200, size=400)
    scores = random.permutation(400) / 400
    shifted = boxes[rows] + np.tile(random.integers(-9, 10, (400, 2)), 2)
    named = np.where(random.random(400) < 0.6, labels[rows], random.integers(7, size=400))
    detections = found(image[rows], shifted, scores, named)
    assert hits_by_level(annotations, detections, TaughtNodes.of(TREE, None)) == pytest.approx(
        plain_hits(annotations, detections), abs=1e-12
    )


def test_average_precision_apart_for_classes_without_boxes():
    """A box of a tabby is one of its cat and its animal, too; of a label alone there is none."""
    box = [10.0, 10, 50, 50]
    training = truths([0, 1], [box, box], [5, 4], 4, image_labels=np.array([-1, -1, 3, 6]))
    tree = TaughtNodes.of(TREE, training)
    assert [tree.taught_by(node) for node in range(7)] == [
        "boxes", "boxes", "boxes", "labels", "boxes", "boxes", "labels",
    ]  # fmt: skip
    annotations = truths([0, 1, 2], [box] * 3, [5, 3, 6], 3)
    detections = found([0, 1, 2], [box, box, [60, 60, 90, 90]], [0.9, 0.8, 0.7], [5, 3, 6])
    result = report(annotations, detections, tree=tree)
    assert list(result.per_class) == ["dog", "tabby", "persian"]
    assert result.per_class["dog"]["taught_by"] == "labels"
    scalars = result.scalars
    numbers = [scalars[name] for name in ("AP_boxes", "AP_no_boxes", "AP50_no_boxes")]
    assert numbers == pytest.approx([1, 0.5, 0.5])
    assert [scalars[f"hits_level{level}"] for level in (1, 2, 3)] == pytest.approx([2 / 3, 2 / 3, 1 / 2])
    assert "labels" in result.table() and "taught by" in result.table()
    plain = report(annotations, detections)
    assert len(plain.per_class) == 7 and "AP_boxes" not in plain.scalars and "taught by" not in plain.table()
    unknown = report(annotations, detections, tree=TaughtNodes.of(TREE, None))
    assert "AP_boxes" not in unknown.scalars and "hits_level3" in unknown.scalars


def test_pictures_show_the_most_specific_class_of_a_box():
    a, b = [1.0, 1, 9, 9], [2.0, 2, 9, 9]
    every = found([0, 0, 0, 0, 1], [a, a, a, b, a], [0.9, 0.7, 0.8, 0.6, 0.5], [0, 5, 6, 0, 0])
    few = most_specific(every, TaughtNodes.of(TREE, None))
    assert_array_equal(few.labels.numpy(), [6, 0, 0])
    assert_array_equal(few.image.numpy(), [0, 0, 1])
    empty = Detections.concatenate([])
    assert most_specific(empty, TaughtNodes.of(TREE, None)) is empty


def test_a_guess_is_right_at_or_below_the_true_class():
    box = [0.0, 0, 100, 100]
    annotations = truths([0, 1, 2, 3], [box] * 4, [2, 5, 3, 4], 4)
    guesses = Guesses(
        np.array([0, 1, 2]), np.array([[6, 3], [6, 5], [4, 3]]), np.ones((3, 2), np.float32)
    )  # the fourth image could not be read
    result = class_report(annotations, guesses, TaughtNodes.of(TREE, None))
    assert result.scalars["accuracy"] == 0.25  # a persian is a cat, but no tabby
    assert result.scalars["accuracy_top5"] == 0.75
    hits = [result.scalars[f"hits_level{level}"] for level in (1, 2, 3)]
    assert hits == [0.5, 0.5, 0.0]
