"""Which anchors have to find which truth of a sample, and the table of how many each truth gets."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from detectors.boxes import paired_iou
from detectors.data.loading import Sample, collate
from detectors.models.detector import Detector

SIDE_BINS = (
    0,
    8,
    16,
    32,
    64,
    128,
    256,
    float("inf"),
)  # of the table's rows: square root of a truth's area, pixels of the model input
MATCHES_HEAD = (
    f"{'truths, sqrt(area)':<20}{'truths':>8}{'anchors each':>14}{'best IoU':>10}{'without any':>13}"
)


class MatchedAnchors(NamedTuple):
    """Those of one sample; n truths, P anchors."""

    anchors: np.ndarray  # (P, 4) float32 xyxy pixels of the model input
    truth: np.ndarray  # (P,) int64: row of the sample's boxes
    counts: np.ndarray  # (n,) int64: anchors of each truth
    best_iou: np.ndarray  # (n,) IoU of each truth with the best of its anchors, 0 without any
    sides: np.ndarray  # (n,) square root of each truth's area, pixels


@torch.no_grad()
def matched_anchors(detector: Detector, sample: Sample) -> MatchedAnchors:
    """By the detector's own anchors, matcher and encoder, as in its loss. detector: in evaluation mode, so that it stays as it is."""
    batch = collate([sample])
    grid = detector.grid(batch.images.shape[-2:])
    outputs = detector(batch.images) if detector.encoder.matcher.needs_predictions else None
    matched = detector.encoder(batch.targets, grid, outputs).matched[0]  # (A,)
    rows = torch.nonzero(matched >= 0).squeeze(1)
    anchors, truth, best = grid.boxes[rows], matched[rows], np.zeros(len(sample.boxes))
    np.maximum.at(best, truth.numpy(), paired_iou(sample.boxes[truth], anchors).numpy())
    sides = (sample.boxes[:, 2:] - sample.boxes[:, :2]).prod(1).sqrt().numpy()
    return MatchedAnchors(
        anchors.numpy(), truth.numpy(), np.bincount(truth.numpy(), minlength=len(best)), best, sides
    )


def matches_table(found: list[MatchedAnchors]) -> list[str]:
    """One line for each size of truth and one for all: truths, means of their anchors and best IoU, truths without an anchor."""
    counts, best, sides = (
        np.concatenate([getattr(f, name) for f in found]) for name in ("counts", "best_iou", "sides")
    )
    lines = [MATCHES_HEAD]
    buckets = [
        (
            f"{low} px and more" if high == SIDE_BINS[-1] else f"{low} to {high} px",
            (sides >= low) & (sides < high),
        )
        for low, high in pairwise(SIDE_BINS)
    ]
    for name, inside in [*buckets, ("all", np.ones(len(sides), bool))]:
        if inside.any():
            each, iou = counts[inside].mean(), best[inside].mean()
            lines.append(
                f"{name:<20}{inside.sum():>8}{each:>14.2f}{iou:>10.2f}{(counts[inside] == 0).sum():>13}"
            )
    return [
        *lines,
        f"({len(found)} samples; pixels of the model's input; best IoU: of a truth with its own anchors, 0 without any)",
    ]
