"""Average precision of many resampled data sets at once: what intervals and p-values are made of.

Matching stays within an image, so a resampled data set needs no new matching: each image has a weight, the
number of times that it was drawn, and AP follows from weighted counts. A weight of 1 everywhere gives the AP
of the data set itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from detectors.annotations import Annotations
from detectors.metrics.coco_arrays import AREA_RANGES, RECALL_LEVELS, Judged
from detectors.metrics.voc import FALSE_POSITIVE, RECALL_POINTS, TRUE_POSITIVE, evaluate_voc
from detectors.structures import Detections

LARGEST_TABLE = 2**24  # numbers of one temporary: 64 MiB of float32
FEW_COLUMNS = 32  # of a table, from which on rows are worth adding as a whole
BLOCK_ROWS = 16  # rows
SLACK = 4e-7  # relative: float32 must not miss a recall level that it reaches exactly
NEARLY_NONE = 1e-30  # in place of no detections, whose precision is 0


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


def coco_outcomes(annotations: Annotations, judged: Judged) -> list[Outcomes]:
    """By COCO's matching, at its ten thresholds; of boxes of all sizes, small, medium and large ones.

    judged: see judge_by_size.
    """
    detections = judged.detections
    order = np.lexsort((-detections.score, detections.label))
    image, label, score = detections.image[order], detections.label[order], detections.score[order]
    return [
        Outcomes(
            image,
            label,
            score,
            judged.right[order, :, size],
            judged.wrong[order, :, size],
            _boxes(annotations, limits),
        )
        for size, limits in enumerate(AREA_RANGES)
    ]


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


def _boxes(annotations: Annotations, limits: Sequence[float] = (-np.inf, np.inf)) -> np.ndarray:
    """(N, C) boxes that count and whose area is within the limits, both included, as in COCO."""
    counts = np.zeros((len(annotations), len(annotations.class_names)), np.int64)
    low, high = limits
    counting = ~(annotations.difficult | annotations.crowd)
    counting &= (annotations.areas >= low) & (annotations.areas <= high)
    np.add.at(counts, (annotations.image[counting], annotations.labels[counting]), 1)
    return counts


def mixed(one: Outcomes, other: Outcomes) -> Outcomes:
    """Two detectors' outcomes on the same N images as one set on 2 N images, the other's after the one's.

    A weight of 0 or 1 for each then says whose detections an image has. The boxes count once.
    """
    image, label, score, right, wrong = (
        np.concatenate(pair) for pair in zip(one[:-1], other[:-1], strict=True)
    )
    image[len(one.image) :] += len(one.boxes)
    order = np.lexsort((-score, label))
    return Outcomes(image[order], label[order], score[order], right[order], wrong[order], one.boxes)


def drawn_weights(images: int, draws: int, seed: int) -> np.ndarray:
    """(N, R) uint16: how often each of R resampled data sets, of N images each, holds each image."""
    rng = np.random.default_rng(seed)
    columns = [np.bincount(rng.integers(0, images, images), minlength=images) for _ in range(draws)]
    return np.stack(columns, axis=1).astype(np.uint16)


def weighted_boxes(outcomes: Outcomes, weights: np.ndarray) -> np.ndarray:
    """(C, R) boxes of each class that count. weights: (N, R)."""
    return outcomes.boxes.T.astype(np.float64) @ weights.astype(np.float64)


def weighted_ap(
    outcomes: Outcomes, weights: np.ndarray, boxes: np.ndarray, *interpolations: str
) -> list[np.ndarray]:
    """AP of R weighted data sets, by each interpolation: (K, C, R) float32; NaN where a class has no boxes.

    weights: (N, R) unsigned integers, for the images that outcomes.image counts. boxes: (C, R), see
    weighted_boxes. interpolations: of "coco" (101 recall levels), "voc07" (11) and "voc10" (area).
    """
    classes, draws = boxes.shape
    ap = np.full((len(interpolations), outcomes.right.shape[1], classes, draws), np.nan, np.float32)
    ends = np.searchsorted(outcomes.label, np.arange(classes + 1))
    weights = weights.astype(np.float32)
    for label in range(classes):
        rows = _up_to_last_hit(outcomes.right, slice(ends[label], ends[label + 1]))
        for columns in _column_blocks(rows.stop - rows.start, draws):
            counts = boxes[label, columns].astype(np.float32)
            values = _class_ap(outcomes, rows, weights[:, columns], counts, interpolations)
            ap[:, :, label, columns] = np.where(counts > 0, values, np.nan)
    return list(ap)


def _up_to_last_hit(right: np.ndarray, rows: slice) -> slice:
    """Detections below the last right one change no AP."""
    hits = np.flatnonzero(right[rows].any(1))
    return slice(rows.start, rows.start + (hits[-1] + 1 if len(hits) else 0))


def _column_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of the columns that keep a temporary of `rows` rows within LARGEST_TABLE."""
    width = max(1, LARGEST_TABLE // max(rows, 1))
    yield from (slice(start, min(start + width, columns)) for start in range(0, columns, width))


def _class_ap(
    outcomes: Outcomes, rows: slice, drawn: np.ndarray, boxes: np.ndarray, interpolations: Sequence[str]
) -> np.ndarray:
    """(interpolations, K, R) AP of one class. drawn: (N, R); boxes: (R,), where 0 gives a meaningless AP."""
    right = outcomes.right[rows]
    counts = right | outcomes.wrong[rows]
    taking_part = counts.any(1)
    right, ignored = right[taking_part], ~counts[taking_part]
    image = outcomes.image[rows][taking_part]
    any_hit = np.flatnonzero(right.any(1))
    seen = np.maximum(_counted_up_to(any_hit, image, drawn), NEARLY_NONE)
    boxes = np.maximum(boxes, 1)
    ap = np.zeros((len(interpolations), right.shape[1], drawn.shape[1]), np.float32)
    for threshold in range(right.shape[1]):
        hits = np.flatnonzero(right[:, threshold])
        if not len(hits):
            continue
        found = _running(drawn[image[hits]])  # (H, R)
        counted = seen[np.searchsorted(any_hit, hits)]
        if (out := np.flatnonzero(ignored[:, threshold])).size and out[0] < hits[-1]:
            counted -= _counted_up_to(np.searchsorted(out, hits) - 1, image[out], drawn)
            np.maximum(counted, NEARLY_NONE, out=counted)
        precision = _running(np.divide(found, counted, out=counted)[::-1], np.maximum)[::-1]
        for number, interpolation in enumerate(interpolations):
            ap[number, threshold] = _summed(precision, found, boxes, interpolation)
    return ap


def _counted_up_to(ends: np.ndarray, image: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """(H, R) how often the detections 0 to `ends` count. ends: (H,) ascending, -1 for none; image: (D,) of
    each detection; drawn: (N, R).

    A product with a sparse matrix of what comes between two ends: a table of all detections would be large.
    """
    bounds = np.concatenate([[0], ends + 1])
    between = csr_array(
        (np.ones(bounds[-1], np.float32), image[: bounds[-1]], bounds), shape=(len(ends), len(drawn))
    )
    return _running(between @ drawn)


def _running(rows: np.ndarray, combine: np.ufunc = np.add) -> np.ndarray:
    """(D, R) running sums down the rows, in place; with np.maximum the largest so far.

    Of blocks of rows, side by side, and of what they carry over. numpy's accumulate goes down one column
    after the other, which takes several times as long.
    """
    if rows.shape[1] < FEW_COLUMNS or len(rows) < 2 * BLOCK_ROWS:
        return combine.accumulate(rows, axis=0, out=rows)
    whole = len(rows) // BLOCK_ROWS * BLOCK_ROWS
    blocks = rows[:whole].reshape(-1, BLOCK_ROWS, rows.shape[1])
    for row in range(1, BLOCK_ROWS):
        combine(blocks[:, row], blocks[:, row - 1], out=blocks[:, row])
    carried = _running(blocks[:, -1].copy(), combine)
    combine(blocks[1:], carried[:-1, None], out=blocks[1:])
    combine.accumulate(rows[whole - 1 :], axis=0, out=rows[whole - 1 :])
    return rows


def _summed(precision: np.ndarray, found: np.ndarray, boxes: np.ndarray, interpolation: str) -> np.ndarray:
    """(H, R) falling precision at rising numbers of found boxes, (R,) boxes -> (R,) AP."""
    if interpolation == "voc10":
        return _area(precision, found / boxes)
    # How many recall levels, without that of recall 0, each detection has reached.
    if interpolation == "voc07":
        levels = len(RECALL_POINTS)
        reached = np.searchsorted(RECALL_POINTS, found.astype(np.float64) / boxes, side="right") - 1
    else:
        levels = len(RECALL_LEVELS)
        reached = found * ((levels - 1) * (1 + SLACK) / boxes)
        np.floor(reached, out=reached)
    return (_area(precision, reached.astype(np.float32, copy=False)) + precision[0]) / levels


def _area(heights: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """(H, R) heights of columns and where each one ends -> (R,) their area."""
    lower = heights[:-1] - heights[1:]
    return np.einsum("hr,hr->r", lower, ends[:-1]) + heights[-1] * ends[-1]


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
