"""SSD's default boxes (priors.npz), and readers for the recordings of its losses and detections.

Layout of the recordings:
- Arrays of Caffe, ssd.pytorch and torchvision have the prefixes caffe, ssdpt and tv.
- Boxes are corners divided by the side of the image. Labels are 1..C-1. 0 is background, and C counts it.
- `loc` (B, P, 4) and `conf` (B, P, C) are stored in full, as a seed, or for the `active` default boxes only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detectors.boxes import xyxy_to_cxcywh
from detectors.commands.verify.comparison import EXACT, Comparison, Fixture, Tolerance, agree, compare_numbers
from detectors.commands.verify.recordings import Arrays, Folder
from detectors.commands.verify.streams import pcg_normal
from detectors.models.detector import Detector
from detectors.models.ssd import ssd300, ssd512
from detectors.structures import AnchorGrid, Level, Targets

BUILDERS: dict[int, Callable[..., Detector]] = {300: ssd300, 512: ssd512}  # side of the input in pixels ->
PRIORS = Tolerance(absolute=1e-6)
INPUT_SIDE = 300  # pixels; relative boxes are scaled to an input of this size, which is arbitrary


def priors(folder: Folder, name: Path) -> Iterator[Fixture]:
    """priors.npz: default boxes, those that ports clip, and NVIDIA's order."""
    arrays = folder.arrays(name)
    for key in arrays:
        if not key.endswith("_idx"):
            yield Fixture(f"{name.stem}/{key.removesuffix('_boxes')}", partial(_priors, arrays, key))


def _priors(arrays: Arrays, key: str) -> Iterator[Comparison]:
    if key == "nvidia_order_to_caffe_order":
        yield compare_numbers("order", _nvidia_order(len(arrays[key])), arrays[key], EXACT)
        return
    match = re.fullmatch(r"ssd(\d+)_([a-z]+)(?:_clip_(centre|wh)_boxes)?", key)
    if match is None or int(match[1]) not in BUILDERS:
        raise ValueError(
            f"{key}: known are ssd<side>_<sizes> with side {' or '.join(map(str, BUILDERS))}, "
            "and the boxes of them that ports clip"
        )
    side = int(match[1])
    sizes = match[2]
    clipping = match[3]
    boxes = _relative_boxes(side, sizes)
    if clipping is None:
        yield compare_numbers("default boxes", boxes, arrays[key], PRIORS)
        return
    index = arrays[key.replace("_boxes", "_idx")].astype(np.int64)
    clipped = _relative_boxes(side, sizes, clip_default_boxes={"centre": "cxcywh", "wh": "wh"}[clipping])
    changed = ((clipped - boxes).abs() > PRIORS.absolute).any(1).nonzero()[:, 0].tolist()
    yield agree("which are clipped", changed, index.tolist())
    yield compare_numbers("clipped boxes", clipped[index], arrays[key], PRIORS)


def _relative_boxes(side: int, sizes: str, clip_default_boxes: str | None = None) -> Tensor:
    """(A, 4) the builder's default boxes, as corners divided by the side.

    The network's width does not matter here, so it is as small as possible.
    """
    detector = BUILDERS[side](num_classes=1, width=0.01, sizes=sizes, clip_default_boxes=clip_default_boxes)
    return detector.grid((side, side)).boxes.double() / side


def _nvidia_order(num_anchors: int) -> np.ndarray:
    """(A,) for each of our default boxes, its position in NVIDIA's list.

    NVIDIA orders default boxes by level, shape, row, column. The network is the one with `num_anchors` boxes.
    """
    grids = [build(num_classes=1, width=0.01).grid((side, side)) for side, build in BUILDERS.items()]
    levels = next((grid.levels for grid in grids if grid.num_anchors == num_anchors), None)
    if levels is None:
        raise ValueError(f"nvidia_order_to_caffe_order: no network here has {num_anchors} default boxes")
    parts = []
    start = 0
    for level in levels:
        positions = np.arange(level.per_location * level.rows * level.columns)
        parts.append(start + positions.reshape(level.per_location, -1).T.ravel())
        start += positions.size
    return np.concatenate(parts)


def predictions(case: Arrays, *, scale: tuple[float, float] = (0.6, 1.5)) -> tuple[Tensor, Tensor]:
    """loc (B, P, 4) and conf (B, P, C), float32.

    scale: the standard deviations of loc and conf, if they are stored as a seed without `seedargs`.
    Raises ValueError if the numbers drawn from a seed are not the recorded ones.
    """
    anchors = int(case["P"])
    columns = int(case["C"])
    if "seed" in case:
        loc, conf = _drawn_predictions(case, anchors, columns, scale)
    elif "active" in case:
        loc = np.zeros((1, anchors, 4), np.float32)
        conf = np.zeros((1, anchors, columns), np.float32)
        conf[..., 0] = case["inactive_conf0"]
        loc[0, case["active"]] = case["active_loc"]
        conf[0, case["active"]] = case["active_conf"]
    else:
        loc, conf = (
            np.atleast_3d(case[key]).reshape(-1, anchors, case[key].shape[-1]) for key in ("loc", "conf")
        )
    return torch.from_numpy(loc), torch.from_numpy(conf)


def _drawn_predictions(
    case: Arrays, anchors: int, columns: int, scale: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """predictions, drawn from the case's seed."""
    seed = int(case["seed"])
    batch = int(case["B"]) if "B" in case else 1
    if "seedargs" in case:
        loc_scale, conf_scale, background_bias = case["seedargs"][3:6]
    else:
        loc_scale, conf_scale = scale
        background_bias = float(case["bg_bias"])
    loc, conf = pcg_normal(seed, (batch, anchors, 4), (batch, anchors, columns))
    loc = (loc_scale * loc).astype(np.float32)
    conf = (conf_scale * conf).astype(np.float32)
    conf[..., 0] += np.float32(background_bias)
    for name, drawn in (("loc", loc), ("conf", conf)):
        if hashlib.sha256(drawn.tobytes()).hexdigest() != str(case[f"{name}_sha256"]):
            raise ValueError(f"the sha256 of {name} drawn from seed {seed} is not the recorded one")
        if f"{name}_head" in case and not np.array_equal(drawn.ravel()[:8], case[f"{name}_head"]):
            raise ValueError(f"{name} drawn from seed {seed} does not begin with the recorded numbers")
    return loc, conf


def recorded_grid(case: Arrays, folder: Path, dtype: torch.dtype = torch.float32) -> AnchorGrid:
    """The recording's default boxes, for an input of INPUT_SIDE pixels. folder: the one with priors.npz."""
    if "prior_name" in case:
        corners = Arrays(folder / "priors.npz")[str(case["prior_name"])]
    else:
        corners = case["priors"]
    corners = torch.from_numpy(np.asarray(corners, np.float64)) * INPUT_SIDE
    count = len(corners)
    return AnchorGrid(
        xyxy_to_cxcywh(corners).to(dtype),
        torch.ones(count, dtype=dtype),
        torch.zeros(count, 2),
        (INPUT_SIDE, INPUT_SIDE),
        (Level(1, 1, 1.0, count),),
    )


def recorded_targets(case: Arrays, dtype: torch.dtype = torch.float32) -> Targets:
    """gt_img, gt_boxes and gt_labels (1..C-1) -> padded Targets in pixels of the input, labels 0..C-2."""
    boxes = case["gt_boxes"].reshape(-1, 4).astype(np.float64) * INPUT_SIDE
    return padded_targets(
        int(case["B"]), case["gt_img"].astype(int), boxes, case["gt_labels"].astype(np.int64) - 1, dtype
    )


def padded_targets(
    batch: int, image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, dtype: torch.dtype
) -> Targets:
    """Flat ground truth of a batch -> Targets with one row for each image, its boxes in the given order.

    image: (T,) the image of each box. boxes: (T, 4). labels: (T,).
    """
    most = int(np.bincount(image, minlength=batch).max(initial=0))
    targets = Targets(
        torch.zeros(batch, most, 4, dtype=dtype),
        torch.zeros(batch, most, dtype=torch.int64),
        torch.zeros(batch, most, dtype=torch.bool),
    )
    for b in range(batch):
        rows = image == b
        targets.boxes[b, : rows.sum()] = torch.from_numpy(boxes[rows]).to(dtype)
        targets.labels[b, : rows.sum()] = torch.from_numpy(labels[rows])
        targets.valid[b, : rows.sum()] = True
    return targets
