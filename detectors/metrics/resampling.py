"""Average precision of many resampled data sets at once: what intervals and p-values are made of.

Matching stays within an image, so a resampled data set needs no new matching: each image has a weight, the
number of times that it was drawn, and AP follows from weighted counts. A weight of 1 everywhere gives the AP
of the data set itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from detectors.annotations import Annotations
from detectors.metrics.coco_arrays import RECALL_LEVELS, Judged
from detectors.metrics.voc import FALSE_POSITIVE, RECALL_POINTS, TRUE_POSITIVE, evaluate_voc
from detectors.structures import Detections

LARGEST_TABLE = 2**24  # numbers of one temporary: 64 MiB of float32
SLACK = 1e-4  # of a recall level, in hundredths: float32 must not miss a level that it reaches exactly


class Outcomes(NamedTuple):
    """What became of each detection, by class and descending score, at K IoU thresholds.

    A detection that is neither right nor wrong does not count.
    """

    image: np.ndarray  # (T,) int64: row of Annotations
    label: np.ndarray  # (T,) int64, ascending
    score: np.ndarray  # (T,) float64, descending within a class
    right: np.ndarray  # (T, K) bool
    wrong: np.ndarray  # (T, K) bool
    boxes: np.ndarray  # (N, C) int64: boxes that count, by image and class


def coco_outcomes(annotations: Annotations, judged: Judged) -> Outcomes:
    """By COCO's matching, at its ten thresholds, boxes of all sizes. judged: see judge_all_sizes."""
    found = judged.detections
    order = np.lexsort((-found.score, found.label))
    return Outcomes(
        found.image[order],
        found.label[order],
        found.score[order],
        judged.right[order, :, 0],
        judged.wrong[order, :, 0],
        _boxes(annotations),
    )


def voc_outcomes(annotations: Annotations, detections: Detections) -> Outcomes:
    """By VOC's matching, at IoU > .5. Arguments: see evaluate_voc."""
    codes = evaluate_voc(annotations, detections).codes
    scores = detections.scores.double().cpu().numpy()
    labels = detections.labels.cpu().numpy()
    order = np.lexsort((-scores, labels))
    return Outcomes(
        detections.image.cpu().numpy()[order],
        labels[order],
        scores[order],
        (codes == TRUE_POSITIVE)[order, None],
        (codes == FALSE_POSITIVE)[order, None],
        _boxes(annotations),
    )


def _boxes(annotations: Annotations) -> np.ndarray:
    counts = np.zeros((len(annotations), len(annotations.class_names)), np.int64)
    counting = ~(annotations.difficult | annotations.crowd)
    np.add.at(counts, (annotations.image[counting], annotations.labels[counting]), 1)
    return counts


def mixed(one: Outcomes, other: Outcomes) -> Outcomes:
    """Two detectors' outcomes on the same N images as one set on 2 N images, the other's after the one's.

    A weight of 0 or 1 for each then says whose detections an image has. The boxes count once.
    """
    joined = [np.concatenate(pair) for pair in zip(one[:-1], other[:-1], strict=True)]
    joined[0][len(one.image) :] += len(one.boxes)
    order = np.lexsort((-joined[2], joined[1]))
    return Outcomes(*(column[order] for column in joined), one.boxes)


def drawn_weights(images: int, draws: int, seed: int) -> np.ndarray:
    """(N, R) uint16: how often each of R resampled data sets, of N images each, holds each image."""
    rng = np.random.default_rng(seed)
    columns = [np.bincount(rng.integers(0, images, images), minlength=images) for _ in range(draws)]
    return np.stack(columns, axis=1).astype(np.uint16)


def weighted_boxes(outcomes: Outcomes, weights: np.ndarray) -> np.ndarray:
    """(C, R) boxes of each class that count. weights: (N, R)."""
    return outcomes.boxes.T.astype(np.float64) @ weights.astype(np.float64)


def weighted_ap(
    outcomes: Outcomes, weights: np.ndarray, boxes: np.ndarray, interpolation: str = "coco"
) -> np.ndarray:
    """AP of R weighted data sets: (K, C, R) float32; NaN where a class has no boxes.

    weights: (N, R) unsigned integers, for the images that outcomes.image counts. boxes: (C, R), see
    weighted_boxes. interpolation: "coco" (101 recall levels), "voc07" (11) or "voc10" (area).
    """
    classes, draws = boxes.shape
    ap = np.full((outcomes.right.shape[1], classes, draws), np.nan, np.float32)
    ends = np.searchsorted(outcomes.label, np.arange(classes + 1))
    for label in range(classes):
        rows = _up_to_last_hit(outcomes.right, slice(ends[label], ends[label + 1]))
        for columns in _column_blocks(rows.stop - rows.start, draws):
            drawn = weights[:, columns].astype(np.float32)
            counts = boxes[label, columns].astype(np.float32)
            values = _class_ap(outcomes, rows, drawn, counts, interpolation)
            ap[:, label, columns] = np.where(counts > 0, values, np.nan)
    return ap


def _up_to_last_hit(right: np.ndarray, rows: slice) -> slice:
    """Detections below the last right one change no AP."""
    hits = np.flatnonzero(right[rows].any(1))
    return slice(rows.start, rows.start + (hits[-1] + 1 if len(hits) else 0))


def _column_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of the columns that keep a temporary of `rows` rows within LARGEST_TABLE."""
    width = max(1, LARGEST_TABLE // max(rows, 1))
    yield from (slice(start, min(start + width, columns)) for start in range(0, columns, width))


def _class_ap(
    outcomes: Outcomes, rows: slice, drawn: np.ndarray, boxes: np.ndarray, interpolation: str
) -> np.ndarray:
    """(K, R) AP of one class. drawn: (N, R); boxes: (R,), where 0 gives a meaningless AP."""
    image = outcomes.image[rows]
    right = outcomes.right[rows]
    ignored = ~(right | outcomes.wrong[rows])
    seen = _running(drawn[image])  # (D, R)
    ap = np.zeros((right.shape[1], drawn.shape[1]), np.float32)
    for threshold in range(right.shape[1]):
        hits = np.flatnonzero(right[:, threshold])
        if not len(hits):
            continue
        found = _running(drawn[image[hits]])  # (H, R)
        counted = seen[hits]
        if (out := np.flatnonzero(ignored[:, threshold])).size:
            skipped = _running(drawn[image[out]])
            before = np.searchsorted(out, hits)
            counted[before > 0] -= skipped[before[before > 0] - 1]
        precision = np.divide(found, np.maximum(counted, 1, out=counted), out=counted)
        for below, above in pairwise(precision[::-1]):
            np.maximum(above, below, out=above)  # the best precision at this recall or a higher one
        ap[threshold] = _summed(precision, found, np.maximum(boxes, 1), interpolation)
    return ap


def _running(rows: np.ndarray) -> np.ndarray:
    """(D, R) running sums down the rows, in place. Row by row: numpy's cumsum takes twice as long."""
    for above, below in pairwise(rows):
        below += above
    return rows


def _summed(precision: np.ndarray, found: np.ndarray, boxes: np.ndarray, interpolation: str) -> np.ndarray:
    """(H, R) falling precision at rising numbers of found boxes, (R,) boxes -> (R,) AP."""
    if interpolation == "voc10":
        return _area(precision, found / boxes)
    # How many recall levels, that of recall 0 among them, each detection has reached.
    if interpolation == "voc07":
        levels = len(RECALL_POINTS)
        reached = np.searchsorted(RECALL_POINTS, found.astype(np.float64) / boxes, side="right")
    else:
        levels = len(RECALL_LEVELS)
        reached = np.floor(found * ((levels - 1) / boxes) + SLACK) + 1
    return _area(precision, reached.astype(np.float32, copy=False)) / levels


def _area(heights: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """(H, R) heights of columns and where each one ends -> (R,) their area. Changes `ends`."""
    ends[1:] -= ends[:-1].copy()
    return np.einsum("hr,hr->r", heights, ends)


def precision_curve(outcomes: Outcomes, threshold: int = 0) -> np.ndarray:
    """(101,) the best precision at each of COCO's recall levels or above, the mean over classes with boxes.

    threshold: place of the IoU threshold; 0 is COCO's .5. NaN without boxes.
    """
    boxes = outcomes.boxes.sum(0)
    curves = []
    for label in np.flatnonzero(boxes):
        rows = slice(*np.searchsorted(outcomes.label, (label, label + 1)))
        right = outcomes.right[rows, threshold]
        counted = right | outcomes.wrong[rows, threshold]
        found = np.cumsum(right)
        precision = found / np.maximum(np.cumsum(counted), 1)
        best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
        curves.append(best[np.searchsorted(found / boxes[label], RECALL_LEVELS)])
    return np.mean(curves, axis=0) if curves else np.full(len(RECALL_LEVELS), np.nan)
