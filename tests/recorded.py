"""Reads what Darknet, Caffe and a Keras course computed (tests/fixtures) into our records. Facts about their layouts live here only."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from detectors.structures import AnchorGrid, HeadOutputs, Level, Targets


def region_cases(fixtures: Path) -> dict[str, dict]:
    """Every case of region_train: the settings of the json and the arrays of the npz in one dict."""
    settings = json.loads((fixtures / "darknet/region_train.json").read_text())
    arrays = np.load(fixtures / "darknet/region_train.npz")
    for name, case in settings.items():
        case |= {key.split("/", 1)[1]: arrays[key] for key in arrays.files if key.startswith(f"{name}/")}
    return settings


def region_outputs(raw: torch.Tensor, classes: int) -> HeadOutputs:
    """(B, n * (5 + C), H, W) as Darknet lays it out -> HeadOutputs in (row, column, anchor) order, sigmoid applied to x and y."""
    entries = raw.unflatten(1, (-1, 5 + classes)).permute(0, 3, 4, 1, 2).flatten(1, 3)  # (B, A, 5 + C)
    offsets = torch.cat([entries[..., :2].sigmoid(), entries[..., 2:4]], -1)
    return HeadOutputs(offsets, entries[..., 5:], entries[..., 4])


def region_targets(truth: np.ndarray, size: tuple[int, int]) -> Targets:
    """(B, 30, 5) x, y, w, h, class relative to the input -> Targets. An image's list ends at the first x of 0."""
    truth = torch.from_numpy(truth)
    valid = (truth[..., 0] != 0).cumprod(1).bool()
    scale = torch.tensor([size[1], size[0]])
    centre, half = truth[..., :2] * scale, truth[..., 2:4] * scale / 2
    boxes = torch.where(valid[..., None], torch.cat([centre - half, centre + half], -1), 0)
    return Targets(boxes, torch.where(valid, truth[..., 4], 0).long(), valid)


def course_cases(fixtures: Path) -> dict[str, dict]:
    """Every recording of the course's Keras loss: its arrays and its line of the manifest in one dict."""
    folder = fixtures / "evaluation/keras_yolo2_loss"
    manifest = json.loads((folder / "manifest.json").read_text())
    return {name: dict(np.load(folder / f"{name}.npz")) | {"about": about} for name, about in manifest.items()}


def course_outputs(y_pred: torch.Tensor) -> HeadOutputs:
    """(B, rows, columns, K, 5 + C) raw -> HeadOutputs; the order is ours already."""
    raw = y_pred.flatten(1, 3)
    return HeadOutputs(torch.cat([raw[..., :2].sigmoid(), raw[..., 2:4]], -1), raw[..., 5:], raw[..., 4])


def course_grid(case: dict) -> AnchorGrid:
    """YoloAnchors would round to float32; the recordings hold float64."""
    (width, height), (rows, columns) = case["net_size"].tolist(), case["grid"].tolist()
    shapes = torch.from_numpy(case["anchors"]).reshape(-1, 2)
    stride = width / columns
    row, column, anchor = torch.meshgrid(*(torch.arange(n) for n in (rows, columns, len(shapes))), indexing="ij")
    cell = torch.stack([column, row], -1).reshape(-1, 2).double()
    boxes_cxcywh = torch.cat([(cell + 0.5) * stride, shapes[anchor.flatten()] * stride], 1)
    levels = (Level(rows, columns, stride, len(shapes)),)
    return AnchorGrid(boxes_cxcywh, torch.full((len(cell),), stride).double(), cell, (height, width), levels)


def course_targets(case: dict) -> Targets:
    """gt_image, gt_box_px, gt_class -> padded Targets in float64, in the order of the recording."""
    batch, image = len(case["y_pred"]), case["gt_image"]
    most = int(np.bincount(image, minlength=batch).max())
    boxes, labels = torch.zeros(batch, most, 4, dtype=torch.float64), torch.zeros(batch, most, dtype=torch.int64)
    valid = torch.zeros(batch, most, dtype=torch.bool)
    for b in range(batch):
        rows = image == b
        boxes[b, : rows.sum()] = torch.from_numpy(case["gt_box_px"][rows].astype(np.float64))
        labels[b, : rows.sum()] = torch.from_numpy(case["gt_class"][rows].astype(np.int64))
        valid[b, : rows.sum()] = True
    return Targets(boxes, labels, valid)


def ssd_numbers(seed: int, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    """The recorded programs' random numbers: sums of four uniforms, drawn in order from one PCG64 stream (recipe of the recordings)."""
    count = sum(int(np.prod(shape)) for shape in shapes)
    words = np.random.PCG64(seed).random_raw(4 * count)
    uniform = (words >> np.uint64(40)).astype(np.float64) * 2.0**-24
    normal = (uniform.reshape(-1, 4).sum(1) - 2) * np.sqrt(3)
    parts, start = [], 0
    for shape in shapes:
        size = int(np.prod(shape))
        parts.append(normal[start : start + size].reshape(shape))
        start += size
    return parts


def ssd_predictions(case, *, scale: tuple[float, float] = (0.6, 1.5)) -> tuple[torch.Tensor, torch.Tensor]:
    """loc and conf of a loss or detection recording, stored or drawn again from its seed; sha256 checked."""
    anchors, columns = int(case["P"]), int(case["C"])
    if "seed" in case.files:
        batch = int(case["B"]) if "B" in case.files else 1
        args = case["seedargs"] if "seedargs" in case.files else [batch, anchors, columns, *scale, float(case["bg_bias"])]
        loc, conf = ssd_numbers(int(case["seed"]), (batch, anchors, 4), (batch, anchors, columns))
        loc, conf = (args[3] * loc).astype(np.float32), (args[4] * conf).astype(np.float32)
        conf[..., 0] += np.float32(args[5])
        assert hashlib.sha256(loc.tobytes()).hexdigest() == str(case["loc_sha256"])
        assert hashlib.sha256(conf.tobytes()).hexdigest() == str(case["conf_sha256"])
    elif "active" in case.files:
        loc, conf = np.zeros((1, anchors, 4), np.float32), np.zeros((1, anchors, columns), np.float32)
        conf[..., 0] = case["inactive_conf0"]
        loc[0, case["active"]], conf[0, case["active"]] = case["active_loc"], case["active_conf"]
    else:
        loc, conf = (np.atleast_3d(case[key]).reshape(-1, anchors, case[key].shape[-1]) for key in ("loc", "conf"))
    return torch.from_numpy(loc), torch.from_numpy(conf)


def ssd_grid(case, fixtures: Path, side: int = 300) -> AnchorGrid:
    """The recording's own default boxes (corners, relative) as an AnchorGrid of an input of `side` pixels."""
    priors = np.load(fixtures / "ssd/priors.npz")[str(case["prior_name"])] if "prior_name" in case.files else case["priors"]
    corners = torch.from_numpy(np.asarray(priors, np.float64)) * side
    boxes_cxcywh = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1).float()
    zeros = torch.zeros(len(boxes_cxcywh))
    return AnchorGrid(boxes_cxcywh, zeros + 1, torch.zeros(len(zeros), 2), (side, side), (Level(1, 1, 1.0, len(zeros)),))


def ssd_targets(case, side: int = 300) -> Targets:
    """gt_img, gt_boxes, gt_labels (1..C) -> padded Targets in pixels, labels 0..C-1."""
    batch, image = int(case["B"]), case["gt_img"].astype(int)
    most = max(np.bincount(image, minlength=batch).max(initial=0), 0)
    boxes, labels = torch.zeros(batch, most, 4), torch.zeros(batch, most, dtype=torch.int64)
    valid = torch.zeros(batch, most, dtype=torch.bool)
    for b in range(batch):
        rows = image == b
        boxes[b, : rows.sum()] = torch.from_numpy(case["gt_boxes"].reshape(-1, 4)[rows].astype(np.float64) * side).float()
        labels[b, : rows.sum()] = torch.from_numpy(case["gt_labels"][rows].astype(np.int64)) - 1
        valid[b, : rows.sum()] = True
    return Targets(boxes, labels, valid)
