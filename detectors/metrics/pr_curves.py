"""Precision and recall of each class over thresholds of the score, for TensorBoard's PR CURVES page."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from detectors.metrics.voc import Curve, VocResult

SCORE_THRESHOLDS = np.linspace(0.0, 1.0, 101)


class PrCurve(NamedTuple):
    """What remains of a class's detections at each of SCORE_THRESHOLDS, each (101,)."""

    true_positives: np.ndarray  # int64
    false_positives: np.ndarray  # int64
    false_negatives: np.ndarray  # int64: boxes that are not found
    precision: np.ndarray  # 1 where no detection remains
    recall: np.ndarray


def pr_curves(voc: VocResult) -> dict[str, PrCurve]:
    """Class name -> its curve, for the classes with boxes that count.

    Detections are right or wrong as in VOC's AP: see evaluate_voc. A threshold keeps scores >= itself.
    """
    return {
        name: _at_thresholds(curve, int(count))
        for name, curve, count in zip(voc.class_names, voc.curves, voc.npos, strict=True)
        if count
    }


def _at_thresholds(curve: Curve, boxes: int) -> PrCurve:
    kept = np.searchsorted(-curve.scores, -SCORE_THRESHOLDS, side="right")  # (101,)
    ranks = np.arange(1, len(curve.scores) + 1)
    right = np.append(0, (curve.precision * ranks).round().astype(np.int64))[kept]
    precision = np.divide(right, kept, out=np.ones(len(kept)), where=kept > 0)
    return PrCurve(right, kept - right, boxes - right, precision, right / boxes)
