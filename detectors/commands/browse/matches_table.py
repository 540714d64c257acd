"""A table of how many matched anchors boxes get, by their size."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from detectors.tables import text_table
from detectors.training.matched_anchors import MatchedAnchors

# the table's rows: square root of a box's area, in pixels of the model input
SIDE_BINS = (0, 8, 16, 32, 64, 128, 256, float("inf"))
MATCHES_HEAD = ("boxes, sqrt(area)", "boxes", "anchors each", "best IoU", "without any")


def matches_table(matches: list[MatchedAnchors]) -> list[str]:
    """One line for each size of box and one for all boxes; matches: one per sample.

    Columns: boxes, mean number of anchors per box, mean best IoU, boxes without an anchor.
    """
    counts = np.concatenate([match.counts for match in matches])
    best_iou = np.concatenate([match.best_iou for match in matches])
    sides = np.concatenate([match.sides for match in matches])
    rows = []
    for low, high in pairwise(SIDE_BINS):
        inside = (sides >= low) & (sides < high)
        if inside.any():
            name = f"{low} px and more" if high == SIDE_BINS[-1] else f"{low} to {high} px"
            rows.append(_table_row(name, counts[inside], best_iou[inside]))
    if len(sides):
        rows.append(_table_row("all", counts, best_iou))
    legend = "pixels of the model input; best IoU: of a box with its own anchors, 0 without any"
    lines = text_table(MATCHES_HEAD, rows, widths=(20, 8, 14, 10, 13), gap=0)
    return [*lines, f"({len(matches)} samples; {legend})"]


def _table_row(name: str, counts: np.ndarray, best_iou: np.ndarray) -> tuple:
    without = (counts == 0).sum()
    return name, len(counts), f"{counts.mean():.2f}", f"{best_iou.mean():.2f}", int(without)
