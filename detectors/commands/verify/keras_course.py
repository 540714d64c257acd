"""The loss of the Keras course (keras_yolo2_loss/*.npz) and of Darknet on the same cases.

They are compared with `loss=region_keras` and `loss=region`. Layout of the recordings:
- Predictions are raw, (B, rows, columns, K, 5 + C), which is our order of anchors.
- Ground-truth boxes `gt_box_px` are corners in pixels. `true_boxes` (B, buffer, 4), the boxes that make the
  loss ignore predictions, and `y_true` are cxcywh in cells.
- Files with "frontend" in the name are of frontend.py's variant, whose warm-up training lasts one batch
  longer and adds 10 to the loss.
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

from detectors.boxes import cxcywh_to_xyxy, pairwise_iou, xyxy_to_cxcywh
from detectors.coders import YoloBoxCoder
from detectors.commands.verify.comparison import EXACT, Comparison, Fixture, Tolerance, agree, compare_numbers
from detectors.commands.verify.presets import preset_loss
from detectors.commands.verify.recordings import Arrays, Folder
from detectors.commands.verify.region_layer import COST, darknet_cost, delta_of
from detectors.commands.verify.ssd_recordings import padded_targets
from detectors.matching import ResponsibleCellMatcher
from detectors.models import yolov2
from detectors.structures import AnchorGrid, EncodedTargets, HeadOutputs, Level, Targets
from detectors.targets import TargetEncoder

COURSE = Tolerance(absolute=1e-9, relative=1e-9)
BEST_IOU = Tolerance(absolute=1e-6)  # stored as float32
LOSS_F32 = Tolerance(relative=1e-5)  # the course's own float32 run
DARKNET_DELTA = Tolerance(absolute=1e-4)
SCALE_NAMES = ("object_scale", "noobject_scale", "class_scale", "coord_scale")
DARKNET_MAX_BOXES = 30  # of an image; Darknet drops the others
COUNT_EPSILON = 1e-6  # what the course adds to a count before it divides by it


def course_fixtures(folder: Folder, name: Path) -> Iterator[Fixture]:
    """One npz."""
    frontend = "frontend" in name.stem
    yield Fixture(f"{name.parent.name}/{name.stem}", partial(_case, folder.arrays(name), frontend))


def manifest(folder: Folder, name: Path) -> Iterator[Fixture]:
    """manifest.json, which lists the files and their losses."""
    for case, about in folder.json(name).items():
        yield Fixture(
            f"{name.parent.name}/manifest: {case}",
            partial(_manifest, folder, name.with_name(f"{case}.npz"), about),
        )


def course_outputs(y_pred: Tensor) -> HeadOutputs:
    """Raw predictions (B, rows, columns, K, 5 + C) -> HeadOutputs."""
    return yolov2.region_head_outputs(y_pred.flatten(1, 3))


def grid_of(case: Arrays) -> AnchorGrid:
    """The case's anchors in float64. YoloAnchors would round them to float32."""
    width, height = case["net_size"].tolist()
    rows, columns = case["grid"].tolist()
    shapes = torch.from_numpy(case["anchors"]).reshape(-1, 2)
    stride = width / columns
    row, column, shape = torch.meshgrid(
        torch.arange(rows), torch.arange(columns), torch.arange(len(shapes)), indexing="ij"
    )
    cell = torch.stack([column, row], -1).reshape(-1, 2).double()
    boxes_cxcywh = torch.cat([(cell + 0.5) * stride, shapes[shape.flatten()] * stride], 1)
    strides = torch.full((len(cell),), stride).double()
    levels = (Level(rows, columns, stride, len(shapes)),)
    return AnchorGrid(boxes_cxcywh, strides, cell, (height, width), levels)


def targets_of(case: Arrays) -> Targets:
    """The case's ground truth in pixels, float64."""
    boxes = case["gt_box_px"].reshape(-1, 4).astype(np.float64)
    labels = case["gt_class"].astype(np.int64)
    return padded_targets(len(case["y_pred"]), case["gt_image"].astype(int), boxes, labels, torch.float64)


def course_loss(case: Arrays, frontend: bool, **changes: Any) -> nn.Module:
    """The preset with the recording's settings and `changes`, in float64.

    With warm_up_batches = W, the last batch of the warm-up training is W - 1, or W in frontend.py.
    """
    settings = {
        **dict(zip(SCALE_NAMES, case["scales"].tolist(), strict=True)),
        "class_weights": case["class_weights"].tolist(),
        "ignore_truths": int(case["true_box_buffer"]),
        "prior_images": (int(case["warm_up_batches"]) + frontend) * len(case["y_pred"]),
    }
    return preset_loss("region_keras", **settings, **changes).double()


@dataclass
class Setup:
    """A case's predictions, which require a gradient, its targets and its anchors, in float64."""

    raw: Tensor
    outputs: HeadOutputs
    targets: Targets
    encoded: EncodedTargets
    grid: AnchorGrid


def _setup(case: Arrays) -> Setup:
    raw = torch.from_numpy(case["y_pred"]).double().requires_grad_()
    targets = targets_of(case)
    grid = grid_of(case)
    encoded = TargetEncoder(ResponsibleCellMatcher(), YoloBoxCoder())(targets, grid)
    return Setup(raw, course_outputs(raw), targets, encoded, grid)


def _case(case: Arrays, frontend: bool) -> Iterator[Comparison]:
    setup = _setup(case)
    yield from _targets(case, setup)
    matches = [re.fullmatch(r"step(\d+)_loss", key) for key in case]
    steps = sorted(int(match[1]) for match in matches if match)
    losses = StepLosses(
        course=course_loss(case, frontend),
        batch_mean=course_loss(case, frontend, normalizer="batch"),
        constant_iou=course_loss(case, frontend, iou_gradient=False),
    )
    for step in steps:
        yield from _step(case, setup, step, losses, frontend)
    yield from _ignored(case, setup, frontend)
    for key in case:
        if match := re.fullmatch(r"darknet_delta_seen(\d+)", key):
            yield from _darknet(case, setup, int(match[1]))


def _targets(case: Arrays, setup: Setup) -> Iterator[Comparison]:
    """What the course's batch generator makes: y_true, and the buffer `true_boxes`."""
    encoded = setup.encoded
    (level,) = setup.grid.levels
    image, row, column, shape = case["y_true_index_bhwa"].astype(int).reshape(-1, 4).T
    anchor = (row * level.columns + column) * level.per_location + shape
    ours = {tuple(pair) for pair in encoded.positive.nonzero().tolist()}
    recorded = set(zip(image.tolist(), anchor.tolist(), strict=True))
    yield agree("which anchors have a box", ours, recorded)
    boxes = xyxy_to_cxcywh(encoded.boxes)[image, anchor] / level.stride
    yield compare_numbers("their boxes", boxes, case["y_true_values"][:, :4], COURSE)
    buffered = case["true_boxes"].reshape(-1, 4)
    usable = encoded.assigned >= 0  # boxes with an area
    from_the_end = usable.flip(1).cumsum(1).flip(1)  # 1 for an image's last usable box
    last = usable & (from_the_end <= case["true_boxes"].shape[1])
    ours = xyxy_to_cxcywh(encoded.targets.boxes)[last] / level.stride
    yield compare_numbers(
        "boxes in the buffer", _in_order(ours.numpy()), _in_order(buffered[buffered.any(1)]), COURSE
    )


def _in_order(rows: np.ndarray) -> np.ndarray:
    """The rows sorted by value, whatever their order was."""
    return rows[np.lexsort(rows.round(6).T)]


@dataclass
class StepLosses:
    """Variants of the loss, each with its own count of the images seen."""

    course: nn.Module
    batch_mean: nn.Module  # divided by the number of images, not by the course's counts
    constant_iou: nn.Module  # without a gradient through the IoU


def _step(case: Arrays, setup: Setup, step: int, losses: StepLosses, frontend: bool) -> Iterator[Comparison]:
    """The loss of one batch, its gradients, its parts, and the counts that these are divided by."""
    terms = _terms(losses.course, setup)
    batch_mean_terms = _terms(losses.batch_mean, setup)
    in_warm_up = bool(losses.course.images_seen < losses.course.prior_images)
    total = sum(terms.values())
    loss = total + 10 if frontend and in_warm_up else total
    yield compare_numbers(f"step {step}: loss", loss, case[f"step{step}_loss"], COURSE)
    yield compare_numbers(f"step {step}: loss in float32", loss, case[f"step{step}_loss_f32"], LOSS_F32)
    yield compare_numbers(f"step {step}: gradient", _gradient(total, setup), case[f"step{step}_grad"], COURSE)
    if f"step{step}_grad_stopgrad_iou" in case:
        gradient = _gradient(sum(_terms(losses.constant_iou, setup).values()), setup)
        recorded = case[f"step{step}_grad_stopgrad_iou"]
        yield compare_numbers(f"step {step}: gradient, IoU constant", gradient, recorded, COURSE)

    parts = _course_parts(terms)
    yield _compare_parts(case, setup, step, parts, losses.course)
    yield _compare_counts(case, step, parts, _course_parts(batch_mean_terms), len(setup.raw))


def _terms(loss: nn.Module, setup: Setup) -> dict[str, Tensor]:
    return loss(setup.outputs, setup.encoded, setup.grid)


def _compare_parts(
    case: Arrays, setup: Setup, step: int, parts: dict[str, Tensor], loss: nn.Module
) -> Comparison:
    """The course reports centres and sizes separately, while our box term contains both."""
    centres = _course_parts(_uncounted_terms(loss, replace(setup, outputs=_right_sizes(setup))))["coord"]
    ours = {
        "xy": centres,
        "wh": parts["coord"] - centres,
        "conf": parts["conf"],
        "class": parts["class"],
    }
    recorded = [case[f"step{step}_loss_{name}"] for name in ours]
    return compare_numbers(f"step {step}: its parts", list(ours.values()), recorded, COURSE)


def _compare_counts(
    case: Arrays, step: int, parts: dict[str, Tensor], batch_means: dict[str, Tensor], batch: int
) -> Comparison:
    """part * recorded count is the undivided sum, and so is batch_mean * batch."""
    sums = []
    for name, part in parts.items():
        count = case[f"step{step}_nb_{name}_box"].item() + COUNT_EPSILON
        sums.append(part * count)
    expected = [batch_means[name] * batch for name in parts]
    return compare_numbers(f"step {step}: what they are divided by", sums, expected, COURSE)


def _gradient(value: Tensor, setup: Setup) -> Tensor:
    return torch.autograd.grad(value, setup.raw, retain_graph=True)[0]


def _course_parts(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our five terms added up to the course's parts, detached."""
    terms = {name: term.detach() for name, term in terms.items()}
    return {
        "coord": terms["box"] + terms["prior"],
        "conf": terms["object"] + terms["noobject"],
        "class": terms["class"],
    }


def _uncounted_terms(loss: nn.Module, setup: Setup) -> dict[str, Tensor]:
    """The terms in evaluation mode, in which the loss does not count the images."""
    loss.eval()
    terms = _terms(loss, setup)
    loss.train()
    return terms


def _right_sizes(setup: Setup) -> HeadOutputs:
    """The outputs with the targets' sizes, so that only the centres contribute to the box term."""
    offsets = torch.cat([setup.outputs.offsets[..., :2], setup.encoded.offsets[..., 2:]], -1)
    return HeadOutputs(offsets, setup.outputs.class_logits, setup.outputs.objectness)


def _ignored(case: Arrays, setup: Setup, frontend: bool) -> Iterator[Comparison]:
    """Step 1: the gradient of the objectness terms, which predictions it reaches, and the best IoU."""
    terms = _terms(course_loss(case, frontend), setup)
    gradient = _gradient(terms["object"] + terms["noobject"], setup)
    yield compare_numbers("gradient of objectness", gradient, case["grad_conf_only"], COURSE)
    counted = (gradient[..., 4].flatten(1) != 0) | setup.encoded.positive
    recorded = (case["conf_mask"] != 0).reshape(counted.shape)
    yield compare_numbers("which objectness counts", counted, recorded, EXACT)
    predicted = YoloBoxCoder().decode(setup.outputs.offsets.detach(), setup.grid)
    buffer = torch.from_numpy(case["true_boxes"]) * setup.grid.levels[0].stride
    best_iou = pairwise_iou(cxcywh_to_xyxy(buffer), predicted).amax(1)
    yield compare_numbers("best IoU", best_iou, case["best_iou"].reshape(counted.shape), BEST_IOU)


def _darknet(case: Arrays, setup: Setup, seen: int) -> Iterator[Comparison]:
    """Darknet's region layer on the same batch. seen: images seen, this batch included."""
    loss = preset_loss("region", **dict(zip(SCALE_NAMES, case["scales"].tolist(), strict=True)))
    loss.images_seen += seen - len(setup.raw)
    within_list = torch.arange(setup.targets.valid.shape[1]) < DARKNET_MAX_BOXES
    targets = replace(setup.targets, valid=setup.targets.valid & within_list)
    delta = delta_of(setup.outputs, targets, setup.grid, loss, ResponsibleCellMatcher())
    recorded = case[f"darknet_delta_seen{seen}"]
    delta = delta.reshape(recorded.shape)
    yield compare_numbers(f"Darknet, {seen} images seen: delta", delta, recorded, DARKNET_DELTA)
    cost = darknet_cost(delta.permute(0, 3, 4, 1, 2))
    yield compare_numbers(f"Darknet, {seen} images seen: cost", cost, case[f"darknet_cost_seen{seen}"], COST)


def _manifest(folder: Folder, file: Path, about: dict) -> Iterator[Comparison]:
    arrays = folder.arrays(file)
    losses = [float(arrays[f"step{step}_loss"]) for step in range(1, about["steps"] + 1)]
    yield compare_numbers("losses of the file and of the manifest", losses, about["loss"], COURSE)
