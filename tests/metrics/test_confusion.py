"""The confusion matrix: by hand, against a naive loop, and its sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.annotations import Annotations
from detectors.commands.verify.evaluators import voc_records
from detectors.metrics.confusion import confusion_matrix
from detectors.structures import Detections
from tests.metrics.test_voc import crowded_case
from tests.oracles import iou as iou_of

CAT, DOG, NONE = range(3)


def annotated(boxes, labels, difficult=()) -> Annotations:
    """One image."""
    none = Annotations.without_images(("cat", "dog"))
    flags = np.zeros(len(boxes), bool)
    flags[list(difficult)] = True
    return replace(
        none,
        image_ids=("a",),
        paths=("a.jpg",),
        sizes=np.array([[100, 100]]),
        offsets=np.array([0, len(boxes)]),
        boxes_original=np.array(boxes, float).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        difficult=flags,
        crowd=np.zeros(len(boxes), bool),
        areas=np.ones(len(boxes)),
    )


def detected(*found) -> Detections:
    """Of one image: (box, score, label)."""
    boxes, scores, labels = zip(*found, strict=True)
    return Detections(
        torch.zeros(len(boxes), dtype=torch.int64),
        torch.tensor(boxes, dtype=torch.float32),
        torch.tensor(scores),
        torch.tensor(labels),
    )


LEFT, RIGHT, FAR = [0, 0, 10, 10], [50, 0, 60, 10], [0, 50, 10, 60]


def test_by_hand():
    """A cat found as a dog, a dog found twice, a dog missed, a cat below the score, a dog out of nowhere."""
    annotations = annotated([LEFT, RIGHT, FAR, [80, 80, 90, 90]], [CAT, DOG, DOG, CAT])
    detections = detected(
        (LEFT, 0.9, DOG),
        (RIGHT, 0.8, DOG),
        (RIGHT, 0.7, DOG),
        ([80, 80, 90, 90], 0.2, CAT),
        ([30, 30, 35, 35], 0.5, DOG),
    )
    matrix = confusion_matrix(annotations, detections, score=0.3)
    assert matrix.tolist() == [[0, 1, 1], [0, 1, 1], [0, 2, 0]]


def test_the_more_confident_detection_takes_the_box_even_in_the_wrong_class():
    annotations = annotated([LEFT], [CAT])
    matrix = confusion_matrix(annotations, detected((LEFT, 0.5, CAT), (LEFT, 0.9, DOG)), score=0.3)
    assert matrix.tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 0]]


def test_difficult_boxes_are_neither_missed_nor_wrongly_found():
    annotations = annotated([LEFT, RIGHT], [CAT, DOG], difficult=[0])
    matrix = confusion_matrix(annotations, detected((LEFT, 0.9, CAT), (LEFT, 0.8, DOG)), score=0.3)
    assert matrix.tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_a_box_that_counts_goes_before_a_difficult_one_that_fits_better():
    annotations = annotated([LEFT, [0, 0, 10, 8]], [CAT, DOG], difficult=[0])
    matrix = confusion_matrix(annotations, detected((LEFT, 0.9, DOG)), score=0.3)
    assert matrix.tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_the_limits():
    """The score itself still counts; an IoU of exactly the limit does not."""
    annotations = annotated([[0, 0, 10, 10]], [CAT])
    half = detected(([0, 0, 10, 5], 0.5, CAT))
    assert confusion_matrix(annotations, half, score=0.5)[NONE, CAT] == 1
    assert confusion_matrix(annotations, half, score=0.51).sum() == 1
    assert confusion_matrix(annotations, half, score=0.5, iou=0.49)[CAT, CAT] == 1


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_naive_loop(seed):
    annotations, detections = voc_records(crowded_case(np.random.default_rng(seed)))
    score = 0.4
    matrix = confusion_matrix(annotations, detections, score=score)
    classes = len(annotations.class_names)
    expected = np.zeros((classes + 1, classes + 1), int)
    free = set(range(len(annotations.labels)))
    order = sorted(range(len(detections.scores)), key=lambda d: -detections.scores[d].item())
    kept = [d for d in order if detections.scores[d] >= score]
    for d in kept:
        near = [
            (not annotations.difficult[b], overlap, -b)
            for b in free
            if annotations.image[b] == detections.image[d]
            and (overlap := iou_of(detections.boxes[d].tolist(), annotations.boxes_original[b].tolist()))
            > 0.5
        ]
        label = detections.labels[d].item()
        if not near:
            expected[classes, label] += 1
            continue
        counts, _, box = max(near)
        if counts:
            expected[annotations.labels[-box], label] += 1
            free.remove(-box)
    for box in free:
        if not annotations.difficult[box]:
            expected[annotations.labels[box], classes] += 1
    np.testing.assert_array_equal(matrix, expected)
    boxes = np.bincount(annotations.labels[~annotations.difficult], minlength=classes)
    np.testing.assert_array_equal(matrix[:classes].sum(1), boxes)


def test_without_images_or_detections():
    none = Detections.concatenate([])
    assert confusion_matrix(Annotations.without_images(("cat", "dog")), none, score=0.3).sum() == 0
    matrix = confusion_matrix(annotated([LEFT, RIGHT], [CAT, CAT]), none, score=0.3)
    assert matrix.tolist() == [[0, 0, 2], [0, 0, 0], [0, 0, 0]]
