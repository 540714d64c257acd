"""How sure an average precision is, and the difference of two: resampled images, several seeds.

Over images: the percentile interval of resampled data sets (Efron's bootstrap), moved by their bias: a
resampled data set holds images several times, which raises AP. All detectors and seeds see the same resampled
data sets, so that differences are paired. Over images and seeds: Student's interval, whose
variance is that over images plus that over seeds (Welch and Satterthwaite's degrees of freedom); a percentile
interval of three seeds would be too narrow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from detectors.metrics.resampling import Outcomes, mixed, weighted_ap, weighted_boxes

LEVEL = 0.95


class Interval(NamedTuple):
    low: float
    high: float


class Estimate(NamedTuple):
    """A number, or the difference of two, as the mean over seeds."""

    value: float
    over_images: Interval
    over_seeds: Interval | None  # over images and seeds together; None for a single seed


def mean_over_classes(ap: np.ndarray) -> np.ndarray:
    """(K, C, R) -> (K, R), the mean over the classes that have boxes; NaN without any."""
    with np.errstate(invalid="ignore"):
        return np.nansum(ap, 1) / np.isfinite(ap).sum(1)


def coco_numbers(ap: np.ndarray) -> dict[str, np.ndarray]:
    """(10, C, R) of COCO's thresholds -> AP, AP50 and AP75, each (R,); NaN without any box."""
    by_threshold = mean_over_classes(ap)
    return {"AP": by_threshold.mean(0), "AP50": by_threshold[0], "AP75": by_threshold[5]}


def estimate(values: Sequence[float], draws: np.ndarray) -> Estimate:
    """values: (S,) one for each seed; draws: (S, R) the same of resampled data sets."""
    value = float(np.mean(values))
    mean_draws = np.asarray(draws).mean(0)
    tails = (1 - LEVEL) / 2
    low, high = np.nanquantile(mean_draws, (tails, 1 - tails)) - np.nanmean(mean_draws) + value
    return Estimate(value, Interval(float(low), float(high)), _over_seeds(np.asarray(values), mean_draws))


def _over_seeds(values: np.ndarray, mean_draws: np.ndarray) -> Interval | None:
    if len(values) < 2:
        return None
    images = float(np.nanvar(mean_draws, ddof=1))
    seeds = float(values.var(ddof=1)) / len(values)
    total = images + seeds
    if not total > 0:
        return Interval(float(values.mean()), float(values.mean()))
    # The variance over images comes from many draws, so only that over seeds has few degrees of freedom.
    degrees = total**2 * (len(values) - 1) / seeds**2 if seeds > 0 else np.inf
    half = float(student.ppf((1 + LEVEL) / 2, degrees)) * total**0.5
    return Interval(float(values.mean()) - half, float(values.mean()) + half)


def permutation_p(
    one: Sequence[Outcomes], other: Sequence[Outcomes], *, draws: int, seed: int
) -> Mapping[str, float]:
    """For AP, AP50 and AP75, the two-sided p-value of the difference of two detectors on the same images.

    one, other: the outcomes of each seed, in pairs. Null hypothesis: on every image, either detector's
    detections could be the other's. Each draw exchanges them on a random half of the images; p is the share
    of draws, the real one among them, whose mean difference over seeds is as large as the real one. It says
    nothing about other seeds.
    """
    images = len(one[0].boxes)
    swapped = np.random.default_rng(seed).random((images, draws)) < 0.5
    swapped[:, 0] = False  # the real one
    from_one = np.concatenate([~swapped, swapped]).astype(np.uint8)  # (2 N, R)
    differences = {name: np.zeros(draws) for name in ("AP", "AP50", "AP75")}
    for pair in zip(one, other, strict=True):
        both = mixed(*pair)
        boxes = weighted_boxes(both, np.ones((images, 1)))
        boxes = np.broadcast_to(boxes, (len(boxes), draws))
        first = coco_numbers(*weighted_ap(both, from_one, boxes, "coco"))
        second = coco_numbers(*weighted_ap(both, 1 - from_one, boxes, "coco"))
        for name in differences:
            differences[name] = differences[name] + (first[name] - second[name])
    return {
        name: float((np.abs(values) >= np.abs(values[0]) - 1e-7).mean())
        for name, values in differences.items()
    }
