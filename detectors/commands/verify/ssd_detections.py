"""SSD's detections (det_*.npz) by Caffe, ssd.pytorch (ssdpt) and torchvision (tv); L2Norm (l2norm.npz)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from detectors.coders import SSDBoxCoder
from detectors.commands.verify import ssd_recordings
from detectors.commands.verify.comparison import (
    EXACT,
    Comparison,
    Fixture,
    Tolerance,
    absent,
    agree,
    compare_numbers,
)
from detectors.commands.verify.recordings import Arrays, Folder
from detectors.commands.verify.region_decoding import anchor_numbers
from detectors.layers import L2Norm
from detectors.postprocess import PostProcess, ssd_scores
from detectors.structures import Detections, HeadOutputs

DETECTIONS = Tolerance(absolute=1e-5, relative=1e-5)


class Limits(NamedTuple):
    """How many detections a program keeps of each class before suppression, and in all after it."""

    candidates_per_class: int
    max_detections: int | None


LIMITS = {"caffe": Limits(400, 200), "ssdpt": Limits(200, None)}


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
    for prefix, limits in LIMITS.items():
        if f"{prefix}_det" not in arrays:
            continue
        postprocess = PostProcess(
            coder=SSDBoxCoder(),
            score_rule=ssd_scores,
            score_threshold=0.01,
            nms_iou=0.45,
            candidates_per_class=limits.candidates_per_class,
            max_detections=limits.max_detections,
        )
        detections = postprocess(outputs, grid)
        recorded = arrays[f"{prefix}_det"].astype(np.float64)
        if recorded.shape[1] == 7:  # the default box of each detection comes first
            anchors = anchor_numbers(detections, boxes).tolist()
            ours = set(zip(anchors, (detections.labels + 1).tolist(), strict=True))
            pairs = {tuple(row) for row in recorded[:, :2].astype(int).tolist()}
            yield agree(f"{prefix}: default boxes and labels", ours, pairs)
            recorded = recorded[:, 1:]
        yield from _rows(prefix, detections, recorded)
    if "tv_det" in arrays:
        arrays.skip("tv_det")
        yield absent(
            "tv: detections",
            "torchvision clips boxes to the image before suppression, which is not offered here",
        )


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
        arrays.skip("grad_x_caffe_layer")
        yield absent(
            "grad_x_caffe_layer",
            "Caffe's layer propagates an inexact gradient if the scales differ; here it is exact",
        )
