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
    annotations: Annotations, detections: Detections, *, iou: float = 0.5, inclusive: bool = False
) -> VocResult:
    """AP of `detections` (original frame; `image` is the row of `annotations`) at one IoU threshold.

    Within a class, detections are taken by descending score, ties in input order. Each is compared with one
    box only: the box of its image and class with the highest IoU. If this IoU exceeds `iou`, the detection is
    ignored if the box is difficult, and a true positive if the box is still free. Otherwise it is a false
    positive; unlike in COCO there is no second choice. Difficult boxes are not positives; COCO's crowd
    regions are treated like them. A class with boxes but no detections has AP 0.

    inclusive: match at IoU >= iou (VOCevaldet.m) instead of IoU > iou (voc_eval.py, and most Python code).
    ValueError: see metrics.arrays.to_arrays.
    """
    arrays = to_arrays(annotations, detections)
    ignored = annotations.difficult | annotations.crowd
    best_iou, best_box = _best_boxes(annotations, arrays)
    hit = best_iou >= iou if inclusive else best_iou > iou
    order = np.argsort(-arrays.scores, kind="stable")
    codes = _judge(hit, best_box, ignored, order)
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


def _best_boxes(annotations: Annotations, arrays: DetectionArrays) -> tuple[np.ndarray, np.ndarray]:
    """For each detection, the box of its image and class with the highest IoU; the first of equals.

    Returns (T,) float64 IoU, -1 without such a box, and (T,) int64 row of the box. Only pairs of one image
    and class are formed.
    """
    classes = len(annotations.class_names)
    box_group = annotations.image * classes + annotations.labels  # (G,)
    by_group = np.argsort(box_group, kind="stable")
    group = arrays.image * classes + arrays.labels  # (T,)
    first = np.searchsorted(box_group[by_group], group, "left")
    count = np.searchsorted(box_group[by_group], group, "right") - first
    start = np.cumsum(count) - count  # (T,) where each detection's pairs begin
    detection = np.repeat(np.arange(len(group)), count)  # (P,): one row per pair
    rank = np.arange(len(detection)) - np.repeat(start, count)  # 0, 1, ... within each detection's pairs
    box = by_group[first[detection] + rank]  # (P,)
    boxes = torch.from_numpy(arrays.boxes_original)
    gt_boxes = torch.from_numpy(annotations.boxes_original.reshape(-1, 4))
    iou = paired_iou(boxes[detection], gt_boxes[box]).numpy()
    best_first = np.lexsort((-iou, detection))  # stable, so equal IoUs stay in the order of the annotations
    has_box = np.flatnonzero(count)
    top = best_first[start[has_box]]
    best_iou = np.full(len(group), -1.0)
    best_box = np.zeros(len(group), np.int64)
    best_iou[has_box] = iou[top]
    best_box[has_box] = box[top]
    return best_iou, best_box


def _judge(hit: np.ndarray, box: np.ndarray, ignored: np.ndarray, order: np.ndarray) -> np.ndarray:
    """(T,) codes. hit, box: per detection; ignored: per box; order: detections by descending score."""
    codes = np.full(len(hit), FALSE_POSITIVE)
    on_ignored = np.zeros(len(hit), dtype=bool)
    on_ignored[hit] = ignored[box[hit]]
    codes[on_ignored] = IGNORED_DETECTION
    contenders = order[(hit & ~on_ignored)[order]]
    _, winners = np.unique(box[contenders], return_index=True)  # the first detection of a box gets it
    codes[contenders[winners]] = TRUE_POSITIVE
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
