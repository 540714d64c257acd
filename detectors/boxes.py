"""Box formats, clipping, area and IoU: pure functions on boxes (xmin, ymin, xmax, ymax).

Boxes are in pixels with continuous edges. The functions keep the dtype of their input, never change it, and
never synchronise with a device.
"""

from __future__ import annotations

import torch
from torch import Tensor

TILE_NUMBERS = 2**18  # of each buffer in largest_iou: 1 MiB of float32 stays in a CPU's cache


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
    # In place: new memory for each step costs a CPU more than the arithmetic.
    inter = torch.minimum(x1, u1).sub_(torch.maximum(x0, u0)).clamp_(min=0)
    inter.mul_(torch.minimum(y1, v1).sub_(torch.maximum(y0, v0)).clamp_(min=0))
    union = ((x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0)).sub_(inter)
    return inter.div_(union.clamp_(min=torch.finfo(union.dtype).tiny))


def pairwise_iou(rows: Tensor, columns: Tensor) -> Tensor:
    """(..., R, 4) and (..., S, 4) -> (..., R, S) IoU."""
    columns = columns.mT.contiguous().mT  # each coordinate without gaps: several times as fast on a CPU
    return paired_iou(rows[..., :, None, :], columns[..., None, :, :])


@torch.no_grad()
def largest_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """(B, A, 4) boxes, (B, M, 4) others -> (B, A) each box's largest IoU with the others; 0 if M is 0.

    The same numbers as pairwise_iou(others, boxes).amax(1). Others of zeros, as in padding, have IoU 0. Work
    goes tile by tile, in place, so that memory does not grow with M. No gradient.
    """
    traced = torch.compiler.is_compiling()  # the number of tiles depends on the batch: one opaque operation
    return torch.ops.detectors.largest_iou(boxes, others) if traced else _largest_iou(boxes, others)


def _largest_iou(boxes: Tensor, others: Tensor) -> Tensor:
    batch, count, _ = boxes.shape
    # Contiguous planes: an inner axis of 4 costs several times as much on a CPU.
    low, high = boxes.permute(2, 0, 1).contiguous()[:, :, None].chunk(2)  # (2, B, 1, A) each
    others_low, others_high = others.permute(2, 0, 1)[..., None].chunk(2)  # (2, B, M, 1) each
    area = (high - low).prod(0)
    # The limit keeps the union of two empty boxes above 0, and changes no other IoU.
    others_area = (others_high - others_low).prod(0).clamp(min=torch.finfo(others.dtype).tiny)
    columns = others.shape[1]
    tile = min(max(1, TILE_NUMBERS // max(1, batch * count)), columns)
    largest = area.new_zeros(batch, tile, count)
    buffers = area.new_empty(2, 2, batch, tile, count)
    for start in range(0, columns, max(1, tile)):
        part = slice(start, start + tile)
        wh, start_xy = buffers[:, :, :, : columns - start]  # (2, B, tile, A) each
        torch.minimum(high, others_high[:, :, part], out=wh)
        wh.sub_(torch.maximum(low, others_low[:, :, part], out=start_xy)).clamp_(min=0)
        inter = wh[0].mul_(wh[1])
        union = torch.add(area, others_area[:, part], out=start_xy[0]).sub_(inter)
        best = largest[:, : columns - start]
        torch.maximum(best, inter.div_(union), out=best)
    return largest.amax(1) if columns else area.new_zeros(batch, count)


torch.library.custom_op("detectors::largest_iou", _largest_iou, mutates_args=())


@torch.library.register_fake("detectors::largest_iou")
def _largest_iou_shape(boxes: Tensor, others: Tensor) -> Tensor:
    return boxes.new_empty(boxes.shape[:2])


def shape_iou(left_wh: Tensor, right_wh: Tensor) -> Tensor:
    """(..., 2) and (..., 2) width and height, broadcast -> (...,) IoU of two boxes with the same centre.

    YOLOv2 uses it to pick the anchor for a box.
    """
    inter = torch.minimum(left_wh, right_wh).prod(-1)
    union = left_wh.prod(-1) + right_wh.prod(-1) - inter
    return inter / union.clamp(min=torch.finfo(union.dtype).tiny)
