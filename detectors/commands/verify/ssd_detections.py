"""SSD's detections (det_*.npz) by Caffe, ssd.pytorch (ssdpt) and torchvision (tv); L2Norm (l2norm.npz)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from detectors.boxes import clip
from detectors.coders import SSDBoxCoder
from detectors.commands.verify import ssd_recordings
from detectors.commands.verify.comparison import (
    EXACT,
    Comparison,
    Fixture,
    Tolerance,
    agree,
    compare_numbers,
    known_difference,
    merge,
)
from detectors.commands.verify.recordings import Arrays, Folder
from detectors.commands.verify.region_decoding import anchor_numbers
from detectors.layers import L2Norm
from detectors.postprocess import PostProcess, ssd_scores
from detectors.structures import AnchorGrid, Detections, HeadOutputs

DETECTIONS = Tolerance(absolute=1e-5, relative=1e-5)


LARGEST_LOG_SCALE = math.log(1000 / 16)  # torchvision's BoxCoder


class TorchvisionBoxCoder(SSDBoxCoder):
    """Limits how much larger than its default box a box can be, and clips boxes to the image."""

    def decode(self, offsets: Tensor, grid: AnchorGrid) -> Tensor:
        shift, log_scale = (offsets * self.variances).split(2, -1)
        limited = torch.cat([shift, log_scale.clamp(max=LARGEST_LOG_SCALE)], -1)
        return clip(super().decode(limited / self.variances, grid), grid.size)


class DetectionRules(NamedTuple):
    """A program's boxes, how many it keeps of a class before suppression, and in all after it."""

    coder: SSDBoxCoder
    candidates_per_class: int
    max_detections: int | None
    known: str = ""  # the documented difference, if the product has another rule


RULES = {
    "caffe": DetectionRules(SSDBoxCoder(), 400, 200),
    "ssdpt": DetectionRules(SSDBoxCoder(), 200, None),
    "tv": DetectionRules(
        TorchvisionBoxCoder(),
        400,
        200,
        known="torchvision limits box sizes and clips boxes to the image before suppression, "
        "which is not offered here; with both, the detections are the same",
    ),
}


def detection_fixtures(folder: Folder, name: Path) -> Iterator[Fixture]:
    """One det_*.npz."""
    yield Fixture(name.stem, partial(_detections, folder.arrays(name), (folder.root / name).parent))


def l2norm(folder: Folder, name: Path) -> Iterator[Fixture]:
    """l2norm.npz."""
    yield Fixture(name.stem, partial(_l2norm, folder.arrays(name)))


def _detections(arrays: Arrays, folder: Path) -> Iterator[Comparison]:
    arrays.skip("notes", "margins")
    loc, conf = ssd_recordings.predictions(arrays)
    outputs = HeadOutputs(loc.double(), conf.double())
    grid = ssd_recordings.recorded_grid(arrays, folder, torch.float64)
    boxes = SSDBoxCoder().decode(outputs.offsets, grid)[0]
    for prefix, rules in RULES.items():
        if f"{prefix}_det" not in arrays:
            continue
        postprocess = PostProcess(
            coder=rules.coder,
            score_rule=ssd_scores,
            score_threshold=0.01,
            nms_iou=0.45,
            candidates_per_class=rules.candidates_per_class,
            max_detections=rules.max_detections,
        )
        detections = postprocess(outputs, grid)
        recorded = arrays[f"{prefix}_det"].astype(np.float64)
        if recorded.shape[1] == 7:  # the default box of each detection comes first
            anchors = anchor_numbers(detections, boxes).tolist()
            ours = set(zip(anchors, (detections.labels + 1).tolist(), strict=True))
            pairs = {tuple(row) for row in recorded[:, :2].astype(int).tolist()}
            yield agree(f"{prefix}: default boxes and labels", ours, pairs)
            recorded = recorded[:, 1:]
        rows = _rows(prefix, detections, recorded)
        if rules.known:
            yield known_difference(merge(f"{prefix}: detections", list(rows)), rules.known)
        else:
            yield from rows


def _rows(prefix: str, detections: Detections, recorded: np.ndarray) -> Iterator[Comparison]:
    """Compares rows [label, score, x1, y1, x2, y2] in any order. Boxes are relative to the image."""
    labels = detections.labels[:, None] + 1
    boxes = detections.boxes / ssd_recordings.INPUT_SIDE
    ours = _sorted_rows(torch.cat([labels, detections.scores[:, None], boxes], 1).numpy())
    recorded = _sorted_rows(recorded)
    if len(recorded) and np.array_equal(ours[:, 0], recorded[:, 0]):
        ours = np.concatenate(
            [_paired(ours[rows], recorded[rows]) for rows in _rows_of_labels(recorded[:, 0])]
        )
    yield compare_numbers(f"{prefix}: labels", ours[:, 0], recorded[:, 0], EXACT)
    yield compare_numbers(f"{prefix}: scores", ours[:, 1], recorded[:, 1], DETECTIONS)
    yield compare_numbers(f"{prefix}: boxes", ours[:, 2:], recorded[:, 2:], DETECTIONS)


def _sorted_rows(rows: np.ndarray) -> np.ndarray:
    """By label, then by falling score."""
    return rows[np.lexsort((-rows[:, 1], rows[:, 0]))]


def _rows_of_labels(labels: np.ndarray) -> list[np.ndarray]:
    """The row numbers of each label."""
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]


def _paired(ours: np.ndarray, recorded: np.ndarray) -> np.ndarray:
    """Our rows, each in the place of the recorded row that it is nearest to.

    Rows with equal scores come in any order. If two recorded rows share a nearest row, the order stays.
    """
    nearest = np.abs(recorded[:, None] - ours[None]).max(-1).argmin(1)
    return ours[nearest] if len(np.unique(nearest)) == len(ours) else ours


def _l2norm(arrays: Arrays) -> Iterator[Comparison]:
    """Output and exact gradients of sum(y * w)."""
    arrays.skip("notes")
    layer = L2Norm(len(arrays["scale"]))
    layer.scale.data = torch.from_numpy(arrays["scale"])
    x = torch.from_numpy(arrays["x"]).requires_grad_()
    y = layer(x)
    (y * torch.from_numpy(arrays["w"])).sum().backward()
    for name, ours in (("y", y), ("grad_x", x.grad), ("grad_scale", layer.scale.grad)):
        # The gradients of a tiny pixel are a million times larger than the others, so the tolerance is taken
        # from the median and not from the maximum.
        typical = float(np.median(np.abs(arrays[name])))
        yield compare_numbers(name, ours, arrays[name], Tolerance(absolute=1e-6 * typical, relative=2e-5))
    if "grad_x_caffe_layer" in arrays:
        yield _caffes_gradient(arrays)


def _caffes_gradient(arrays: Arrays) -> Comparison:
    """Caffe's layer back-propagates to x as if all scales were 1, and multiplies by each scale afterwards."""
    x = torch.from_numpy(arrays["x"]).double().requires_grad_()
    norm = torch.sqrt(1e-10 + x.square().sum(1, keepdim=True))
    (x / norm * torch.from_numpy(arrays["w"])).sum().backward()
    gradient = x.grad * torch.from_numpy(arrays["scale"])[:, None, None]
    name = "grad_x_caffe_layer"
    return known_difference(
        compare_numbers(name, gradient, arrays[name], Tolerance(absolute=1e-9, relative=1e-9)),
        "Caffe's layer leaves the scales out of its sum over channels, which is inexact if they differ; "
        "here the gradient is exact",
    )
