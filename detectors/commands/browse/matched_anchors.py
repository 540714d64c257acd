"""Which anchors are matched to which box of a sample, and a table of how many each box gets."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from detectors.boxes import paired_iou
from detectors.data.loading import Sample, collate
from detectors.models.detector import Detector
from detectors.tables import text_table

# the table's rows: square root of a box's area, in pixels of the model input
SIDE_BINS = (0, 8, 16, 32, 64, 128, 256, float("inf"))
MATCHES_HEAD = ("boxes, sqrt(area)", "boxes", "anchors each", "best IoU", "without any")


class MatchedAnchors(NamedTuple):
    """P matched anchors of one sample with n boxes."""

    anchors: np.ndarray  # (P, 4) float32 xyxy pixels of the model input
    box_rows: np.ndarray  # (P,) int64: the anchor's box, a row of the sample's boxes
    counts: np.ndarray  # (n,) int64: anchors of each box
    best_iou: np.ndarray  # (n,) IoU of each box with the best of its anchors, 0 without any
    sides: np.ndarray  # (n,) square root of each box's area, pixels of the model input


@torch.no_grad()
def matched_anchors(detector: Detector, sample: Sample) -> MatchedAnchors:
    """Uses the detector's own anchors, matcher and encoder, as its loss does.

    detector: in evaluation mode, so that it does not change.
    """
    batch = collate([sample])
    grid = detector.grid(batch.images.shape[-2:])
    outputs = detector(batch.images) if detector.encoder.matcher.needs_predictions else None
    matched = detector.encoder(batch.targets, grid, outputs).matched[0]  # (A,)
    positive = torch.nonzero(matched >= 0).squeeze(1)  # (P,)
    anchors = grid.boxes[positive]
    box_rows = matched[positive]
    ious = paired_iou(sample.boxes[box_rows], anchors).numpy()
    rows = box_rows.numpy()
    best_iou = np.zeros(len(sample.boxes))
    np.maximum.at(best_iou, rows, ious)
    counts = np.bincount(rows, minlength=len(best_iou))
    sides = (sample.boxes[:, 2:] - sample.boxes[:, :2]).prod(1).sqrt().numpy()
    return MatchedAnchors(anchors.numpy(), rows, counts, best_iou, sides)


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
