"""The comparison as one self-contained HTML file: no network, light and dark, with sortable tables."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, StrictUndefined

from detectors.commands.compare.analysis import CALIBRATED_FROM, TITLES, ComparedDetector, Difference
from detectors.commands.compare.analysis_text import (
    TOTALS,
    difference_rows,
    error_rows,
    estimate_rows,
    estimate_text,
    recall_rows,
)
from detectors.commands.compare.plots import (
    curve_plot,
    error_plot,
    interval_plot,
    reliability_plot,
    scatter_plot,
)
from detectors.metrics.coco_arrays import RECALL_LEVELS
from detectors.metrics.error_kinds import ERROR_KINDS
from detectors.tables import cell, printable
from detectors.training.csv_log import METRICS

TEMPLATE = Path(__file__).with_name("comparison_page.html")
MEANINGS = {
    "AP": "COCO's AP: the mean over IoU .50:.05:.95, 101 recall levels and the classes",
    "AP50": "COCO's AP at IoU .5",
    "AP75": "COCO's AP at IoU .75",
    "AP50_voc07": "PASCAL VOC 2007: IoU above .5, 11 recall levels",
    "AP50_voc10": "PASCAL VOC 2010 and later: IoU above .5, the area under the curve",
    "class": "wrong class: IoU .5 or more with a box of another class",
    "location": "right class, but IoU from .1 to .5",
    "both": "wrong class, and IoU from .1 to .5",
    "duplicate": "a second detection of a box that is found",
    "background": "IoU below .1 with every box",
    "missed": "boxes that no detection found, nor would find with its class or place corrected",
    "wrong": "without all wrong detections",
    "unfound": "without all boxes that are not found",
    "p": "share of random exchanges of the two, image by image, that give as large a difference",
}


class Head(NamedTuple):
    word: str
    meaning: str = ""


class HtmlTable(NamedTuple):
    head: Sequence[Head]
    rows: Sequence[Sequence[str]]


class Plot(NamedTuple):
    svg: str
    caption: str


@dataclass
class PageSection:
    title: str
    text: str = ""
    tables: list[HtmlTable] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)


def comparison_page(
    runs: Sequence[Mapping[str, Any]],
    run_head: Sequence[tuple[str, str, str]],
    detectors: Sequence[ComparedDetector],
    pairs: Sequence[Difference],
    *,
    unfair: Sequence[str],
    notes: Sequence[str],
    command: Sequence[str],
) -> str:
    """The HTML text. run_head: title, key and format of each column of the runs' table."""
    names = [detector.name for detector in detectors] or [run["name"] for run in runs]
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=printable(" and ".join(names)),
        unfair=[printable(reason) for reason in unfair],
        summary=_summary(detectors, pairs),
        sections=[
            *(_analysis_sections(detectors, pairs) if detectors else []),
            *_training_sections(detectors),
            _runs(runs, run_head),
        ],
        notes=[printable(note) for note in notes],
        command=printable(shlex.join(command)),
    )


def _summary(detectors: Sequence[ComparedDetector], pairs: Sequence[Difference]) -> list[str]:
    lines = [f"{d.name}: AP {estimate_text(d.estimates['AP'])}" for d in detectors if "AP" in d.estimates]
    for pair in pairs:
        if (number := pair.estimates.get("AP")) is not None:
            low, high = number.over_seeds or number.over_images
            verdict = "they differ" if low > 0 or high < 0 else "the interval holds 0: no winner"
            lines.append(f"{pair.name}: AP {estimate_text(number)}, p {pair.p['AP']:.3f}; {verdict}")
    return lines


def _analysis_sections(
    detectors: Sequence[ComparedDetector], pairs: Sequence[Difference]
) -> list[PageSection]:
    heads = [Head(title, MEANINGS[name]) for name, title in TITLES.items()]
    names = [Head(detector.name) for detector in detectors]
    class_rows = [
        [name, *[estimate_text(d.per_class.get(name)) for d in detectors]]
        for name in detectors[0].members[0].annotations.class_names
    ]
    recalls = [[name, *cells] for name, cells in recall_rows(detectors).items()]
    return [
        _accuracy(detectors, heads),
        *([_differences(pairs, heads)] if pairs else []),
        _errors(detectors, names),
        PageSection("Classes", "AP (COCO) of each class.", [HtmlTable([Head("class"), *names], class_rows)]),
        PageSection(
            "Which boxes are found",
            "Recall at IoU .5 of all detections, by kind of box, and how many such boxes there are.",
            [HtmlTable([Head("boxes"), *names], recalls)],
        ),
        PageSection(
            "Calibration",
            f"Detections with a score of {CALIBRATED_FROM} or more. On the diagonal, seven in ten with score "
            ".7 are right. D-ECE is the mean distance from it.",
            plots=[Plot(reliability_plot(detectors), "20 bins of the score, all seeds together")],
        ),
    ]


def _accuracy(detectors: Sequence[ComparedDetector], heads: Sequence[Head]) -> PageSection:
    plots = []
    if all("AP" in d.estimates for d in detectors):
        intervals = interval_plot([(d.name, d.estimates["AP"]) for d in detectors], "AP")
        plots = [
            Plot(intervals, "thick: over images; thin: over images and seeds"),
            Plot(_precision_plot(detectors), "IoU .5, the mean over classes, a line for each seed"),
        ]
    return PageSection(
        "Accuracy",
        "Means over the seeds. 95 % intervals: [over images], by resampling; {over images and seeds}, where "
        "there are several seeds.",
        [HtmlTable([Head("detector"), Head("seeds"), *heads], estimate_rows(detectors))],
        plots,
    )


def _errors(detectors: Sequence[ComparedDetector], names: Sequence[Head]) -> PageSection:
    kinds = (*ERROR_KINDS, *TOTALS)
    rows = [
        [f"{word}: {MEANINGS[kind]}", *cells]
        for kind, (word, cells) in zip(kinds, error_rows(detectors).items(), strict=True)
    ]
    return PageSection(
        "Errors",
        "What AP50 would gain without each kind of error (TIDE), and how many there are in one run.",
        [HtmlTable([Head("error"), *names], rows)],
        [Plot(error_plot(detectors), "the longer, the more AP50 is lost")],
    )


def _differences(pairs: Sequence[Difference], heads: Sequence[Head]) -> PageSection:
    rows = [
        [*cells, f"{pair.p['AP']:.3f}"] for pair, cells in zip(pairs, difference_rows(pairs), strict=True)
    ]
    known = [(pair.name, pair.estimates["AP"]) for pair in pairs if "AP" in pair.estimates]
    plots = [Plot(interval_plot(known, "difference in AP", zero=True), "paired by image and seed")]
    return PageSection(
        "Differences",
        "Paired by image and seed, with the same resampled images for both.",
        [HtmlTable([Head("pair"), Head("pairs of runs"), *heads, Head("p (AP)", MEANINGS["p"])], rows)],
        plots if known else [],
    )


def _precision_plot(detectors: Sequence[ComparedDetector]) -> str:
    curves = {d.name: [(RECALL_LEVELS, curve) for curve in d.precision] for d in detectors}
    return curve_plot(curves, "recall", "precision", xlim=(0, 1), ylim=(0, 1.02))


def _training_sections(detectors: Sequence[ComparedDetector]) -> list[PageSection]:
    plots = []
    for x, title in (("step", "steps"), ("images", "images seen"), ("hours", "hours of training")):
        curves = {
            d.name: [curve for member in d.members if (curve := validation_curve(member.record, x))]
            for d in detectors
        }
        curves = {name: seeds for name, seeds in curves.items() if seeds}
        if curves:
            plots.append(Plot(curve_plot(curves, title, "AP in validation"), "a line for each seed"))
    costs = {"gflops": "GFLOPs of one image", "inference_images_per_second": "images a second"}
    for key, title in costs.items():
        points = {
            d.name: [
                (m.record[key], m.record["AP"])
                for m in d.members
                if None not in (m.record.get(key), m.record["AP"])
            ]
            for d in detectors
        }
        if any(points.values()):
            caption = "a point for each run" + ("" if key == "gflops" else ", as evaluate.py measured it")
            plots.append(Plot(scatter_plot(points, title, "AP"), caption))
    return [PageSection("Training and cost", plots=plots)] if plots else []


def validation_curve(record: Mapping[str, Any], x: str) -> tuple[np.ndarray, np.ndarray] | None:
    """val/AP in a run's metrics.csv against "step", "images" or "hours"; None without two points.

    Hours are the run's own, shared out evenly over its steps.
    """
    if record["steps"] is None:
        return None
    folder = Path(record["folder"])
    path = (folder if folder.is_dir() else folder.parent) / METRICS
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [
                (int(row["step"]), float(row["value"]))
                for row in csv.DictReader(file)
                if row["tag"] == "val/AP"
            ]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if len(rows) < 2:
        return None
    steps, values = map(np.array, zip(*rows, strict=True))
    per_step = {
        "step": 1.0,
        "images": record["images_seen"] / record["steps"],
        "hours": record["train_seconds"] / record["steps"] / 3600,
    }
    return steps * per_step[x], values


def _runs(runs: Sequence[Mapping[str, Any]], head: Sequence[tuple[str, str, str]]) -> PageSection:
    table = HtmlTable(
        [Head(title, MEANINGS.get(key, "")) for title, key, _ in head],
        [[printable(cell(run.get(key), form)) for _, key, form in head] for run in runs],
    )
    return PageSection("Runs", "Images a second are as each run measured them itself.", [table])
