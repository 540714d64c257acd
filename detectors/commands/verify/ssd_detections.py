"""SSD's detections (det_*.npz): caffe_det, ssdpt_det, tv_det, and its L2Norm layer (l2norm.npz)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

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

FOUND = Tolerance(absolute=1e-5, relative=1e-5)
LIMITS: dict[
    str, dict[str, Any]
] = {  # how many an original takes before suppression in each class, and keeps in all
    "caffe": {"candidates_per_class": 400, "max_detections": 200},
    "ssdpt": {"candidates_per_class": 200, "max_detections": None},
}


def detection_fixtures(folder: Folder, name: Path) -> Iterator[Fixture]:
    """One det_*.npz"""
    yield Fixture(name.stem, partial(_detections, folder.arrays(name), (folder.root / name).parent))


def l2norm(folder: Folder, name: Path) -> Iterator[Fixture]:
    """l2norm.npz"""
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
        post = PostProcess(
            coder=SSDBoxCoder(), score_rule=ssd_scores, score_threshold=0.01, nms_iou=0.45, **limits
        )
        detections = post(outputs, grid)
        recorded = arrays[f"{prefix}_det"].astype(np.float64)
        if recorded.shape[1] == 7:
            ours = set(
                zip(anchor_numbers(detections, boxes).tolist(), (detections.labels + 1).tolist(), strict=True)
            )
            yield agree(
                f"{prefix}: default boxes and labels",
                ours,
                {tuple(row) for row in recorded[:, :2].astype(int).tolist()},
            )
            recorded = recorded[:, 1:]
        yield from _rows(prefix, detections, recorded)
    if "tv_det" in arrays:
        arrays.skip("tv_det")
        yield absent(
            "tv: detections",
            "torchvision cuts boxes to the image before suppression; its post-processing is not offered here",
        )


def _rows(prefix: str, detections: Detections, recorded: np.ndarray) -> Iterator[Comparison]:
    """recorded: rows [label, score, x1, y1, x2, y2], in whatever order."""
    ours = torch.cat(
        [
            detections.labels[:, None] + 1,
            detections.scores[:, None],
            detections.boxes / ssd_recordings.INPUT_SIDE,
        ],
        1,
    ).numpy()
    ours, recorded = (rows[np.lexsort((-rows[:, 1], rows[:, 0]))] for rows in (ours, recorded))
    if np.array_equal(ours[:, 0], recorded[:, 0]):
        ours = np.concatenate(
            [_paired(ours[rows], recorded[rows]) for rows in _blocks(recorded[:, 0])] or [ours]
        )
    yield compare_numbers(f"{prefix}: labels", ours[:, 0], recorded[:, 0], EXACT)
    yield compare_numbers(f"{prefix}: scores", ours[:, 1], recorded[:, 1], FOUND)
    yield compare_numbers(f"{prefix}: boxes", ours[:, 2:], recorded[:, 2:], FOUND)


def _blocks(labels: np.ndarray) -> list[np.ndarray]:
    """The rows of each label."""
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]


def _paired(ours: np.ndarray, recorded: np.ndarray) -> np.ndarray:
    """Our rows in the order of the recorded ones that they are nearest to: equal scores have no order of
    their own.
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
        # Numbers of a tiny pixel are a million times the others', which is why their size must not set the
        # tolerance.
        yield compare_numbers(
            name,
            ours,
            arrays[name],
            Tolerance(absolute=1e-6 * float(np.median(np.abs(arrays[name]))), relative=2e-5),
        )
    if "grad_x_caffe_layer" in arrays:
        arrays.skip("grad_x_caffe_layer")
        yield absent(
            "grad_x_caffe_layer",
            "Caffe's layer propagates an inexact gradient once the scales differ; here it is exact",
        )
