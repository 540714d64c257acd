"""What anchors could reach at best: a box that no anchor comes near is hard to find.

Two rules. `near`: the largest IoU of a box with any anchor, where the anchors stand. `cell`, for YOLOv2: the
centre's cell predicts the box, and its centre may lie anywhere in the cell; so the IoU is that of the shapes
alone, with the anchor of the best shape. A box whose anchor a later box of the image takes cannot be found,
its IoU is 0 (matching.ResponsibleCellMatcher).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from detectors.boxes import largest_iou, shape_iou
from detectors.matching import ResponsibleCellMatcher
from detectors.structures import AnchorGrid, Targets

FOUND_IOU = 0.5


class AnchorReach(NamedTuple):
    near: np.ndarray  # (G,) IoU
    cell: np.ndarray | None  # (G,) IoU; None for detectors without a responsible cell


class ReachShare(NamedTuple):
    """Of the boxes of one kind. NaN without boxes."""

    boxes: int
    recall: float  # share with an IoU of FOUND_IOU or more
    mean_iou: float


def anchor_reach(boxes: Tensor, counts: np.ndarray, grid: AnchorGrid, *, by_cell: bool) -> AnchorReach:
    """boxes: (G, 4) xyxy of many images, in the frame of the grid's size. counts: (N,) boxes of each image.

    by_cell: whether the detector has YOLOv2's rule.
    """
    near = largest_iou(boxes[None], grid.boxes[None])[0] if len(boxes) else boxes.new_zeros(0)
    return AnchorReach(near.numpy(), _by_cell(boxes, counts, grid) if by_cell else None)


def _by_cell(boxes: Tensor, counts: np.ndarray, grid: AnchorGrid) -> np.ndarray:
    if not len(boxes):
        return np.zeros(0)
    by_image = [part for part in boxes.split(counts.tolist()) if len(part)]
    padded = pad_sequence(by_image, batch_first=True)  # (B, M, 4)
    number = torch.arange(padded.shape[1])
    valid = number < torch.tensor([len(part) for part in by_image])[:, None]
    targets = Targets(padded, torch.zeros_like(valid, dtype=torch.int64), valid)
    matches = ResponsibleCellMatcher()(targets, grid)
    anchor = matches.assigned.clamp(min=0)
    owned = (matches.assigned >= 0) & (matches.matched.gather(1, anchor) == number)
    iou = shape_iou(padded[..., 2:] - padded[..., :2], grid.boxes_cxcywh[anchor][..., 2:])
    return torch.where(owned, iou, 0)[valid].numpy()


def reach_share(iou: np.ndarray) -> ReachShare:
    """iou: (G,) the best of each box."""
    if not len(iou):
        return ReachShare(0, float("nan"), float("nan"))
    return ReachShare(len(iou), float((iou >= FOUND_IOU).mean()), float(iou.mean()))
