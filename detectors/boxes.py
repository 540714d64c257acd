"""Box formats, clipping, area and IoU: pure functions on boxes (xmin, ymin, xmax, ymax).

Boxes are in pixels with continuous edges. The functions keep the dtype of their input, never change it, and
never synchronise with a device.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """(..., 4) centre and size -> (..., 4) corners. Law: xyxy_to_cxcywh undoes it (tests/test_laws.py)."""
    centre = boxes_cxcywh[..., :2]
    half = boxes_cxcywh[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) corners -> (..., 4) centre and size."""
    low = boxes[..., :2]
    high = boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], -1)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(..., 4) corners, clipped to an image of `size` (height, width)."""
    height, width = size
    x = boxes[..., 0::2].clamp(0, width)
    y = boxes[..., 1::2].clamp(0, height)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], -1)


def area(boxes: Tensor) -> Tensor:
    """(..., 4) -> (...,); 0 for a box whose corners are swapped."""
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)


def paired_iou(left: Tensor, right: Tensor) -> Tensor:
    """(..., 4) and (..., 4), broadcast -> (...,) IoU. The corners of a box must not be swapped.

    Two empty boxes have IoU 0, not NaN. Coordinates are handled one by one, because an inner axis of 2 costs
    several times as much on a CPU.
    """
    x0, y0, x1, y1 = left.unbind(-1)
    u0, v0, u1, v1 = right.unbind(-1)
    width = (torch.minimum(x1, u1) - torch.maximum(x0, u0)).clamp(min=0)
    height = (torch.minimum(y1, v1) - torch.maximum(y0, v0)).clamp(min=0)
    inter = width * height
    union = (x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0) - inter
    return inter / union.clamp(min=torch.finfo(union.dtype).tiny)


def pairwise_iou(rows: Tensor, columns: Tensor) -> Tensor:
    """(..., R, 4) and (..., S, 4) -> (..., R, S) IoU."""
    return paired_iou(rows[..., :, None, :], columns[..., None, :, :])


def shape_iou(left_wh: Tensor, right_wh: Tensor) -> Tensor:
    """(..., 2) and (..., 2) width and height, broadcast -> (...,) IoU of two boxes with the same centre.

    YOLOv2 uses it to pick the anchor for a box.
    """
    inter = torch.minimum(left_wh, right_wh).prod(-1)
    union = left_wh.prod(-1) + right_wh.prod(-1) - inter
    return inter / union.clamp(min=torch.finfo(union.dtype).tiny)
