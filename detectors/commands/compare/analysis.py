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
from detectors.commands.compare.options import RESAMPLES
from detectors.metrics.calibration import Reliability, reliability
from detectors.metrics.coco import AT_50, judge_all_sizes
from detectors.metrics.coco_arrays import Judged
from detectors.metrics.error_kinds import ErrorCosts, error_costs
from detectors.metrics.intervals import Estimate, coco_numbers, estimate, mean_over_classes, permutation_p
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
    estimates: dict[str, Estimate] = field(default_factory=dict)  # by TITLES
    per_class: dict[str, Estimate] = field(default_factory=dict)  # AP (COCO)
    error_costs: dict[str, float] = field(default_factory=dict)
    error_counts: dict[str, float] = field(default_factory=dict)
    calibration: Reliability | None = None  # over the detections of all seeds
    recalls: dict[str, dict[str, Share]] = field(default_factory=dict)  # summed over the seeds
    precision: list[np.ndarray] = field(default_factory=list)  # (101,) of each seed at COCO's recall levels


@dataclass(frozen=True)
class Difference:
    """The first detector minus the second one."""

    first: str
    second: str
    estimates: dict[str, Estimate]  # by TITLES
    p: Mapping[str, float]  # by TESTED
    seeds: int  # pairs of runs

    @property
    def name(self) -> str:
        return f"{self.first} - {self.second}"


@dataclass(frozen=True)
class _Measured:
    """A member's outcomes, and its numbers on resampled data sets."""

    judged: Judged
    coco: Outcomes
    draws: dict[str, np.ndarray]  # by TITLES, each (R,)
    per_class: np.ndarray  # (C, R) AP
    errors: ErrorCosts


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
    measured = {
        detector.name: [_measure(member, weights) for member in detector.members] for detector in detectors
    }
    for detector in detectors:
        _describe(detector, measured[detector.name])
    return [_difference(*pair, measured, permutations) for pair in combinations(detectors, 2)]


def _measure(member: Measurement, weights: np.ndarray) -> _Measured:
    judged = judge_all_sizes(member.annotations, member.detections)
    coco = coco_outcomes(member.annotations, judged)
    voc = voc_outcomes(member.annotations, member.detections)
    boxes = weighted_boxes(coco, weights)
    ap = weighted_ap(coco, weights, boxes)
    draws = coco_numbers(ap)
    for kind in ("voc07", "voc10"):
        draws[f"AP50_{kind}"] = mean_over_classes(weighted_ap(voc, weights, boxes, kind))[0]
    return _Measured(judged, coco, draws, ap.mean(0), error_costs(member.annotations, judged))


def _describe(detector: ComparedDetector, measured: Sequence[_Measured]) -> None:
    for name in TITLES:
        values = [member.record[name] for member in detector.members]
        if None not in values:
            detector.estimates[name] = estimate(values, np.stack([one.draws[name] for one in measured]))
    names = detector.members[0].annotations.class_names
    for label, name in enumerate(names):
        values = [member.record["per_class"].get(name, {}).get("AP") for member in detector.members]
        if None not in values:
            draws = np.stack([one.per_class[label] for one in measured])
            detector.per_class[name] = estimate(values, draws)
    for kind in measured[0].errors.costs:
        detector.error_costs[kind] = float(np.mean([one.errors.costs[kind] for one in measured]))
        detector.error_counts[kind] = float(np.mean([one.errors.counts[kind] for one in measured]))
    detector.calibration = _calibration(measured)
    detector.precision = [precision_curve(one.coco) for one in measured]
    tables = [
        recall_by(member.annotations, one.judged.found[:, AT_50, 0])
        for member, one in zip(detector.members, measured, strict=True)
    ]
    detector.recalls = {
        attribute: {
            kind: Share(*map(sum, zip(*(table[attribute][kind] for table in tables), strict=True)))
            for kind in kinds
        }
        for attribute, kinds in tables[0].items()
    }


def _calibration(measured: Sequence[_Measured]) -> Reliability:
    scores, right = [], []
    for one in measured:
        found = one.judged.detections
        counts = (one.judged.right | one.judged.wrong)[:, AT_50, 0] & (found.score >= CALIBRATED_FROM)
        scores.append(found.score[counts])
        right.append(one.judged.right[counts, AT_50, 0])
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
    for name in TITLES:
        if name in first.estimates and name in second.estimates:
            values = [first.members[a].record[name] - second.members[b].record[name] for a, b in pairs]
            draws = [a.draws[name] - b.draws[name] for a, b in zip(one, other, strict=True)]
            estimates[name] = estimate(values, np.stack(draws))
    p = permutation_p([m.coco for m in one], [m.coco for m in other], draws=permutations, seed=1)
    return Difference(first.name, second.name, estimates, p, len(pairs))


def seed_pairs(first: Sequence[Measurement], second: Sequence[Measurement]) -> list[tuple[int, int]]:
    """Places of the runs that are compared with each other: those of equal seeds; without any, in order."""
    seeds = {member.seed: place for place, member in enumerate(second) if member.seed is not None}
    pairs = [(place, seeds[member.seed]) for place, member in enumerate(first) if member.seed in seeds]
    return pairs or [(place, place) for place in range(min(len(first), len(second)))]
