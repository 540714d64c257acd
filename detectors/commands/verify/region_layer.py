"""Darknet's region layer in training (region_train.json): gradient, cost and statistics.

Layout of the recordings:
- Input and output are (B, n * (5 + C), H, W), where channel = anchor * (5 + C) + entry.
- `truth` holds the ground-truth boxes, (B, 30, 5): x, y, w, h, class, relative to the input. An image's list
  ends at the first x of 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from detectors.anchors import YoloAnchors
from detectors.coders import YoloBoxCoder
from detectors.commands.verify.comparison import EXACT, Comparison, Fixture, Tolerance, compare_numbers
from detectors.commands.verify.presets import preset_loss
from detectors.commands.verify.recordings import Arrays, Folder, Settings
from detectors.darknet.region import activate, head_outputs, region_loss_settings, region_matcher
from detectors.darknet.sections import Region
from detectors.structures import AnchorGrid, HeadOutputs, Matcher, Targets
from detectors.targets import TargetEncoder

VALUES = Tolerance(absolute=1e-5)
DELTAS = Tolerance(absolute=3e-5, relative=1e-5)
COST = Tolerance(relative=2e-5)
REGION_STATISTICS = Tolerance(absolute=2e-6)
PRINTED = (  # the keys of RegionLoss.statistics in the order of `stats`
    "truth_iou",
    "class_probability",
    "objectness",
    "no_objectness",
    "recall",
    "truths",
)
TRAINING_SCALES = ("thresh", "coord_scale", "object_scale", "noobject_scale", "class_scale")
TAG = 100_000  # x and y above this: of the image only the label is known
TRAINING_FLAGS = ("rescore", "bias_match")


def region_training(folder: Folder, name: Path) -> Iterator[Fixture]:
    """region_train.json, and its npz."""
    return folder.fixtures(name, _training)


def region_settings(case: Mapping, anchors: np.ndarray) -> Region:
    """A case's settings as a cfg's [region] section. Settings that only training needs may be missing."""
    scales = {key: float(case.get(key, 1.0)) for key in TRAINING_SCALES}
    flags = {key: bool(case.get(key, 1)) for key in TRAINING_FLAGS}
    pairs = tuple((float(w), float(h)) for w, h in np.asarray(anchors, np.float64).reshape(-1, 2))
    return Region(pairs, case["classes"], bool(case["softmax"]), **flags, **scales, jitter=0.0, random=False)


def region_outputs(raw: Tensor, case: Mapping) -> HeadOutputs:
    """Raw predictions (B, n * (5 + C), H, W) -> HeadOutputs. case: the settings, and the array `anchors`."""
    return head_outputs(raw, region_settings(case, case["anchors"]))


def region_targets(truth: np.ndarray, size: tuple[int, int], *, tagged: bool = False) -> Targets:
    """`truth` (B, 30, 5) -> Targets in the unit of `size`, the input's (height, width) in pixels or in cells.

    tagged: a row with x and y above TAG says that of its image only the label is known, as with a tree.

    A float64 box stays in the cell that Darknet's float32 product gives it: where that product rounds up to a
    whole number, the centre moves to just above that number.
    """
    truth = torch.from_numpy(truth)
    valid = (truth[..., 0] != 0).cumprod(1).bool()
    image_labels = None
    if tagged:
        tags = valid & (truth[..., :2] > TAG).all(-1)
        first = tags.int().argmax(1, keepdim=True)
        has_tag = tags.any(1)
        image_labels = torch.where(has_tag, truth[..., 4].long().gather(1, first)[:, 0], -1)
        valid &= ~has_tag[:, None]
    scale = torch.tensor([size[1], size[0]])
    centre = truth[..., :2] * scale
    half = truth[..., 2:4] * scale / 2
    if truth.dtype == torch.float64:
        centre = torch.maximum(centre, (truth[..., :2].float() * scale).floor().double() + 1e-9)
    boxes = torch.where(valid[..., None], torch.cat([centre - half, centre + half], -1), 0)
    return Targets(boxes, torch.where(valid, truth[..., 4], 0).long(), valid, image_labels)


def _training(case: Settings, arrays: Arrays) -> Iterator[Comparison]:
    return training_comparisons(region_settings(case, arrays["anchors"]), case, arrays)


def training_comparisons(settings: Region, case: Settings, arrays: Arrays) -> Iterator[Comparison]:
    """Output, gradient, cost and statistics of a case with these settings."""
    for key in (*TRAINING_SCALES, *TRAINING_FLAGS):
        case[key]  # raises an error if it is missing
    cells = (case["H"], case["W"])
    batch = case["batch"]
    raw = torch.from_numpy(arrays["input"])
    yield compare_numbers("output", activate(raw, settings), arrays["output"], VALUES)

    delta = region_delta(raw, settings, arrays["truth"], seen=case["seen"])
    yield compare_numbers("delta", delta, arrays["delta"], DELTAS)
    yield compare_numbers("cost", darknet_cost(delta), arrays["cost"].reshape(()), COST)

    raw = raw.double().requires_grad_()
    outputs = head_outputs(raw, settings)
    grid = exact_grid(settings, cells)
    targets = region_targets(arrays["truth"].astype(np.float64), cells, tagged=settings.tree is not None)
    loss = seen_loss(settings, seen=case["seen"], batch=batch)
    encoded = TargetEncoder(region_matcher(settings), YoloBoxCoder())(targets, grid, outputs)
    (batch * sum(loss(outputs, encoded, grid).values())).backward()
    yield compare_numbers("delta_in", -raw.grad, arrays["delta_in"], DELTAS)
    yield compare_numbers("images seen", loss.images_seen, case["seen"], EXACT)
    statistics = loss.statistics(outputs, encoded, grid)
    yield compare_numbers(
        "statistics", torch.stack([statistics[key] for key in PRINTED]), arrays["stats"], REGION_STATISTICS
    )


def cell_grid(settings: Region, cells: tuple[int, int]) -> AnchorGrid:
    """The anchors in units of cells (stride 1), as Darknet computes."""
    return YoloAnchors(settings.anchors, stride=1)(cells)


def exact_grid(settings: Region, cells: tuple[int, int]) -> AnchorGrid:
    """The same as cell_grid, in float64."""
    grid = cell_grid(settings, cells)
    return replace(
        grid, boxes_cxcywh=grid.boxes_cxcywh.double(), stride=grid.stride.double(), cell=grid.cell.double()
    )


def seen_loss(settings: Region, *, seen: int, batch: int) -> nn.Module:
    """`loss=region`, or `loss=region_tree`, for a batch.

    seen: images seen, this batch included, as Darknet's layer counts them.
    """
    name = "region" if settings.tree is None else "region_tree"
    loss = preset_loss(name, **region_loss_settings(settings))
    loss.images_seen += seen - batch
    return loss


def region_delta(raw: Tensor, settings: Region, truth: np.ndarray, *, seen: int) -> Tensor:
    """Darknet's `delta` in its layout, (B, n * (5 + C), H, W) float64. See delta_of."""
    cells = tuple(raw.shape[-2:])
    delta = delta_of(
        outputs=head_outputs(raw.detach().double(), settings),
        targets=region_targets(truth.astype(np.float64), cells, tagged=settings.tree is not None),
        grid=exact_grid(settings, cells),
        loss=seen_loss(settings, seen=seen, batch=len(raw)),
        matcher=region_matcher(settings),
    )
    return delta.unflatten(1, (*cells, -1)).permute(0, 3, 4, 1, 2).flatten(1, 2)


def delta_of(
    outputs: HeadOutputs, targets: Targets, grid: AnchorGrid, loss: nn.Module, matcher: Matcher
) -> Tensor:
    """(B, A, 5 + C): the negative gradient of the loss summed over the batch.

    It is taken with respect to the activated x, y and objectness o, and to the raw w, h and classes. For o it
    is the line weight * (target - o), because weight and target do not depend on o. Two points, at logits -1
    and 1, determine this line. Dividing by the sigmoid's derivative at o itself would lose it near 0 and 1.
    Images with a label only keep the anchors that they choose by the true objectness.
    """
    if targets.image_labels is not None:
        encoded = TargetEncoder(matcher, YoloBoxCoder())(targets, grid, outputs)
        chosen = loss.tree.labelled_images(outputs, encoded, grid)
        loss = deepcopy(loss)
        loss.tree.labelled_images = lambda *_: chosen
    logits = outputs.objectness.detach()
    low_outputs = replace(outputs, objectness=torch.full_like(logits, -1.0))
    high_outputs = replace(outputs, objectness=torch.full_like(logits, 1.0))
    low = _gradient(low_outputs, targets, grid, loss, matcher)
    high = _gradient(high_outputs, targets, grid, loss, matcher)
    low_o, high_o = torch.tensor([-1.0, 1.0], dtype=torch.float64).sigmoid()
    low_gradient = low.objectness / (low_o * (1 - low_o))
    high_gradient = high.objectness / (high_o * (1 - high_o))
    slope = (high_gradient - low_gradient) / (high_o - low_o)
    objectness = low_gradient + (logits.sigmoid() - low_o) * slope
    return -torch.cat([low.offsets, objectness[..., None], low.class_logits], -1)


def _gradient(
    outputs: HeadOutputs, targets: Targets, grid: AnchorGrid, loss: nn.Module, matcher: Matcher
) -> HeadOutputs:
    """The gradient of the loss, summed over the batch, with respect to each of the head's outputs.

    The loss is copied, so that its count of images does not change.
    """
    outputs = HeadOutputs(
        outputs.offsets.detach().requires_grad_(),
        outputs.class_logits.detach().requires_grad_(),
        outputs.objectness.detach().requires_grad_(),
    )
    encoded = TargetEncoder(matcher, YoloBoxCoder())(targets, grid, outputs)
    (len(outputs.offsets) * sum(deepcopy(loss)(outputs, encoded, grid).values())).backward()
    return HeadOutputs(outputs.offsets.grad, outputs.class_logits.grad, outputs.objectness.grad)


def darknet_cost(delta: Tensor) -> float:
    """The sum of the squares of delta, added one by one in float32 and in Darknet's memory order.

    Adding thousands of small terms in this way changes the sum by up to 2e-5 of its value.
    """
    return float(np.cumsum(delta.flatten().numpy().astype(np.float32) ** 2, dtype=np.float32)[-1])
