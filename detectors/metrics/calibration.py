"""Whether scores are probabilities: of detections with score .7, seven in ten should be right.

Küppers et al., "Multivariate Confidence Calibration for Object Detection" (2020): D-ECE, here over the score
alone, not over the box's place and size too. A detection is right by COCO's matching at IoU .5.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SCORE_BINS = 20  # of equal width, as in the paper


class Reliability(NamedTuple):
    """Scores in SCORE_BINS bins (k / SCORE_BINS, (k + 1) / SCORE_BINS]; the first one also holds 0."""

    count: np.ndarray  # type: ignore[assignment] # (SCORE_BINS,) int64 detections; a tuple has count()
    score: np.ndarray  # (SCORE_BINS,) their mean score; NaN for an empty bin
    precision: np.ndarray  # (SCORE_BINS,) the share that is right; NaN for an empty bin

    @property
    def d_ece(self) -> float:
        """The mean of |precision - score| over detections; NaN without any."""
        total = self.count.sum()
        gap = np.nan_to_num(np.abs(self.precision - self.score))
        return float((gap * self.count).sum() / total) if total else float("nan")


def reliability(scores: np.ndarray, right: np.ndarray) -> Reliability:
    """scores: (T,) from 0 to 1; right: (T,) bool. Leave out detections that do not count, and those below
    the score at which the detector would be used: otherwise nearly all bins but the first hardly matter.
    """
    place = np.clip(np.ceil(scores * SCORE_BINS).astype(np.int64) - 1, 0, SCORE_BINS - 1)
    count = np.bincount(place, minlength=SCORE_BINS)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(place, scores, SCORE_BINS) / count
        precision = np.bincount(place, right.astype(np.float64), SCORE_BINS) / count
    return Reliability(count, mean, precision)
