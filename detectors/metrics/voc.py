"""PASCAL VOC average precision: 11-point (VOC2007) and area under the curve (VOC2010 and later).

Sources: VOCdevkit's VOCevaldet.m, which matches at IoU >= t, and py-faster-rcnn's voc_eval.py, which matches
at IoU > t (see `inclusive`). Both add one pixel to every side, since VOC's corners are 1-based and inclusive.
Here boxes have continuous edges (xmin - 1, ymin - 1, xmax, ymax), whose plain IoU is the same number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from detectors.annotations import Annotations
from detectors.boxes import paired_iou
from detectors.metrics.arrays import DetectionArrays, to_arrays
from detectors.structures import Detections

TRUE_POSITIVE = "T"
FALSE_POSITIVE = "F"
IGNORED_DETECTION = "I"

# In float64, .3, .6 and .7 come out one ulp too high, so a recall of exactly 3/10 does not reach .3; likewise
# in VOC's code.
RECALL_POINTS = np.arange(0, 1.1, 0.1)


class Curve(NamedTuple):
    """Precision against recall of one class, the best score first, without ignored detections."""

    scores: np.ndarray  # (D,) descending
    recall: np.ndarray  # (D,) ascending; NaN for a class without boxes that count
    precision: np.ndarray  # (D,)


@dataclass(frozen=True)
class VocResult:
    """AP per class, and what it was computed from.

    A class without boxes that count has NaN; means leave it out.
    """

    class_names: tuple[str, ...]
    ap07: np.ndarray  # (C,) float64, 11-point
    ap10: np.ndarray  # (C,) float64, area
    npos: np.ndarray  # (C,) int64: boxes that count: neither difficult nor crowd
    codes: np.ndarray  # (T,) one letter per detection, in input order: T, F or I (ignored)
    curves: tuple[Curve, ...]  # (C)

    @property
    def map07(self) -> float:
        """Mean of ap07 over the classes that have boxes; NaN if none has."""
        return _mean_of_defined(self.ap07)

    @property
    def map10(self) -> float:
        """Mean of ap10 over the classes that have boxes; NaN if none has."""
        return _mean_of_defined(self.ap10)


def evaluate_voc(
    annotations: Annotations,
    detections: Detections,
    *,
    iou: float = 0.5,
    inclusive: bool = False,
    added_to_sides: float = 0.0,
    difficult_counts: bool = False,
    next_free: bool = False,
) -> VocResult:
    """AP of `detections` (original frame; `image` is the row of `annotations`) at one IoU threshold.

    Within a class, detections are taken by descending score, ties in input order. Each is compared with one
    box only: the box of its image and class with the highest IoU. If this IoU exceeds `iou`, the detection is
    ignored if the box is difficult, and a true positive if the box is still free. Otherwise it is a false
    positive; unlike in COCO there is no second choice. Difficult boxes are not positives; COCO's crowd
    regions are treated like them. A class with boxes but no detections has AP 0.

    inclusive: match at IoU >= iou (VOCevaldet.m) instead of IoU > iou (voc_eval.py, and most Python code).
    added_to_sides: pixels added to the right and bottom edge of every box and detection before their IoU.
    difficult_counts: difficult boxes are boxes like others.
    next_free: a detection takes the free box of the highest IoU, and is ignored only if no free box matches.
    ValueError: see metrics.arrays.to_arrays.
    """
    arrays = to_arrays(annotations, detections)
    ignored = annotations.crowd if difficult_counts else annotations.difficult | annotations.crowd
    pairs = _pairs(annotations, arrays, added_to_sides)
    if not next_free:
        pairs = _first_choices(pairs)
    hits = _rows(pairs, pairs.iou >= iou if inclusive else pairs.iou > iou)
    if next_free:
        hits = _rows(hits, np.lexsort((ignored[hits.box], hits.detection)))
    order = np.argsort(-arrays.scores, kind="stable")
    codes = _judge(hits, ignored, order)
    classes = len(annotations.class_names)
    npos = np.bincount(annotations.labels[~ignored], minlength=classes)
    by_class = order[np.argsort(arrays.labels[order], kind="stable")]
    ends = np.searchsorted(arrays.labels[by_class], np.arange(classes + 1))
    curves = tuple(
        _curve(by_class[begin:end], codes, arrays.scores, npos[label])
        for label, (begin, end) in enumerate(pairwise(ends))
    )
    return VocResult(
        annotations.class_names,
        ap07=_ap_per_class(ap_11_point, curves, npos),
        ap10=_ap_per_class(ap_area, curves, npos),
        npos=npos,
        codes=codes,
        curves=curves,
    )


def _ap_per_class(ap: Callable, curves: tuple[Curve, ...], npos: np.ndarray) -> np.ndarray:
    """(C,) float64; NaN for a class without boxes that count."""
    values = [
        ap(curve.recall, curve.precision) if count else np.nan
        for curve, count in zip(curves, npos, strict=True)
    ]
    return np.array(values, dtype=np.float64)


def ap_11_point(recall: np.ndarray, precision: np.ndarray) -> float:
    """VOC2007: the mean, over 11 recall points r, of the best precision at a recall >= r.

    The precision is 0 where no recall reaches r. recall, precision: (D,) by descending score.
    """
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)  # (D + 1,)
    return float(envelope[np.searchsorted(recall, RECALL_POINTS)].mean())


def ap_area(recall: np.ndarray, precision: np.ndarray) -> float:
    """VOC2010 and later: the area under the curve, each precision raised to the best at any higher recall.

    recall, precision: (D,) by descending score.
    """
    envelope = np.maximum.accumulate(precision[::-1])[::-1]  # (D,)
    return float((np.diff(recall, prepend=0.0) * envelope).sum())


class _Pairs(NamedTuple):
    """Detections and boxes of one image and class. Each detection's pairs stand together, in the order in
    which it would take the boxes.
    """

    detection: np.ndarray  # (P,) int64, ascending
    box: np.ndarray  # (P,) int64
    iou: np.ndarray  # (P,) float64


def _rows(pairs: _Pairs, rows: np.ndarray) -> _Pairs:
    return _Pairs(*(column[rows] for column in pairs))


def _pairs(annotations: Annotations, arrays: DetectionArrays, added_to_sides: float) -> _Pairs:
    """All pairs, the highest IoU of each detection first; equal IoUs in the order of the annotations."""
    classes = len(annotations.class_names)
    box_group = annotations.image * classes + annotations.labels  # (G,)
    by_group = np.argsort(box_group, kind="stable")
    group = arrays.image * classes + arrays.labels  # (T,)
    first = np.searchsorted(box_group[by_group], group, "left")
    count = np.searchsorted(box_group[by_group], group, "right") - first
    start = np.cumsum(count) - count  # (T,) where each detection's pairs begin
    detection = np.repeat(np.arange(len(group)), count)  # (P,)
    rank = np.arange(len(detection)) - np.repeat(start, count)  # 0, 1, ... within each detection's pairs
    box = by_group[first[detection] + rank]  # (P,)
    boxes = _with_longer_sides(arrays.boxes_original, added_to_sides)
    gt_boxes = _with_longer_sides(annotations.boxes_original.reshape(-1, 4), added_to_sides)
    iou = paired_iou(boxes[detection], gt_boxes[box]).numpy()
    return _rows(_Pairs(detection, box, iou), np.lexsort((-iou, detection)))


def _with_longer_sides(boxes: np.ndarray, pixels: float) -> torch.Tensor:
    """(T, 4) boxes with `pixels` more to the right and below; no side falls below 0."""
    if not pixels:
        return torch.from_numpy(boxes)
    low = boxes[:, :2]
    return torch.from_numpy(np.concatenate([low, np.maximum(boxes[:, 2:] + pixels, low)], axis=1))


def _first_choices(pairs: _Pairs) -> _Pairs:
    """The first pair of each detection."""
    return _rows(pairs, np.flatnonzero(np.diff(pairs.detection, prepend=-1)))


def _judge(hits: _Pairs, ignored: np.ndarray, order: np.ndarray) -> np.ndarray:
    """(T,) codes. ignored: per box; order: detections by descending score.

    Each detection asks for the box of its first pair. Of those that ask for a box the first in `order` gets
    it, and the others ask for the box of their next pair, until none has a next one. That is the same as
    letting one after another choose among the free boxes. An ignored box takes all that ask for it.
    """
    detections = len(order)
    rank = np.empty(detections, dtype=np.int64)
    rank[order] = np.arange(detections)
    asking = np.flatnonzero(np.diff(hits.detection, prepend=-1))  # (D,) pairs, one for each detection
    last = np.append(asking[1:], len(hits.detection))[: len(asking)] - 1
    while True:
        box = hits.box[asking]
        own = rank[hits.detection[asking]]
        best = np.full(len(ignored), detections)
        np.minimum.at(best, box, own)
        lost = ~ignored[box] & (best[box] < own)
        more = lost & (asking < last)
        if not more.any():
            break
        asking[more] += 1
    codes = np.full(detections, FALSE_POSITIVE)
    found = np.where(ignored[box], IGNORED_DETECTION, TRUE_POSITIVE)
    codes[hits.detection[asking[~lost]]] = found[~lost]
    return codes


def _curve(rows: np.ndarray, codes: np.ndarray, scores: np.ndarray, npos: int) -> Curve:
    """rows: the detections of one class by descending score."""
    rows = rows[codes[rows] != IGNORED_DETECTION]
    true_positives = np.cumsum(codes[rows] == TRUE_POSITIVE)
    recall = true_positives / npos if npos else np.full(len(rows), np.nan)
    return Curve(scores[rows], recall, true_positives / np.arange(1, len(rows) + 1))


def _mean_of_defined(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
