"""What a comparison says about cost and limits: speed, Pareto front, training, anchors, disagreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detectors.commands.compare import meanings
from detectors.commands.compare.accuracy_sections import Record, detector_heads
from detectors.commands.compare.anchor_shares import ALL_BOXES
from detectors.commands.compare.measured_speed import PHASES
from detectors.commands.compare.pareto import PARETO_COSTS, cost_of
from detectors.commands.compare.plots import curve_plot, pareto_plot
from detectors.commands.compare.report_sections import (
    Head,
    Plot,
    ReportSection,
    ReportTable,
    number_text,
    quartiles_text,
)
from detectors.metrics.recall_by import Share
from detectors.tables import MISSING

CURVE_TITLES = {"step": "steps", "images": "images seen", "hours": "hours of training"}
REACH_RULES = {
    "near": ("any anchor", meanings.NEAR_RECALL, meanings.NEAR_IOU),
    "cell": ("its cell", meanings.CELL_RECALL, meanings.CELL_IOU),
}


def cost_sections(numbers: Record) -> list[ReportSection]:
    """numbers: those of comparison.json, with at least one detector."""
    detectors = numbers["detectors"]
    return [
        *([_speed(detectors, numbers["speed"])] if numbers["speed"] else []),
        *([_pareto(detectors, numbers["pareto"])] if numbers["pareto"] else []),
        *_curves(detectors),
        *_anchors(detectors),
        *([_disagreement(detectors, numbers["disagreement"])] if numbers["disagreement"] else []),
    ]


def _speed(detectors: Sequence[Record], conditions: Record) -> ReportSection:
    known = [d for d in detectors if d["speed"]]
    batch = conditions["batch"]
    heads = [
        Head(f"{phase}, ms", f"{meanings.SPEED[phase]}; milliseconds of an image: {meanings.QUARTILE_WORDS}")
        for phase in (*PHASES, "total")
    ]
    tables = []
    for title, key in (("one image at a time", "latency_ms"), (f"{batch} at a time, of one", "batch_ms")):
        rows = [
            (
                Head(d["name"], f"measured on {d['speed']['run']}"),
                [quartiles_text(n, ".2f") for n in d["speed"][key].values()],
            )
            for d in known
        ]
        tables.append(ReportTable([Head(title, meanings.DETECTOR), *heads], rows))
    rows = [
        (
            Head(d["name"], f"measured on {d['speed']['run']}"),
            [
                quartiles_text(d["speed"]["images_per_second"], ".1f"),
                f"{d['speed']['memory_bytes'] / 2**20:,.1f}",
                number_text(d["parameters"], ",d"),
                number_text(d["gflops"], ".2f"),
            ],
        )
        for d in known
    ]
    head = [
        Head("detector", meanings.DETECTOR),
        Head(f"images/s, {batch} at a time", meanings.IMAGES_PER_SECOND),
        Head("peak memory, MiB", meanings.PEAK_MEMORY),
        Head("parameters", meanings.PARAMETERS),
        Head("GFLOPs", meanings.GFLOPS),
    ]
    return ReportSection(
        "Speed",
        f"Measured in turns on {conditions['device']}, in {conditions['clock']}, on {conditions['images']} "
        f"evaluated images: {conditions['rounds']} rounds with one image and {conditions['batch_rounds']} "
        f"with {batch}. Medians with [quartiles].",
        [*tables, ReportTable(head, rows)],
    )


def _pareto(detectors: Sequence[Record], fronts: Mapping[str, Any]) -> ReportSection:
    forms = {"latency_ms": ".2f", "gflops": ".2f"}
    costs = {"latency_ms": meanings.LATENCY, "gflops": meanings.GFLOPS}
    head = [Head("detector", meanings.DETECTOR), Head("AP", meanings.ESTIMATES["AP"])]
    for cost in fronts:
        head += [Head(PARETO_COSTS[cost], costs[cost]), Head("on the front", meanings.FRONT)]
    rows = []
    for d in detectors:
        cells = [number_text((d["estimates"].get("AP") or {}).get("value"))]
        for cost, front in fronts.items():
            known = d["name"] in front["points"]
            cells += [number_text(cost_of(d, cost), forms[cost])]
            cells += [("yes" if d["name"] in front["front"] else "no") if known else MISSING]
        rows.append((Head(d["name"], meanings.DETECTOR), cells))
    plots = []
    for cost, front in fronts.items():
        points = {
            d["name"]: (*front["points"][d["name"]], d["estimates"]["AP"]["over_images"])
            for d in detectors
            if d["name"] in front["points"]
        }
        svg = pareto_plot(points, front["front"], PARETO_COSTS[cost], "AP")
        plots.append(Plot(svg, "dashed: the Pareto front; upright lines: 95 % intervals over images"))
    return ReportSection(
        "Accuracy against cost",
        "Filled points are on the Pareto front: no other detector is as good in both and better in one.",
        [ReportTable(head, rows)],
        plots,
    )


def _curves(detectors: Sequence[Record]) -> list[ReportSection]:
    known = [d for d in detectors if d["curves"]]
    if not known:
        return []
    plots = []
    for unit, title in CURVE_TITLES.items():
        curves = {d["name"]: [(curve[unit], curve["AP"]) for curve in d["curves"]] for d in known}
        plots.append(Plot(curve_plot(curves, title, "AP in validation"), "a line for each seed"))
    return [ReportSection("Training", "AP in validation, from each run's metrics.csv.", plots=plots)]


def _anchors(detectors: Sequence[Record]) -> list[ReportSection]:
    known = [d for d in detectors if d["anchors"]]
    if not known:
        return []
    rows = []
    for kind, share in known[0]["anchors"]["near"].items():
        if share["boxes"]:
            cells = [text for d in known for text in _anchor_cells(d, kind)]
            rows.append((Head(kind, meanings.RECALL["size"]), [f"{share['boxes']:,}", *cells]))
    head = [Head("boxes by size", meanings.RECALL["size"]), Head("boxes", meanings.BOXES)]
    for d in known:
        for rule, (words, recall, iou) in REACH_RULES.items():
            if d["anchors"][rule]:
                head += [Head(f"{d['name']}, {words}", recall), Head("mean IoU", iou)]
        head.append(Head("found", meanings.FOUND))
    sizes = ", ".join(f"{d['name']} {_grid_text(d['anchors'])}" for d in known)
    return [
        ReportSection(
            "What the anchors could reach",
            f"Recall at IoU .5 of the anchors themselves, in the frame of the network's input: {sizes}. A "
            "detector moves its anchors, so it can find more; boxes far from every anchor are hard to find.",
            [ReportTable(head, rows)],
        )
    ]


def _grid_text(anchors: Record) -> str:
    height, width = anchors["input"]
    return f"{anchors['anchors']:,} anchors in {width} x {height} pixels"


def _anchor_cells(detector: Record, kind: str) -> list[str]:
    cells = []
    for rule in REACH_RULES:
        if shares := detector["anchors"][rule]:
            cells += [number_text(shares[kind]["recall"]), number_text(shares[kind]["mean_iou"])]
    sizes = detector["recall"]["size"]
    found = Share(*map(sum, zip(*((s["boxes"], s["found"]) for s in sizes.values()), strict=True)))
    if kind != ALL_BOXES:
        found = Share(sizes[kind]["boxes"], sizes[kind]["found"])
    return [*cells, number_text(found.recall)]


def _disagreement(detectors: Sequence[Record], images: Sequence[Record]) -> ReportSection:
    rows = [
        (
            Head(str(image["image"]), "an evaluated image"),
            [f"{image['difference']:.3f}", *[f"{value:.3f}" for value in image["f1"].values()]],
        )
        for image in images
    ]
    head = [
        Head("image", "id of an evaluated image"),
        Head("difference", meanings.DIFFERENCE_F1),
        *detector_heads(detectors, meanings.IMAGE_F1),
    ]
    return ReportSection(
        "Where they disagree",
        "The images with the largest difference in F1 at IoU .5, each detector at the score of its best F1.",
        [ReportTable(head, rows)],
    )
