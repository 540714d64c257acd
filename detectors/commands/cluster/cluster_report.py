"""The results of detectors cluster, and their text."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from detectors.data.augment.transforms import MIN_SIDE
from detectors.tables import cell, text_table

RECALL_IOU = 0.5  # a box is covered by an anchor from this IoU on
PAPER_MEAN_IOUS = {5: 0.610, 9: 0.672}  # YOLO9000, table 1: Avg IOU on VOC 2007
PAPER_SETS = ("voc07", "voc0712", "voc0712plus")


@dataclass(frozen=True)
class AnchorSet:
    """Named anchors and how well they cover the boxes."""

    name: str
    wh: list[list[float]]  # distinct shapes in pixels of the model input
    mean_iou: float
    recall: float  # share of boxes with an IoU of at least RECALL_IOU


@dataclass(frozen=True)
class ClusterResult:
    """Everything that is printed, plotted and written to the JSON file."""

    data: str
    train: list[str]
    size: list[int]  # (height, width) of the model input
    resize: str
    images: int
    boxes: int
    difficult: int  # of the boxes
    too_small: int  # boxes left out because a side is below MIN_SIDE
    settings: dict[str, int]  # k, sample, restarts, seed
    curve: dict[int, float]  # k -> mean IoU
    curve_not_difficult: dict[int, float]  # the same without difficult objects; empty if there are none
    proposed: dict[str, list]  # {keyword of the model: value}
    unit: str  # of the value
    sets: list[AnchorSet]  # proposed, configured, then published ones
    groups: list[dict]  # by class and size: name, boxes; mean_iou and recall of the first two sets


def paper_curve(data: str) -> dict[int, float]:
    """k -> mean IoU in the paper; empty for data sets that it does not report."""
    return PAPER_MEAN_IOUS if data in PAPER_SETS else {}


def summary(result: ClusterResult) -> str:
    height, width = result.size
    return (
        f"{result.data} {'+'.join(result.train)}: {result.boxes:,} boxes on {result.images:,} images, "
        f"{result.resize} to {width}x{height}"
    )


def result_lines(result: ClusterResult, overrides: Sequence[str]) -> Iterator[str]:
    """The report as text. Its last line is a train.py command with the overrides and the proposed anchors."""
    difficult = f"{result.difficult:,}" if result.difficult else "none"
    too_small = f"; {result.too_small:,} narrower than {MIN_SIDE:g} px left out" if result.too_small else ""
    yield f"{summary(result)}; {difficult} of them difficult{too_small}"
    yield ""
    yield from _curve_table(result)
    yield ""
    yield from _set_table(result.sets)
    yield ""
    yield from _group_table(result.groups)
    ((keyword, value),) = result.proposed.items()
    yield f"\nmodel:\n  {keyword}: {value} # {result.unit}\n"
    override = f"model.{keyword}={value}".replace(" ", "")
    yield "python train.py " + shlex.join([*overrides, override])


def _curve_table(result: ClusterResult) -> Iterator[str]:
    """Mean IoU for each k; columns without values are left out."""
    curves = {
        "mean IoU": result.curve,
        "without difficult": result.curve_not_difficult,
        "YOLO9000, VOC 2007": paper_curve(result.data),
    }
    columns = {title: curve for title, curve in curves.items() if curve}
    rows = [(f"k = {k}", *(cell(curve.get(k), ".4f") for curve in columns.values())) for k in result.curve]
    return text_table(("k-means", *columns), rows)


def _set_table(sets: Sequence[AnchorSet]) -> Iterator[str]:
    rows = [
        (
            anchors.name,
            cell(len(anchors.wh), ",d"),
            cell(anchors.mean_iou, ".4f"),
            cell(anchors.recall, ".4f"),
        )
        for anchors in sets
    ]
    return text_table(("anchors", "shapes", "mean IoU", f"recall at {RECALL_IOU}"), rows)


def _group_table(groups: Sequence[dict]) -> Iterator[str]:
    head = ("boxes of", "boxes", "recall: proposed", "configured", "mean IoU: proposed", "configured")
    rows = [
        (
            group["name"],
            cell(group["boxes"], ",d"),
            *(cell(value, ".4f") for value in group["recall"]),
            *(cell(value, ".4f") for value in group["mean_iou"]),
        )
        for group in groups
    ]
    return text_table(head, rows)
