"""What a comparison says about accuracy: intervals, differences, sizes and classes, and the reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detectors.commands.compare import meanings
from detectors.commands.compare.analysis import BY_SIZE, CALIBRATED_FROM, TESTED, TITLES
from detectors.commands.compare.plots import (
    confusion_plot,
    curve_plot,
    error_plot,
    interval_plot,
    reliability_plot,
)
from detectors.commands.compare.report_sections import (
    Head,
    Plot,
    ReportSection,
    ReportTable,
    estimate_text,
    number_text,
)
from detectors.metrics.coco_arrays import RECALL_LEVELS
from detectors.metrics.error_kinds import ERROR_KINDS
from detectors.metrics.recall_by import Share

Record = Mapping[str, Any]  # a detector, or a difference, of comparison.json

WHOLE_MATRIX = 12  # classes up to which the whole confusion matrix is a table
CONFUSIONS = 20  # most frequent confusions otherwise
COMPARED_CLASSES = 3  # pairs up to which the differences of each class stand in the table


def accuracy_sections(numbers: Record) -> list[ReportSection]:
    """numbers: those of comparison.json, with at least one detector."""
    detectors, pairs = numbers["detectors"], numbers["differences"]
    return [
        _accuracy(detectors),
        *([_differences(pairs)] if pairs else []),
        _sizes(detectors, pairs),
        _classes(detectors, pairs),
        _errors(detectors),
        _recall(detectors),
        _calibration(detectors),
        _confusion(detectors),
    ]


def summary_lines(numbers: Record) -> list[str]:
    """The AP of each detector, and whether they differ."""
    detectors = numbers["detectors"]
    lines = [
        f"{d['name']}: AP {estimate_text(d['estimates']['AP'])}" for d in detectors if "AP" in d["estimates"]
    ]
    for pair in numbers["differences"]:
        if (number := pair["estimates"].get("AP")) is not None:
            low, high = number["over_images_and_seeds"] or number["over_images"]
            verdict = "they differ" if low > 0 or high < 0 else "the interval holds 0: no winner"
            lines.append(f"{pair['name']}: AP {estimate_text(number)}, p {pair['p']['AP']:.3f}; {verdict}")
    return lines


def detector_heads(detectors: Sequence[Record], meaning: str) -> list[Head]:
    return [Head(detector["name"], meaning) for detector in detectors]


def _estimate_heads(titles: Mapping[str, str]) -> list[Head]:
    return [
        Head(title, f"{meanings.ESTIMATES[name]}. {meanings.INTERVAL_WORDS}")
        for name, title in titles.items()
    ]


def _accuracy(detectors: Sequence[Record]) -> ReportSection:
    rows = [
        (
            Head(d["name"], meanings.DETECTOR),
            [
                str(len(d["seeds"])),
                *[estimate_text(d["estimates"].get(name)) for name in TITLES],
                f"{d['best_f1']['value']:.3f}",
                f"{d['best_f1']['score']:.3f}",
            ],
        )
        for d in detectors
    ]
    head = [
        Head("detector", meanings.DETECTOR),
        Head("seeds", meanings.SEEDS),
        *_estimate_heads(TITLES),
        Head("best F1", meanings.BEST_F1),
        Head("at score", meanings.BEST_SCORE),
    ]
    plots = []
    if all("AP" in d["estimates"] for d in detectors):
        intervals = interval_plot([(d["name"], d["estimates"]["AP"]) for d in detectors], "AP")
        plots = [Plot(intervals, "thick: 95 % over images; thin: over images and seeds")]
    curves = {
        d["name"]: [(RECALL_LEVELS, _or_nan(curve)) for curve in d["precision_recall"]] for d in detectors
    }
    precision = curve_plot(curves, "recall", "precision", xlim=(0, 1), ylim=(0, 1.02))
    plots.append(Plot(precision, "IoU .5, the mean over classes, a line for each seed"))
    return ReportSection(
        "Accuracy",
        "Means over the seeds. 95 % intervals: [over images], by resampling; {over images and seeds}, where "
        "there are several seeds.",
        [ReportTable(head, rows)],
        plots,
    )


def _or_nan(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values])


def _differences(pairs: Sequence[Record]) -> ReportSection:
    rows = [
        (
            Head(pair["name"], meanings.PAIR),
            [
                str(pair["pairs"]),
                *[estimate_text(pair["estimates"].get(name)) for name in TITLES],
                *[f"{pair['p'][name]:.3f}" for name in TESTED],
            ],
        )
        for pair in pairs
    ]
    head = [
        Head("pair", meanings.PAIR),
        Head("pairs of runs", meanings.RUN_PAIRS),
        *_estimate_heads(TITLES),
        *[Head(f"p ({name})", f"{name}: {meanings.P_VALUE}") for name in TESTED],
    ]
    known = [(pair["name"], pair["estimates"]["AP"]) for pair in pairs if "AP" in pair["estimates"]]
    plots = [Plot(interval_plot(known, "difference in AP", zero=True), "paired by image and seed")]
    return ReportSection(
        "Differences",
        "Paired by image and seed, with the same resampled images for both. p: of exchanging the two "
        "detectors on random images.",
        [ReportTable(head, rows)],
        plots if known else [],
    )


def _sizes(detectors: Sequence[Record], pairs: Sequence[Record]) -> ReportSection:
    rows = [
        (
            Head(record["name"], meanings.PAIR if "first" in record else meanings.DETECTOR),
            [estimate_text(record["estimates"].get(name)) for name in BY_SIZE],
        )
        for record in (*detectors, *pairs)
    ]
    head = [Head("detector or pair", f"{meanings.DETECTOR}; {meanings.PAIR}"), *_estimate_heads(BY_SIZE)]
    return ReportSection("Sizes", "AP (COCO) of small, medium and large boxes.", [ReportTable(head, rows)])


def _classes(detectors: Sequence[Record], pairs: Sequence[Record]) -> ReportSection:
    records = [*detectors, *(pairs if len(pairs) <= COMPARED_CLASSES else [])]
    meaning = f"{meanings.ESTIMATES['AP']}; of this class alone. {meanings.INTERVAL_WORDS}"
    names = detectors[0]["confusion"]["class_names"]
    rows = [
        (Head(name, "a class"), [estimate_text(record["per_class"].get(name)) for record in records])
        for name in names
    ]
    head = [Head("class", "a class"), *detector_heads(records, meaning)]
    return ReportSection("Classes", "AP (COCO) of each class.", [ReportTable(head, rows)])


def _errors(detectors: Sequence[Record]) -> ReportSection:
    rows = [
        (
            Head(meanings.TOTALS.get(kind, kind), meanings.ERRORS[kind]),
            [f"{d['error_costs'][kind]:.3f} ({d['error_counts'][kind]:,.0f})" for d in detectors],
        )
        for kind in (*ERROR_KINDS, *meanings.TOTALS)
    ]
    head = [Head("error", "a kind of error"), *detector_heads(detectors, meanings.ERROR_CELL)]
    return ReportSection(
        "Errors",
        "What AP50 would gain without each kind of error (TIDE), and how many there are in one run.",
        [ReportTable(head, rows)],
        [Plot(error_plot(detectors), "the longer, the more AP50 is lost")],
    )


def _recall(detectors: Sequence[Record]) -> ReportSection:
    rows = []
    for attribute, kinds in detectors[0]["recall"].items():
        for kind, share in kinds.items():
            if share["boxes"]:
                boxes = share["boxes"] // len(detectors[0]["seeds"])
                cells = [_share_text(d["recall"][attribute][kind]) for d in detectors]
                rows.append(
                    (Head(f"{attribute}: {kind}", meanings.RECALL[attribute]), [f"{boxes:,}", *cells])
                )
    head = [
        Head("kind of box", "what is asked of a box, and the answer"),
        Head("boxes", meanings.BOXES),
        *detector_heads(detectors, f"{meanings.RECALL_CELL}; [Wilson's 95 % interval]"),
    ]
    return ReportSection(
        "Which boxes are found",
        "Recall at IoU .5 of all detections, by kind of box.",
        [ReportTable(head, rows)],
    )


def _share_text(share: Record) -> str:
    low, high = share["interval"]
    return f"{Share(share['boxes'], share['found']).recall:.3f} [{low:.3f}, {high:.3f}]"


def _calibration(detectors: Sequence[Record]) -> ReportSection:
    rows = [(Head("D-ECE", meanings.D_ECE), [number_text(d["d_ece"]) for d in detectors])]
    table = ReportTable(
        [Head("calibration", "whether scores are probabilities"), *detector_heads(detectors, meanings.D_ECE)],
        rows,
    )
    return ReportSection(
        "Calibration",
        f"Detections with a score of {CALIBRATED_FROM} or more. On the diagonal, seven in ten with score .7 "
        "are right. D-ECE is the mean distance from it.",
        [table],
        [Plot(reliability_plot(detectors), "20 bins of the score, all seeds together")],
    )


def _confusion(detectors: Sequence[Record]) -> ReportSection:
    names = detectors[0]["confusion"]["class_names"]
    whole = len(names) <= WHOLE_MATRIX
    tables = [_matrix_table(d, names) if whole else _confusions_table(d, names) for d in detectors]
    plots = [
        Plot(
            confusion_plot(np.array(d["confusion"]["counts"]), names),
            f"{d['name']}, score {d['best_f1']['score']:.3f} or more; shade: share of the row",
        )
        for d in detectors
    ]
    what = "" if whole else f" The {CONFUSIONS} most frequent confusions; all counts are in the JSON file."
    return ReportSection(
        "Confusion",
        "Which class is taken for which, over all seeds, at the score of the best F1 and IoU above .5. Rows "
        f"are the true classes.{what}",
        tables,
        plots,
    )


def _matrix_table(detector: Record, names: Sequence[str]) -> ReportTable:
    rows = [
        (
            Head(name, "a true class; the last row: detections without a box"),
            [f"{count:,}" for count in counts],
        )
        for name, counts in zip((*names, "no box"), detector["confusion"]["counts"], strict=True)
    ]
    head = [
        Head(f"true, {detector['name']}", meanings.CONFUSION),
        *[Head(name, meanings.CONFUSION) for name in names],
        Head("missed", "boxes of the row's class that no detection has taken"),
    ]
    return ReportTable(head, rows)


def _confusions_table(detector: Record, names: Sequence[str]) -> ReportTable:
    counts = np.array(detector["confusion"]["counts"])[:-1, :-1]
    boxes = np.array(detector["confusion"]["counts"])[:-1].sum(1)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:CONFUSIONS]
    rows = [
        (
            Head(f"{names[true]} as {names[taken]}", meanings.CONFUSION),
            [f"{counts[true, taken]:,}", f"{counts[true, taken] / boxes[true]:.3f}"],
        )
        for true, taken in zip(*np.unravel_index(order, counts.shape), strict=True)
        if counts[true, taken]
    ]
    head = [
        Head(f"confusion, {detector['name']}", meanings.CONFUSION),
        Head("boxes", "boxes of the first class that are taken for the second one"),
        Head("share", "of the boxes of the first class"),
    ]
    return ReportTable(head, rows)
