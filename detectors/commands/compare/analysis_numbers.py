"""All numbers of a comparison as one structure, comparison.json, from which Markdown and page are made."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectors.commands.compare.analysis import ComparedDetector, Difference
from detectors.commands.compare.anchor_shares import AnchorShares
from detectors.commands.compare.disagreement import disagreeing_images
from detectors.commands.compare.measured_speed import DetectorSpeed, SpeedConditions
from detectors.commands.compare.pareto import pareto_fronts
from detectors.commands.compare.run_places import run_folder_of
from detectors.metrics.anchor_reach import ReachShare
from detectors.metrics.calibration import Reliability
from detectors.metrics.intervals import Estimate
from detectors.training.csv_log import METRICS

CURVE_UNITS = ("step", "images", "hours")


def analysis_numbers(
    detectors: Sequence[ComparedDetector],
    pairs: Sequence[Difference],
    *,
    anchors: Mapping[str, AnchorShares] | None = None,
    speeds: Mapping[str, DetectorSpeed] | None = None,
    conditions: SpeedConditions | None = None,
) -> dict[str, Any]:
    """Plain numbers, texts, lists and dicts; empty lists without detectors.

    anchors, speeds: by the names of the detectors for which they are known. conditions: of the speeds.
    """
    anchors = anchors or {}
    speeds = speeds or {}
    listed = [_detector(each, anchors.get(each.name), speeds.get(each.name)) for each in detectors]
    return {
        "detectors": listed,
        "differences": [_difference(pair) for pair in pairs],
        "speed": None if conditions is None else conditions._asdict(),
        "pareto": pareto_fronts(listed),
        "disagreement": disagreeing_images(detectors),
    }


def _detector(
    detector: ComparedDetector, anchors: AnchorShares | None, speed: DetectorSpeed | None
) -> dict[str, Any]:
    first = detector.members[0]
    return {
        "name": detector.name,
        "seeds": [member.seed for member in detector.members],
        "runs": [member.record["name"] for member in detector.members],
        "parameters": first.record.get("parameters"),
        "gflops": first.record.get("gflops"),
        "estimates": _estimates(detector.estimates),
        "per_class": _estimates(detector.per_class),
        "error_costs": detector.error_costs,
        "error_counts": detector.error_counts,
        "d_ece": known(detector.calibration.d_ece),
        "reliability": _reliability(detector.calibration),
        "recall": {
            attribute: {
                kind: {"boxes": share.boxes, "found": share.found, "interval": list(share.interval)}
                for kind, share in kinds.items()
            }
            for attribute, kinds in detector.recalls.items()
        },
        "precision_recall": [[known(value) for value in curve] for curve in detector.precision],
        "best_f1": {"score": detector.best_score, "value": detector.best_f1},
        "confusion": {
            "class_names": list(first.annotations.class_names),
            "counts": detector.confusion.tolist(),
        },
        "anchors": None if anchors is None else _anchor_numbers(anchors),
        "speed": None if speed is None else speed.numbers(),
        "curves": _curves(detector),
    }


def _difference(pair: Difference) -> dict[str, Any]:
    return {
        "name": pair.name,
        "first": pair.first,
        "second": pair.second,
        "pairs": pair.seeds,
        "estimates": _estimates(pair.estimates),
        "per_class": _estimates(pair.per_class),
        "p": dict(pair.p),
    }


def _estimates(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "value": e.value,
            "over_images": list(e.over_images),
            "over_images_and_seeds": None if e.over_seeds is None else list(e.over_seeds),
        }
        for name, e in estimates.items()
    }


def _reliability(calibration: Reliability) -> list[dict[str, Any]]:
    return [
        {"count": int(count), "score": known(score), "precision": known(precision)}
        for count, score, precision in zip(*calibration, strict=True)
    ]


def _anchor_numbers(anchors: AnchorShares) -> dict[str, Any]:
    return {
        "input": list(anchors.size),
        "anchors": anchors.count,
        **{
            rule: None if shares is None else {kind: _reach(share) for kind, share in shares.items()}
            for rule, shares in (("near", anchors.near), ("cell", anchors.cell))
        },
    }


def _reach(share: ReachShare) -> dict[str, Any]:
    return {"boxes": share.boxes, "recall": known(share.recall), "mean_iou": known(share.mean_iou)}


def _curves(detector: ComparedDetector) -> list[dict[str, list[float]]]:
    """AP in validation of each run that has a curve."""
    curves = [validation_curve(member.record) for member in detector.members]
    return [curve for curve in curves if curve]


def validation_curve(record: Mapping[str, Any]) -> dict[str, list[float]]:
    """val/AP in a run's metrics.csv, and CURVE_UNITS where it was measured; {} without two points.

    Hours are the run's own, shared out evenly over its steps.
    """
    path = run_folder_of(Path(record["folder"])) / METRICS
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [
                (int(row["step"]), float(row["value"]))
                for row in csv.DictReader(file)
                if row["tag"] == "val/AP"
            ]
        images, hours = (record[key] / record["steps"] for key in ("images_seen", "train_seconds"))
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return {}
    if len(rows) < 2:
        return {}
    steps = [step for step, _ in rows]
    return {
        "step": steps,
        "images": [step * images for step in steps],
        "hours": [step * hours / 3600 for step in steps],
        "AP": [known(value) for _, value in rows],
    }


def known(value: float) -> float | None:
    """JSON has no NaN."""
    return None if value != value else float(value)
