"""What an analysis says, as Markdown tables and as numbers for the JSON file. Both hold the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectors.commands.compare.analysis import (
    CALIBRATED_FROM,
    TESTED,
    TITLES,
    ComparedDetector,
    Difference,
)
from detectors.metrics.error_kinds import ERROR_KINDS
from detectors.metrics.intervals import Estimate
from detectors.tables import MISSING, cell, markdown_table

TOTALS = {"wrong": "all wrong detections", "unfound": "all boxes not found"}


def analysis_text(detectors: Sequence[ComparedDetector], pairs: Sequence[Difference]) -> list[str]:
    """Paragraphs and tables; none without detectors."""
    if not detectors:
        return []
    parts = [
        "Each detector, the mean over its seeds with 95 % intervals: [over images], and {over images and "
        "seeds} where there are several",
        markdown_table(["", "seeds", *TITLES.values()], estimate_rows(detectors)),
    ]
    if pairs:
        parts += [
            "Differences, paired by image and seed; p: of exchanging the two detectors on random images",
            markdown_table(["", "pairs", *TITLES.values()], difference_rows(pairs)),
            markdown_table(["p", *TESTED], [[p.name, *[cell(p.p[k], ".3f") for k in TESTED]] for p in pairs]),
        ]
    calibration = {"D-ECE": [f"{detector.calibration.d_ece:.3f}" for detector in detectors]}
    parts += [
        "What each kind of error costs in AP50 (TIDE), and how many there are in one run",
        _by_detector("error", error_rows(detectors), detectors),
        f"Calibration of scores from {CALIBRATED_FROM} (D-ECE), and recall at IoU .5 by kind of box",
        _by_detector("", calibration | recall_rows(detectors), detectors),
    ]
    return parts


def estimate_rows(detectors: Sequence[ComparedDetector]) -> list[list[str]]:
    """Name, number of seeds and TITLES of each detector."""
    return [[d.name, str(len(d.members)), *_cells(d.estimates)] for d in detectors]


def difference_rows(pairs: Sequence[Difference]) -> list[list[str]]:
    """Name, number of pairs and TITLES of each difference."""
    return [[pair.name, str(pair.seeds), *_cells(pair.estimates)] for pair in pairs]


def _cells(estimates: dict[str, Estimate]) -> list[str]:
    return [estimate_text(estimates.get(name)) for name in TITLES]


def error_rows(detectors: Sequence[ComparedDetector]) -> dict[str, list[str]]:
    """What an error is called -> its cost and number for each detector."""
    return {
        TOTALS.get(kind, kind): [
            f"{d.error_costs[kind]:.3f} ({d.error_counts[kind]:,.0f})" for d in detectors
        ]
        for kind in (*ERROR_KINDS, *TOTALS)
    }


def estimate_text(number: Estimate | None) -> str:
    """`.512 [.498, .526]`, and in braces the interval over seeds, too; a dash for None."""
    if number is None:
        return MISSING
    low, high = number.over_images
    text = f"{number.value:.3f} [{low:.3f}, {high:.3f}]"
    if number.over_seeds is not None:
        text += f" {{{number.over_seeds.low:.3f}, {number.over_seeds.high:.3f}}}"
    return text


def _by_detector(title: str, rows: dict[str, list[str]], detectors: Sequence[ComparedDetector]) -> str:
    return markdown_table(
        [title, *[d.name for d in detectors]], [[name, *cells] for name, cells in rows.items()]
    )


def recall_rows(detectors: Sequence[ComparedDetector]) -> dict[str, list[str]]:
    """Kind of box -> the recall of each detector, for the kinds that there are."""
    rows = {}
    for attribute, kinds in detectors[0].recalls.items():
        for kind, share in kinds.items():
            if share.boxes:
                shares = [d.recalls[attribute][kind] for d in detectors]
                boxes = share.boxes // len(detectors[0].members)
                rows[f"{attribute}: {kind} ({boxes:,})"] = [f"{share.recall:.3f}" for share in shares]
    return rows


def analysis_numbers(detectors: Sequence[ComparedDetector], pairs: Sequence[Difference]) -> dict[str, Any]:
    """For comparison.json; empty lists without detectors."""
    return {
        "detectors": [
            {
                "name": d.name,
                "seeds": [member.seed for member in d.members],
                "runs": [member.record["name"] for member in d.members],
                "estimates": _numbers(d.estimates),
                "per_class": _numbers(d.per_class),
                "error_costs": d.error_costs,
                "error_counts": d.error_counts,
                "d_ece": _known(d.calibration.d_ece),
                "reliability": [
                    {"count": int(count), "score": _known(score), "precision": _known(precision)}
                    for count, score, precision in zip(*d.calibration, strict=True)
                ],
                "recall": {
                    attribute: {
                        kind: {"boxes": s.boxes, "found": s.found, "interval": list(s.interval)}
                        for kind, s in kinds.items()
                    }
                    for attribute, kinds in d.recalls.items()
                },
            }
            for d in detectors
        ],
        "differences": [
            {
                "first": p.first,
                "second": p.second,
                "pairs": p.seeds,
                "estimates": _numbers(p.estimates),
                "p": dict(p.p),
            }
            for p in pairs
        ],
    }


def _numbers(estimates: dict[str, Estimate]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "value": e.value,
            "over_images": list(e.over_images),
            "over_images_and_seeds": None if e.over_seeds is None else list(e.over_seeds),
        }
        for name, e in estimates.items()
    }


def _known(value: float) -> float | None:
    """JSON has no NaN."""
    return None if value != value else float(value)
