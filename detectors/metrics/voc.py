"""PASCAL VOC average precision: the 11-point kind of VOC2007 and the area under the curve of VOC2010 and later.

Sources: VOCdevkit's VOCevaldet.m and py-faster-rcnn's voc_eval.py; the former matches at IoU >= t, the latter at IoU > t (see `inclusive`).
Both add one pixel to every side, since VOC's corners are 1-based and inclusive. Annotations and Detections hold continuous edges
(xmin - 1, ymin - 1, xmax, ymax) instead, for which the plain IoU is that same number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from detectors.annotations import Annotations
from detectors.boxes import paired_iou
from detectors.metrics.arrays import DetectionArrays, to_arrays
from detectors.structures import Detections

TRUE_POSITIVE, FALSE_POSITIVE, IGNORED = "T", "F", "I"

# In float64 the steps .3, .6 and .7 come out one ulp high, so a recall of exactly 3/10 does not reach the point .3. VOC's code has it so.
RECALL_POINTS = np.arange(0, 1.1, 0.1)


class Curve(NamedTuple):
    """Precision against recall of one class, the best score first; ignored detections are not on it."""

    scores: np.ndarray  # (D,) descending
    recall: np.ndarray  # (D,) ascending; NaN for a class without truths that count
    precision: np.ndarray  # (D,)


@dataclass(frozen=True)
class VocResult:
    """AP per class and what it was computed from. NaN: a class without truths that count, which the means leave out."""

    class_names: tuple[str, ...]
    ap07: np.ndarray  # (C,) float64, 11-point
    ap10: np.ndarray  # (C,) float64, area
    npos: np.ndarray  # (C,) int64: truths that count, that is neither difficult nor crowd
    codes: np.ndarray  # (T,) one letter per detection, in the order they were given: T true positive, F false positive, I ignored
    curves: tuple[Curve, ...]  # (C)

    @property
    def map07(self) -> float:
        """Mean of ap07 over the classes that have truths; NaN if none has."""
        return _mean_of_defined(self.ap07)

    @property
    def map10(self) -> float:
        """Mean of ap10 over the classes that have truths; NaN if none has."""
        return _mean_of_defined(self.ap10)


def evaluate_voc(
    annotations: Annotations, detections: Detections, *, iou: float = 0.5, inclusive: bool = False
) -> VocResult:
    """AP of `detections` (original frame; `image` is the row of `annotations`) at one IoU threshold.

    Within a class, detections are taken by falling score, ties in the order given. Each looks at one truth only, the one of its image with
    the highest IoU. If that IoU exceeds `iou` the detection is ignored when the truth is difficult, a true positive when the truth is still
    free, else a false positive: there is no second choice (COCO has one). Difficult truths do not count as positives; COCO's crowd regions
    are treated like them. A class with truths and no detections has AP 0.

    inclusive: match at IoU >= iou (VOCevaldet.m) instead of IoU > iou (voc_eval.py, what most published Python numbers use).
    ValueError: see metrics.arrays.to_arrays.
    """
    found = to_arrays(annotations, detections)
    ignored = annotations.difficult | annotations.crowd
    best_iou, best_truth = _best_truths(annotations, found)
    hit = best_iou >= iou if inclusive else best_iou > iou
    order = np.argsort(-found.scores, kind="stable")
    codes = _judge(hit, best_truth, ignored, order)
    classes = len(annotations.class_names)
    npos = np.bincount(annotations.labels[~ignored], minlength=classes)
    curves = tuple(
        _curve(order[found.labels[order] == label], codes, found.scores, npos[label])
        for label in range(classes)
    )
    ap07, ap10 = (
        np.array(
            [ap(curve.recall, curve.precision) if npos[k] else np.nan for k, curve in enumerate(curves)],
            dtype=np.float64,
        )
        for ap in (ap_11_point, ap_area)
    )
    return VocResult(annotations.class_names, ap07, ap10, npos, codes, curves)


def ap_11_point(recall: np.ndarray, precision: np.ndarray) -> float:
    """VOC2007: mean over 11 recall points r of the best precision at a recall of at least r (0 where r is never reached).

    recall, precision: (D,) by falling score.
    """
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)  # (D + 1,)
    return float(envelope[np.searchsorted(recall, RECALL_POINTS)].mean())


def ap_area(recall: np.ndarray, precision: np.ndarray) -> float:
    """VOC2010 and later: area under the curve once each precision is raised to the best one at any higher recall.

    recall, precision: (D,) by falling score.
    """
    envelope = np.maximum.accumulate(precision[::-1])[::-1]  # (D,)
    return float((np.diff(recall, prepend=0.0) * envelope).sum())


def _best_truths(annotations: Annotations, found: DetectionArrays) -> tuple[np.ndarray, np.ndarray]:
    """Highest IoU of each detection with the truths of its image and class, and the row of that truth (the first of equals).

    Returns (T,) float64, -1 where there is no such truth, and (T,) int64. Only pairs of one image and class are formed.
    """
    classes = len(annotations.class_names)
    truth_group = annotations.image * classes + annotations.labels  # (G,)
    by_group = np.argsort(truth_group, kind="stable")
    group = found.image * classes + found.labels  # (T,)
    first = np.searchsorted(truth_group[by_group], group, "left")
    count = np.searchsorted(truth_group[by_group], group, "right") - first
    detection = np.repeat(np.arange(len(group)), count)  # (P,): one row per pair
    place = np.arange(len(detection)) - np.repeat(
        np.cumsum(count) - count, count
    )  # 0, 1, ... within each detection's pairs
    truth = by_group[first[detection] + place]  # (P,)
    boxes, gt_boxes = (
        torch.from_numpy(found.boxes_original),
        torch.from_numpy(annotations.boxes_original.reshape(-1, 4)),
    )
    iou = paired_iou(boxes[detection], gt_boxes[truth]).numpy()
    best_first = np.lexsort((-iou, detection))  # stable, so equal IoUs stay in the order of the annotations
    has_truth = np.flatnonzero(count)
    top = best_first[(np.cumsum(count) - count)[has_truth]]
    best_iou, best_truth = np.full(len(group), -1.0), np.zeros(len(group), np.int64)
    best_iou[has_truth], best_truth[has_truth] = iou[top], truth[top]
    return best_iou, best_truth


def _judge(hit: np.ndarray, truth: np.ndarray, ignored: np.ndarray, order: np.ndarray) -> np.ndarray:
    """(T,) codes. hit, truth: per detection; ignored: per truth; order: detections by falling score."""
    codes = np.full(len(hit), FALSE_POSITIVE)
    on_ignored = np.zeros(len(hit), dtype=bool)
    on_ignored[hit] = ignored[truth[hit]]
    codes[on_ignored] = IGNORED
    contenders = order[(hit & ~on_ignored)[order]]
    _, winners = np.unique(truth[contenders], return_index=True)  # the first to ask for a truth gets it
    codes[contenders[winners]] = TRUE_POSITIVE
    return codes


def _curve(rows: np.ndarray, codes: np.ndarray, scores: np.ndarray, npos: int) -> Curve:
    """rows: the detections of one class by falling score."""
    rows = rows[codes[rows] != IGNORED]
    true_positives = np.cumsum(codes[rows] == TRUE_POSITIVE)
    recall = true_positives / npos if npos else np.full(len(rows), np.nan)
    return Curve(scores[rows], recall, true_positives / np.arange(1, len(rows) + 1))


def _mean_of_defined(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
