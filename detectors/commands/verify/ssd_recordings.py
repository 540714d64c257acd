"""SSD's default boxes (priors) and losses (loss_*), of Caffe, ssd.pytorch (prefix ssdpt) and torchvision
(tv).

Facts about the recordings' layout: boxes are corners divided by the image's side; labels are 1..C-1 with 0 as
background, and C counts it; `loc` (B, P, 4) and `conf` (B, P, C) are stored, or drawn again from a seed, or
stored for `active` default boxes only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detectors.commands.verify.comparison import EXACT, Comparison, Fixture, Tolerance, agree, compare_numbers
from detectors.commands.verify.recordings import Arrays, Folder
from detectors.commands.verify.streams import pcg_normal
from detectors.models.detector import Detector
from detectors.models.ssd import ssd300, ssd512
from detectors.structures import AnchorGrid, Level, Targets

BUILDERS: dict[int, Callable[..., Detector]] = {300: ssd300, 512: ssd512}  # by the input's side
PRIORS = Tolerance(absolute=1e-6)
INPUT_SIDE = 300  # pixels of the input that relative boxes are turned into; any other would do


def priors(folder: Folder, name: Path) -> Iterator[Fixture]:
    """priors.npz: default boxes, the rows that ports clip, and NVIDIA's order."""
    arrays = folder.arrays(name)
    for key in arrays:
        if not key.endswith("_idx"):
            yield Fixture(f"{name.stem}/{key.removesuffix('_boxes')}", partial(_priors, arrays, key))


def _priors(arrays: Arrays, key: str) -> Iterator[Comparison]:
    if key == "nvidia_order_to_caffe_order":
        grids = (build(num_classes=1, width=0.01).grid((side, side)) for side, build in BUILDERS.items())
        levels = next((grid.levels for grid in grids if grid.num_anchors == len(arrays[key])), None)
        if levels is None:
            raise ValueError(f"{key}: no network here has {len(arrays[key])} default boxes")
        yield compare_numbers("order", _nvidia_order(levels), arrays[key], EXACT)
        return
    match = re.fullmatch(r"ssd(\d+)_([a-z]+)(?:_clip_(centre|wh)_boxes)?", key)
    if match is None or int(match[1]) not in BUILDERS:
        raise ValueError(
            f"{key}: known are ssd<side>_<sizes> of {' and '.join(map(str, BUILDERS))} pixels "
            "and what ports clip of them"
        )
    side = int(match[1])
    sizes = match[2]
    whole = _relative(side, sizes)
    if match[3] is None:
        yield compare_numbers("default boxes", whole, arrays[key], PRIORS)
        return
    index = arrays[key.replace("_boxes", "_idx")].astype(np.int64)
    clipped = _relative(side, sizes, clip_default_boxes={"centre": "cxcywh", "wh": "wh"}[match[3]])
    changed = ((clipped - whole).abs() > PRIORS.absolute).any(1).nonzero()[:, 0].tolist()
    yield agree("which are clipped", changed, index.tolist())
    yield compare_numbers("clipped boxes", clipped[index], arrays[key], PRIORS)


def _relative(side: int, sizes: str, **clip: str) -> Tensor:
    """(A, 4) corners / side, of the builder's own default boxes; the network around them is as narrow as can
    be.
    """
    return (
        BUILDERS[side](num_classes=1, width=0.01, sizes=sizes, **clip).grid((side, side)).boxes.double()
        / side
    )


def _nvidia_order(levels: Sequence[Level]) -> np.ndarray:
    """(A,) for each of our default boxes its place in NVIDIA's list, whose order is level, shape, row,
    column.
    """
    parts = []
    start = 0
    for level in levels:
        place = np.arange(level.per_location * level.rows * level.columns).reshape(level.per_location, -1)
        parts.append(start + place.T.ravel())
        start += place.size
    return np.concatenate(parts)


def predictions(case: Arrays, *, scale: tuple[float, float] = (0.6, 1.5)) -> tuple[Tensor, Tensor]:
    """loc (B, P, 4) and conf (B, P, C), float32.

    ValueError if what is drawn again has another sha256 than the recording's.
    """
    anchors = int(case["P"])
    columns = int(case["C"])
    if "seed" in case:
        batch = int(case["B"]) if "B" in case else 1
        args = (
            case["seedargs"]
            if "seedargs" in case
            else [batch, anchors, columns, *scale, float(case["bg_bias"])]
        )
        loc, conf = pcg_normal(int(case["seed"]), (batch, anchors, 4), (batch, anchors, columns))
        loc = (args[3] * loc).astype(np.float32)
        conf = (args[4] * conf).astype(np.float32)
        conf[..., 0] += np.float32(args[5])
        for name, drawn in (("loc", loc), ("conf", conf)):
            if hashlib.sha256(drawn.tobytes()).hexdigest() != str(case[f"{name}_sha256"]):
                raise ValueError(
                    f"{name} drawn from seed {int(case['seed'])} is not the recorded one (sha256)"
                )
            if f"{name}_head" in case and not np.array_equal(drawn.ravel()[:8], case[f"{name}_head"]):
                raise ValueError(
                    f"{name} drawn from seed {int(case['seed'])} does not begin with the recorded numbers"
                )
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


def recorded_grid(case: Arrays, folder: Path, dtype: torch.dtype = torch.float32) -> AnchorGrid:
    """The recording's default boxes, of an input of SIDE pixels. folder: where priors.npz lies."""
    corners = (
        Arrays(folder / "priors.npz")[str(case["prior_name"])] if "prior_name" in case else case["priors"]
    )
    corners = torch.from_numpy(np.asarray(corners, np.float64)) * INPUT_SIDE
    boxes_cxcywh = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1).to(
        dtype
    )
    zeros = torch.zeros(len(boxes_cxcywh), dtype=dtype)
    return AnchorGrid(
        boxes_cxcywh,
        zeros + 1,
        torch.zeros(len(zeros), 2),
        (INPUT_SIDE, INPUT_SIDE),
        (Level(1, 1, 1.0, len(zeros)),),
    )


def recorded_targets(case: Arrays, dtype: torch.dtype = torch.float32) -> Targets:
    """gt_img, gt_boxes, gt_labels (1..C-1) -> padded Targets in pixels, labels 0..C-2."""
    boxes = case["gt_boxes"].reshape(-1, 4).astype(np.float64) * INPUT_SIDE
    return padded_targets(
        int(case["B"]), case["gt_img"].astype(int), boxes, case["gt_labels"].astype(np.int64) - 1, dtype
    )


def padded_targets(
    batch: int, image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, dtype: torch.dtype
) -> Targets:
    """Truths of many images, one after another (T, ...) with the image of each (T,) -> one row per image, in
    their order.
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
