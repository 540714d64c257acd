"""The loss of the Keras course (keras_yolo2_loss/*.npz), by `loss=region_keras`, and Darknet's on the same
cases, by `loss=region`.

Facts about the recordings' layout: predictions are raw, (B, rows, columns, K, 5 + C), which is our order of
anchors; truths are corners in pixels; `true_boxes` (B, buffer, 4) and `y_true` are centre and size in cells.
Files with "frontend" in the name ran frontend.py's variant: its warm-up lasts one batch longer, and adds 10
to the loss.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detectors.boxes import pairwise_iou, xyxy_to_cxcywh
from detectors.coders import YoloBoxCoder
from detectors.commands.verify.comparison import Comparison, Fixture, Tolerance, agree, compare_numbers
from detectors.commands.verify.presets import preset_loss
from detectors.commands.verify.recordings import Arrays, Folder
from detectors.commands.verify.region_layer import COST, darknet_cost, delta_of
from detectors.commands.verify.ssd_recordings import padded_targets
from detectors.matching import ResponsibleCellMatcher
from detectors.structures import AnchorGrid, EncodedTargets, HeadOutputs, Level, Targets
from detectors.targets import TargetEncoder

COURSE = Tolerance(absolute=1e-9, relative=1e-9)
SINGLE = Tolerance(absolute=1e-6)  # stored as float32
LOSS_F32 = Tolerance(relative=1e-5)  # the course's own float32 run
DARKNET_LOSS = Tolerance(absolute=1e-4)
SCALES = ("object_scale", "noobject_scale", "class_scale", "coord_scale")
DARKNETS_TRUTHS = 30  # per image; its list ends there
NEARLY_ZERO = 1e-6  # what the course adds to a count before it divides by it


def course_fixtures(folder: Folder, name: Path) -> Iterator[Fixture]:
    """One npz"""
    yield Fixture(
        f"{name.parent.name}/{name.stem}", partial(_case, folder.arrays(name), "frontend" in name.stem)
    )


def manifest(folder: Folder, name: Path) -> Iterator[Fixture]:
    """manifest.json: the files and their losses once more."""
    for case, about in folder.json(name).items():
        yield Fixture(
            f"{name.parent.name}/manifest: {case}",
            partial(_manifest, folder, name.with_name(f"{case}.npz"), about),
        )


def course_outputs(y_pred: Tensor) -> HeadOutputs:
    raw = y_pred.flatten(1, 3)
    return HeadOutputs(torch.cat([raw[..., :2].sigmoid(), raw[..., 2:4]], -1), raw[..., 5:], raw[..., 4])


def grid_of(case: Arrays) -> AnchorGrid:
    """In float64; YoloAnchors would round the anchors to float32."""
    (width, height), (rows, columns) = case["net_size"].tolist(), case["grid"].tolist()
    shapes = torch.from_numpy(case["anchors"]).reshape(-1, 2)
    stride = width / columns
    row, column, anchor = torch.meshgrid(
        *(torch.arange(n) for n in (rows, columns, len(shapes))), indexing="ij"
    )
    cell = torch.stack([column, row], -1).reshape(-1, 2).double()
    boxes_cxcywh = torch.cat([(cell + 0.5) * stride, shapes[anchor.flatten()] * stride], 1)
    levels = (Level(rows, columns, stride, len(shapes)),)
    return AnchorGrid(boxes_cxcywh, torch.full((len(cell),), stride).double(), cell, (height, width), levels)


def targets_of(case: Arrays) -> Targets:
    boxes = case["gt_box_px"].reshape(-1, 4).astype(np.float64)
    labels = case["gt_class"].astype(np.int64)
    return padded_targets(len(case["y_pred"]), case["gt_image"].astype(int), boxes, labels, torch.float64)


def course_loss(case: Arrays, frontend: bool, **changes: Any) -> nn.Module:
    """The preset with the recording's settings.

    The last batch of the notebook's warm-up is W - 1, that of frontend.py is W.
    """
    settings = {
        **dict(zip(SCALES, case["scales"].tolist(), strict=True)),
        "class_weights": case["class_weights"].tolist(),
        "ignore_truths": int(case["true_box_buffer"]),
        "prior_images": (int(case["warm_up_batches"]) + frontend) * len(case["y_pred"]),
    }
    return preset_loss("region_keras", **settings, **changes).double()


@dataclass
class Setup:
    """A case in our terms, in float64; `raw` wants a gradient."""

    raw: Tensor
    outputs: HeadOutputs
    targets: Targets
    encoded: EncodedTargets
    grid: AnchorGrid


def _setup(case: Arrays) -> Setup:
    raw = torch.from_numpy(case["y_pred"]).double().requires_grad_()
    targets = targets_of(case)
    grid = grid_of(case)
    return Setup(
        raw,
        course_outputs(raw),
        targets,
        TargetEncoder(ResponsibleCellMatcher(), YoloBoxCoder())(targets, grid),
        grid,
    )


def _case(case: Arrays, frontend: bool) -> Iterator[Comparison]:
    setup = _setup(case)
    yield from _targets(case, setup)
    steps = sorted(int(match[1]) for key in case if (match := re.fullmatch(r"step(\d+)_loss", key)))
    loss, plain, detached = (
        course_loss(case, frontend, **change)
        for change in ({}, {"normalizer": "batch"}, {"iou_gradient": False})
    )
    for step in steps:
        yield from _step(case, setup, step, (loss, plain, detached), frontend)
    yield from _ignored(case, setup, frontend)
    for key in case:
        if match := re.fullmatch(r"darknet_delta_seen(\d+)", key):
            yield from _darknet(case, setup, int(match[1]))


def _targets(case: Arrays, setup: Setup) -> Iterator[Comparison]:
    """The course's batch generator: y_true, and the buffer of the truths that spare predictions."""
    encoded, (level,) = setup.encoded, setup.grid.levels
    image, row, column, anchor = case["y_true_index_bhwa"].astype(int).reshape(-1, 4).T
    place = (row * level.columns + column) * level.per_location + anchor
    theirs = set(zip(image.tolist(), place.tolist(), strict=True))
    yield agree("which anchors have a truth", {tuple(x) for x in encoded.positive.nonzero().tolist()}, theirs)
    values = case["y_true_values"]
    yield compare_numbers(
        "their boxes", xyxy_to_cxcywh(encoded.boxes)[image, place] / level.stride, values[:, :4], COURSE
    )
    used = encoded.assigned >= 0  # truths with an area
    last = used & (used.flip(1).cumsum(1).flip(1) <= case["true_boxes"].shape[1])
    boxes = xyxy_to_cxcywh(encoded.targets.boxes)[last] / level.stride
    stored = case["true_boxes"].reshape(-1, 4)
    yield compare_numbers(
        "truths in the buffer", _sorted(boxes.numpy()), _sorted(stored[stored.any(1)]), COURSE
    )


def _sorted(rows: np.ndarray) -> np.ndarray:
    """Rows in an order of their own."""
    return rows[np.lexsort(rows.round(6).T)]


def _step(
    case: Arrays, setup: Setup, step: int, losses: tuple[nn.Module, ...], frontend: bool
) -> Iterator[Comparison]:
    """Loss, its parts, what they are divided by, and gradients of one batch; the three losses count batches
    together.
    """
    loss, plain, detached = losses
    given = setup.outputs, setup.encoded, setup.grid
    terms = loss(*given)
    sums = plain(*given)
    early = bool(loss.images_seen < loss.prior_images)
    total = sum(terms.values())
    yield compare_numbers(
        f"step {step}: loss", total + 10 * (early and frontend), case[f"step{step}_loss"], COURSE
    )
    yield compare_numbers(
        f"step {step}: loss in float32",
        total + 10 * (early and frontend),
        case[f"step{step}_loss_f32"],
        LOSS_F32,
    )
    yield compare_numbers(f"step {step}: gradient", _gradient(total, setup), case[f"step{step}_grad"], COURSE)
    if f"step{step}_grad_stopgrad_iou" in case:
        apart = _gradient(sum(detached(*given).values()), setup)
        yield compare_numbers(
            f"step {step}: gradient, IoU constant", apart, case[f"step{step}_grad_stopgrad_iou"], COURSE
        )

    parts = _kinds(terms)
    totals = _kinds(sums)
    centre = _kinds(_again(loss, replace(setup, outputs=_right_sizes(setup))))["class_box"]
    ours = {
        "xy": centre,
        "wh": parts["class_box"] - centre,
        "conf": parts["objectness"],
        "class": parts["class"],
    }
    yield compare_numbers(
        f"step {step}: its parts",
        list(ours.values()),
        [case[f"step{step}_loss_{name}"] for name in ours],
        COURSE,
    )
    names = {"class_box": "coord", "objectness": "conf", "class": "class"}
    counted = [
        parts[kind] * (case[f"step{step}_nb_{name}_box"].item() + NEARLY_ZERO) for kind, name in names.items()
    ]
    yield compare_numbers(
        f"step {step}: what they are divided by",
        counted,
        [totals[kind] * len(setup.raw) for kind in names],
        COURSE,
    )


def _gradient(value: Tensor, setup: Setup) -> Tensor:
    return torch.autograd.grad(value, setup.raw, retain_graph=True)[0]


def _kinds(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our five terms as the course's kinds, detached."""
    terms = {name: term.detach() for name, term in terms.items()}
    return {
        "class_box": terms["box"] + terms["prior"],
        "objectness": terms["object"] + terms["noobject"],
        "class": terms["class"],
    }


def _again(loss: nn.Module, setup: Setup) -> dict[str, Tensor]:
    """The same batch once more: in evaluation mode nothing is counted."""
    loss.eval()
    terms = loss(setup.outputs, setup.encoded, setup.grid)
    loss.train()
    return terms


def _right_sizes(setup: Setup) -> HeadOutputs:
    """Outputs whose sizes are right, so that centres alone make the box error."""
    offsets = torch.cat([setup.outputs.offsets[..., :2], setup.encoded.offsets[..., 2:]], -1)
    return HeadOutputs(offsets, setup.outputs.class_logits, setup.outputs.objectness)


def _ignored(case: Arrays, setup: Setup, frontend: bool) -> Iterator[Comparison]:
    """Step 1: which predictions are pushed down, and the gradient of objectness alone."""
    terms = course_loss(case, frontend)(setup.outputs, setup.encoded, setup.grid)
    gradient = _gradient(terms["object"] + terms["noobject"], setup)
    yield compare_numbers("gradient of objectness", gradient, case["grad_conf_only"], COURSE)
    pushed = gradient[..., 4].flatten(1) != 0
    counted = pushed | setup.encoded.positive
    yield compare_numbers(
        "which objectness counts", counted, (case["conf_mask"] != 0).reshape(counted.shape), Tolerance()
    )
    predicted = YoloBoxCoder().decode(setup.outputs.offsets.detach(), setup.grid)
    buffer = torch.from_numpy(case["true_boxes"]) * setup.grid.levels[0].stride
    boxes = torch.cat([buffer[..., :2] - buffer[..., 2:] / 2, buffer[..., :2] + buffer[..., 2:] / 2], -1)
    yield compare_numbers(
        "best IoU", pairwise_iou(boxes, predicted).amax(1), case["best_iou"].reshape(counted.shape), SINGLE
    )


def _darknet(case: Arrays, setup: Setup, seen: int) -> Iterator[Comparison]:
    """Darknet's region layer on the same batch. seen: the images that it had counted, this batch included."""
    loss = preset_loss("region", **dict(zip(SCALES, case["scales"].tolist(), strict=True)))
    loss.images_seen += seen - len(setup.raw)
    targets = setup.targets
    few = replace(targets, valid=targets.valid & (torch.arange(targets.valid.shape[1]) < DARKNETS_TRUTHS))
    delta = delta_of(setup.outputs, few, setup.grid, loss, ResponsibleCellMatcher())
    recorded = case[f"darknet_delta_seen{seen}"]
    yield compare_numbers(
        f"Darknet, {seen} images seen: delta", delta.reshape(recorded.shape), recorded, DARKNET_LOSS
    )
    ours = darknet_cost(delta.reshape(recorded.shape).permute(0, 3, 4, 1, 2))
    yield compare_numbers(f"Darknet, {seen} images seen: cost", ours, case[f"darknet_cost_seen{seen}"], COST)


def _manifest(folder: Folder, file: Path, about: dict) -> Iterator[Comparison]:
    arrays = folder.arrays(file)
    losses = [float(arrays[f"step{step}_loss"]) for step in range(1, about["steps"] + 1)]
    yield compare_numbers("losses of the file and of the manifest", losses, about["loss"], COURSE)
