"""COCO's matching and its precision and recall tables, for all images and classes at once.

pycocotools loops over images, classes, sizes, thresholds, detections and boxes. Here, one loop takes the
best detection of every image and class, then the second best, and so on: whether a box is still free depends
on the detections before it in its own image and class only. Results equal pycocotools' COCOeval
(tests/metrics/test_coco_arrays.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_LEVELS = np.linspace(0.0, 1.0, 101)
AREA_RANGES = np.array([[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]])  # all, small, medium, large
DETECTION_LIMITS = (1, 10, 100)  # per image and class
TIE = 1 - 1e-10  # COCOeval lowers a threshold of 1 to this


class CocoTruths(NamedTuple):
    """Ground truth of many images."""

    image: np.ndarray  # (G,) int64, 0..N-1; equal scores count in this order
    label: np.ndarray  # (G,) int64, 0..C-1
    xywh: np.ndarray  # (G, 4) float64
    area: np.ndarray  # (G,) float64, which decides the size range
    crowd: np.ndarray  # (G,) bool: takes any number of detections, by intersection / detection
    ignored: np.ndarray  # (G,) bool: neither found nor missed; crowds are


class CocoDetections(NamedTuple):
    """Detections of many images."""

    image: np.ndarray  # (T,) int64, 0..N-1
    label: np.ndarray  # (T,) int64, 0..C-1
    xywh: np.ndarray  # (T, 4) float64
    score: np.ndarray  # (T,) float64


class Tables(NamedTuple):
    """-1 where a class has no box of a size."""

    precision: np.ndarray  # (10 IoU thresholds, 101 recalls, C, 4 sizes), with 100 detections
    recall: np.ndarray  # (10 IoU thresholds, C, 4 sizes, 3 limits on detections)


class Judged(NamedTuple):
    """Detections by class, image and descending score, at most 100 of each class and image, and what became
    of each at ten IoU thresholds and S size ranges. Neither right nor wrong: it does not count.
    """

    detections: CocoDetections
    rank: np.ndarray  # (T,) int64: 0, 1, ... within its class and image
    right: np.ndarray  # (T, 10, S) bool
    wrong: np.ndarray  # (T, 10, S) bool
    counts: np.ndarray  # (C, S) int64: boxes that count
    found: np.ndarray  # (G, 10, S) bool: boxes, in the order given, that a detection has taken


def judge(
    truths: CocoTruths,
    detections: CocoDetections,
    *,
    classes: int,
    ranges: np.ndarray = AREA_RANGES,
) -> Judged:
    """COCOeval's matching. ranges: (S, 2) of the area."""
    by_class = np.lexsort((truths.image, truths.label))
    truths = CocoTruths(*_rows(truths, by_class))
    detections, rank = _best_of_each_group(detections)
    ignored = _outside(truths.area, ranges) | (truths.crowd | truths.ignored)[:, None]  # (G, S)
    matched, absorbed, taken = _match(truths, detections, ignored)
    area = detections.xywh[:, 2] * detections.xywh[:, 3]
    absorbed |= ~matched & _outside(area, ranges)[:, None]  # a detection of another size is not wrong
    counts = [np.bincount(truths.label[~ignored[:, size]], minlength=classes) for size in range(len(ranges))]
    found = np.empty_like(taken)
    found[by_class] = taken
    return Judged(
        detections, rank, matched & ~absorbed, ~matched & ~absorbed, np.stack(counts, axis=1), found
    )


def coco_tables(truths: CocoTruths, detections: CocoDetections, *, classes: int) -> Tables:
    """COCOeval's `precision` (for 100 detections) and `recall`."""
    judged = judge(truths, detections, classes=classes)
    return _accumulate(judged.detections, judged.rank, judged.right, judged.wrong, judged.counts)


def _rows(columns: Iterable[np.ndarray], rows: np.ndarray) -> Iterator[np.ndarray]:
    return (column[rows] for column in columns)


def _outside(area: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """(T, S) bool: which size ranges a box is not in. Both ends belong to a range."""
    return (area[:, None] < ranges[:, 0]) | (area[:, None] > ranges[:, 1])


def _starts(*keys: np.ndarray) -> np.ndarray:
    """(T,) bool: the first row of each run of equal keys."""
    first = np.ones(len(keys[0]), dtype=bool)
    first[1:] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    return first


def _rank(first: np.ndarray) -> np.ndarray:
    """(T,) int64: 0, 1, ... within each run. first: (T,) bool, where a run begins."""
    rows = np.arange(len(first))
    return rows - np.maximum.accumulate(np.where(first, rows, 0))


def _best_of_each_group(detections: CocoDetections) -> tuple[CocoDetections, np.ndarray]:
    """Sorted by class, image and descending score, at most 100 of a group; and each one's rank there."""
    order = np.lexsort((-detections.score, detections.image, detections.label))
    ordered = CocoDetections(*_rows(detections, order))
    rank = _rank(_starts(ordered.label, ordered.image))
    keep = rank < DETECTION_LIMITS[-1]
    return CocoDetections(*_rows(ordered, keep)), rank[keep]


class _Pairs(NamedTuple):
    """Detections and boxes of one image and class whose IoU reaches the lowest threshold."""

    detection: np.ndarray  # (P,) ascending
    truth: np.ndarray  # (P,)
    iou: np.ndarray  # (P,)


def _pairs(truths: CocoTruths, detections: CocoDetections) -> _Pairs:
    images = 1 + max(truths.image.max(initial=0), detections.image.max(initial=0))
    truth_group = truths.label * images + truths.image
    group = detections.label * images + detections.image
    first = np.searchsorted(truth_group, group, "left")
    count = np.searchsorted(truth_group, group, "right") - first
    detection = np.repeat(np.arange(len(group)), count)
    truth = np.repeat(first, count) + _rank(_starts(detection))
    iou = _iou(detections.xywh[detection], truths.xywh[truth], truths.crowd[truth])
    near = iou >= IOU_THRESHOLDS[0]
    return _Pairs(detection[near], truth[near], iou[near])


def _iou(a: np.ndarray, b: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """(P,) as pycocotools computes it from (P, 4) xywh; over a's own area where b is a crowd region."""
    sides = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    meet = (sides > 0).all(1)
    intersection = np.where(meet, sides[:, 0] * sides[:, 1], 0.0)
    area = a[:, 2] * a[:, 3]
    union = np.where(crowd, area, area + b[:, 2] * b[:, 3] - intersection)
    return np.divide(intersection, union, out=np.zeros_like(union), where=meet)


def _match(
    truths: CocoTruths, detections: CocoDetections, ignored: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each detection, threshold and size: whether it has a box, and whether that box is ignored; and
    which boxes are taken.

    A detection takes the free box of the highest IoU, the last of equals; an ignored one only if there is no
    other. ignored: (G, S). Returns two (T, 10, S) bool and one (G, 10, S).
    """
    shape = (len(detections.image), len(IOU_THRESHOLDS), ignored.shape[1])
    matched = np.zeros(shape, dtype=bool)
    absorbed = np.zeros(shape, dtype=bool)
    taken = np.zeros((len(truths.image), *shape[1:]), dtype=bool)
    lowest = np.minimum(IOU_THRESHOLDS, TIE)[:, None]
    for detection, truth, iou in _rounds(detections, _pairs(truths, detections)):
        free = ~taken[truth] | truths.crowd[truth, None, None]
        possible = free & (iou[:, None, None] >= lowest)  # (P, 10, S)
        # IoUs are 1 at most, so 2 more puts every box that counts above every ignored one.
        preference = np.where(possible, iou[:, None, None] + 2.0 * ~ignored[truth, None, :], -1.0)
        first = _starts(detection)
        begin = np.flatnonzero(first)
        best = np.maximum.reduceat(preference, begin)[np.cumsum(first) - 1]
        rows = np.arange(len(truth))[:, None, None]
        choice = np.maximum.reduceat(np.where(possible & (preference == best), rows, -1), begin)  # (D, 10, S)
        has = choice >= 0
        chosen = truth[choice]
        threshold, size = (np.broadcast_to(index, has.shape) for index in np.indices(has.shape[1:]))
        matched[detection[begin]] = has
        absorbed[detection[begin]] = has & ignored[chosen, size]
        taken[chosen[has], threshold[has], size[has]] = True
    return matched, absorbed, taken


def _rounds(detections: CocoDetections, pairs: _Pairs) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The pairs of the best detection of each image and class, then those of the second best, and so on.

    Detections without a pair take no turn.
    """
    if not len(pairs.detection):
        return
    first = _starts(pairs.detection)
    taking_part = pairs.detection[first]
    turn = _rank(_starts(detections.label[taking_part], detections.image[taking_part]))
    turn_of_pair = turn[np.cumsum(first) - 1]
    order = np.argsort(turn_of_pair, kind="stable")
    ends = np.cumsum(np.bincount(turn_of_pair))
    for begin, end in zip(np.append(0, ends[:-1]), ends, strict=True):
        rows = order[begin:end]
        yield pairs.detection[rows], pairs.truth[rows], pairs.iou[rows]


def _accumulate(
    detections: CocoDetections, rank: np.ndarray, right: np.ndarray, wrong: np.ndarray, counts: np.ndarray
) -> Tables:
    """right, wrong: (T, 10, 4) bool; counts: (C, 4) boxes."""
    classes, sizes = counts.shape
    thresholds = len(IOU_THRESHOLDS)
    precision = np.full((thresholds, len(RECALL_LEVELS), classes, sizes), -1.0)
    recall = np.full((thresholds, classes, sizes, len(DETECTION_LIMITS)), -1.0)
    ends = np.searchsorted(detections.label, np.arange(classes + 1))
    for label in range(classes):
        rows = slice(ends[label], ends[label + 1])
        order = np.argsort(-detections.score[rows], kind="stable")
        found = np.cumsum(right[rows][order], axis=0, dtype=np.float64)  # (D, 10, 4)
        false = np.cumsum(wrong[rows][order], axis=0, dtype=np.float64)
        for size in np.flatnonzero(counts[label]):
            for limit, most in enumerate(DETECTION_LIMITS):
                hits = right[rows, :, size][rank[rows] < most].sum(0)
                recall[:, label, size, limit] = hits / counts[label, size]
            precision[:, :, label, size] = _interpolated(
                found[..., size], false[..., size], counts[label, size]
            )
    return Tables(precision, recall)


def _interpolated(found: np.ndarray, false: np.ndarray, count: int) -> np.ndarray:
    """(10, 101): the best precision at each recall level or above; 0 where no recall reaches it.

    found, false: (D, 10) running counts by descending score.
    """
    values = np.zeros((found.shape[1], len(RECALL_LEVELS)))
    precision = found / (false + found + np.spacing(1))
    precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    for threshold in range(found.shape[1]):
        at = np.searchsorted(found[:, threshold] / count, RECALL_LEVELS)
        reached = at < len(found)
        values[threshold, reached] = precision[at[reached], threshold]
    return values
