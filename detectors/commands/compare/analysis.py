"""From saved detections to what a comparison says: intervals, differences, error kinds, calibration, recall.

Runs that differ in their seed alone are one detector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from detectors.annotations import Annotations
from detectors.commands.compare.options import FEWEST, RESAMPLES
from detectors.metrics.calibration import Reliability, reliability
from detectors.metrics.coco import ALL, AT_50, judge_by_size
from detectors.metrics.coco_arrays import Judged
from detectors.metrics.confusion import confusion_matrix
from detectors.metrics.error_kinds import error_costs
from detectors.metrics.intervals import Estimate, coco_numbers, estimate, mean_over_classes, permutation_p
from detectors.metrics.per_image import best_f1, image_f1
from detectors.metrics.recall_by import Share, recall_by
from detectors.metrics.resampling import (
    Outcomes,
    coco_outcomes,
    drawn_weights,
    precision_curve,
    voc_outcomes,
    weighted_ap,
    weighted_boxes,
)
from detectors.structures import Detections

VOC_KINDS = ("voc07", "voc10")
PERMUTATIONS = 500  # exchanges for the p-values
CALIBRATED_FROM = 0.05  # score: nearly all detections lie below, and nobody would use them
# What has intervals: key of an evaluation -> the title of its column.
TITLES = {
    "AP": "AP (COCO)",
    "AP50": "AP50 (COCO)",
    "AP75": "AP75 (COCO)",
    "AP50_voc07": "AP50 (VOC07 11-point)",
    "AP50_voc10": "AP50 (VOC10 area)",
}
BY_SIZE = {  # likewise: key of an evaluation -> column
    "AP_small": "AP small",
    "AP_medium": "AP medium",
    "AP_large": "AP large",
}
TESTED = ("AP", "AP50", "AP75")


@dataclass(frozen=True)
class Measurement:
    """One run's measurement."""

    record: Mapping[str, Any]  # summary.json and evaluation.json
    seed: int | None
    annotations: Annotations
    detections: Detections


@dataclass
class ComparedDetector:
    """Runs that differ in their seed alone, and what follows from them. Numbers are means over the seeds."""

    name: str
    members: list[Measurement]
    estimates: dict[str, Estimate] = field(default_factory=dict)  # by TITLES and BY_SIZE
    per_class: dict[str, Estimate] = field(default_factory=dict)  # AP (COCO)
    error_costs: dict[str, float] = field(default_factory=dict)
    error_counts: dict[str, float] = field(default_factory=dict)
    calibration: Reliability | None = None  # over the detections of all seeds
    recalls: dict[str, dict[str, Share]] = field(default_factory=dict)  # summed over the seeds
    precision: list[np.ndarray] = field(default_factory=list)  # (101,) of each seed at COCO's recall levels
    best_score: float = 1.0  # see best_f1
    best_f1: float = 0.0
    confusion: np.ndarray | None = None  # (C + 1, C + 1) at best_score, summed over the seeds
    image_f1: np.ndarray | None = None  # (N,) at best_score


@dataclass(frozen=True)
class Difference:
    """The first detector minus the second one."""

    first: str
    second: str
    estimates: dict[str, Estimate]  # by TITLES and BY_SIZE
    per_class: dict[str, Estimate]  # AP (COCO)
    p: Mapping[str, float]  # by TESTED
    seeds: int  # pairs of runs

    @property
    def name(self) -> str:
        return f"{self.first} - {self.second}"


@dataclass(frozen=True)
class _Measured:
    """A member's outcomes, and its numbers on resampled data sets."""

    coco: Outcomes
    draws: dict[str, np.ndarray]  # by TITLES (R,) each, and by BY_SIZE (R // 2,): they take longer
    per_class: np.ndarray  # (C, R) AP


def analysed(
    detectors: Sequence[ComparedDetector], *, resamples: int = RESAMPLES, permutations: int = PERMUTATIONS
) -> list[Difference]:
    """Fills in what follows from the members of all detectors, and compares the detectors in pairs.

    All members have the same ground truth. Their images must come in the same order, or differences are not
    paired: ValueError.
    """
    first = detectors[0].members[0].annotations
    for detector in detectors:
        for member in detector.members:
            if list(member.annotations.image_ids) != list(first.image_ids):
                raise ValueError(f"{detector.name}: its images are in another order; evaluate again")
    weights = drawn_weights(len(first), resamples, seed=0)
    measured = {detector.name: _describe(detector, weights) for detector in detectors}
    return [_difference(*pair, measured, permutations) for pair in combinations(detectors, 2)]


def _describe(detector: ComparedDetector, weights: np.ndarray) -> list[_Measured]:
    """Fills in all numbers of a detector. weights: (N, R)."""
    judged = [judge_by_size(member.annotations, member.detections) for member in detector.members]
    measured = [_measure(*each, weights) for each in zip(detector.members, judged, strict=True)]
    _estimate(detector, measured)
    _explain(detector, judged)
    detector.precision = [precision_curve(one.coco) for one in measured]
    return measured


def _measure(member: Measurement, judged: Judged, weights: np.ndarray) -> _Measured:
    coco, *by_size = coco_outcomes(member.annotations, judged)
    boxes = weighted_boxes(coco, weights)
    (ap,) = weighted_ap(coco, weights, boxes, "coco")
    draws = coco_numbers(ap)
    voc = voc_outcomes(member.annotations, member.detections)
    for kind, of_kind in zip(VOC_KINDS, weighted_ap(voc, weights, boxes, *VOC_KINDS), strict=True):
        draws[f"AP50_{kind}"] = mean_over_classes(of_kind)[0]
    fewer = weights[:, : max(FEWEST, weights.shape[1] // 2)]
    for name, of_size in zip(BY_SIZE, by_size, strict=True):
        (sized,) = weighted_ap(of_size, fewer, weighted_boxes(of_size, fewer), "coco")
        draws[name] = mean_over_classes(sized).mean(0)
    return _Measured(coco, draws, ap.mean(0))


def _estimate(detector: ComparedDetector, measured: Sequence[_Measured]) -> None:
    for name in (*TITLES, *BY_SIZE):
        values = [member.record.get(name) for member in detector.members]
        if None not in values:
            detector.estimates[name] = estimate(values, np.stack([one.draws[name] for one in measured]))
    for label, name in enumerate(detector.members[0].annotations.class_names):
        values = [_class_ap(member, name) for member in detector.members]
        if None not in values:
            draws = np.stack([one.per_class[label] for one in measured])
            detector.per_class[name] = estimate(values, draws)


def _class_ap(member: Measurement, class_name: str) -> float | None:
    """The AP of a class in an evaluation; None if it is not there."""
    value = member.record["per_class"].get(class_name, {}).get("AP")
    return value if isinstance(value, int | float) else None


def _explain(detector: ComparedDetector, judged: Sequence[Judged]) -> None:
    """The reasons: errors, calibration, what is found and what is confused."""
    annotations = detector.members[0].annotations
    errors = [error_costs(annotations, one) for one in judged]
    for kind in errors[0].costs:
        detector.error_costs[kind] = float(np.mean([one.costs[kind] for one in errors]))
        detector.error_counts[kind] = float(np.mean([one.counts[kind] for one in errors]))
    detector.calibration = _calibration(judged)
    tables = [recall_by(annotations, one.found[:, AT_50, ALL]) for one in judged]
    detector.recalls = {
        attribute: {
            kind: Share(*map(sum, zip(*(table[attribute][kind] for table in tables), strict=True)))
            for kind in kinds
        }
        for attribute, kinds in tables[0].items()
    }
    detector.best_score, detector.best_f1 = best_f1(judged)
    detector.image_f1 = np.mean([image_f1(annotations, one, detector.best_score) for one in judged], axis=0)
    detector.confusion = sum(
        confusion_matrix(annotations, member.detections, score=detector.best_score)
        for member in detector.members
    )


def _calibration(judged: Sequence[Judged]) -> Reliability:
    scores, right = [], []
    for one in judged:
        score = one.detections.score
        counts = (one.right | one.wrong)[:, AT_50, ALL] & (score >= CALIBRATED_FROM)
        scores.append(score[counts])
        right.append(one.right[counts, AT_50, ALL])
    return reliability(np.concatenate(scores), np.concatenate(right))


def _difference(
    first: ComparedDetector,
    second: ComparedDetector,
    measured: Mapping[str, Sequence[_Measured]],
    permutations: int,
) -> Difference:
    pairs = seed_pairs(first.members, second.members)
    one = [measured[first.name][k] for k, _ in pairs]
    other = [measured[second.name][k] for _, k in pairs]
    estimates = {}
    for name in (*TITLES, *BY_SIZE):
        if name in first.estimates and name in second.estimates:
            values = [first.members[a].record[name] - second.members[b].record[name] for a, b in pairs]
            draws = [a.draws[name] - b.draws[name] for a, b in zip(one, other, strict=True)]
            estimates[name] = estimate(values, np.stack(draws))
    per_class = {}
    for label, name in enumerate(first.members[0].annotations.class_names):
        if name in first.per_class and name in second.per_class:
            values = [
                _class_ap(first.members[a], name) - _class_ap(second.members[b], name) for a, b in pairs
            ]
            draws = [a.per_class[label] - b.per_class[label] for a, b in zip(one, other, strict=True)]
            per_class[name] = estimate(values, np.stack(draws))
    p = permutation_p([m.coco for m in one], [m.coco for m in other], draws=permutations, seed=1)
    return Difference(first.name, second.name, estimates, per_class, p, len(pairs))


def seed_pairs(first: Sequence[Measurement], second: Sequence[Measurement]) -> list[tuple[int, int]]:
    """Places of the runs that are compared with each other: those of equal seeds; without any, in order."""
    seeds = {member.seed: place for place, member in enumerate(second) if member.seed is not None}
    pairs = [(place, seeds[member.seed]) for place, member in enumerate(first) if member.seed in seeds]
    return pairs or [(place, place) for place in range(min(len(first), len(second)))]
