"""The sections about single runs, which need no saved detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detectors.commands.compare.analysis import TITLES
from detectors.commands.compare.meanings import ESTIMATES, GFLOPS, PARAMETERS
from detectors.commands.compare.report_sections import Head, ReportSection, ReportTable
from detectors.tables import cell

# Title of the column, key in comparison.json, how a number is written, and what it means.
COMPARED = (
    ("run", "name", "s", "a run folder; what tells it from others of its name"),
    ("model", "model", "s", "the builder of the network"),
    *((TITLES[key], key, ".3f", ESTIMATES[key]) for key in ("AP", "AP50", "AP50_voc07", "AP50_voc10")),
    ("input", "input", "s", "width x height of the network's input in pixels"),
    ("parameters", "parameters", ",d", PARAMETERS),
    ("GFLOPs", "gflops", ".2f", GFLOPS),
    (
        "training images/s",
        "train_images_per_second",
        ".1f",
        "as the run measured it itself, loading included",
    ),
    (
        "inference images/s",
        "inference_images_per_second",
        ".1f",
        "as evaluate.py measured it: network and post-processing, without loading",
    ),
    ("steps", "steps", ",d", "optimiser steps of the training"),
    ("images seen", "images_seen", ",d", "training images, repeated ones included"),
    ("training s", "train_seconds", ".0f", "seconds of training, without evaluations"),
    ("device", "device", "s", "what the run was trained on"),
)


def run_sections(runs: Sequence[Mapping[str, Any]]) -> list[ReportSection]:
    """runs: as in comparison.json."""
    return [
        ReportSection("Runs", tables=[_run_table(runs)]),
        ReportSection("Classes of each run", tables=[_class_table(runs)]),
    ]


def _run_table(runs: Sequence[Mapping[str, Any]]) -> ReportTable:
    head = [Head(title, meaning) for title, _, _, meaning in COMPARED]
    cells = [[cell(run.get(key), form) for _, key, form, _ in COMPARED] for run in runs]
    return ReportTable(
        head, [(Head(row[0], run["folder"]), row[1:]) for run, row in zip(runs, cells, strict=True)]
    )


def _class_table(runs: Sequence[Mapping[str, Any]]) -> ReportTable:
    names = list(dict.fromkeys(name for run in runs for name in run["per_class"]))
    meaning = ESTIMATES["AP50_voc10"]
    rows = [
        (
            Head(name, "a class"),
            [cell(run["per_class"].get(name, {}).get("AP50_voc10"), ".3f") for run in runs],
        )
        for name in names
    ]
    return ReportTable(
        [Head(TITLES["AP50_voc10"], meaning), *[Head(run["name"], meaning) for run in runs]], rows
    )
