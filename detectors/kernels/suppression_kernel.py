"""Greedy suppression of many groups of boxes in one launch; the rule and the reference are in suppression.py.

One program has one group, which it takes ROWS boxes at a time, the best first:

    1. for each box that it has kept so far: drop the boxes of the tile that overlap it
    2. from the best box of the tile that is left to the next: drop the worse ones that overlap it
    3. write which boxes of the tile are kept

Step 2 jumps from kept box to kept box, so that a group takes as many turns as it has kept boxes. The corners
of a tile stay in registers. Bytes, for T boxes: read 32 T once, and 32 T_kept again for each later tile of a
group; write T. Nothing is read by the host, whatever the number of groups and their sizes.

It computes in float64 with the reference's operations in the reference's order, without fused multiply-adds,
so that it keeps the same boxes. NaN overlaps nothing.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS = 512  # boxes of a tile
_WARPS = 8
_ALL_NAN: tl.constexpr = tl.constexpr(tl.PropagateNan.ALL)  # as torch.minimum, maximum and clamp do


@torch.library.custom_op("detectors::suppress_sorted", mutates_args=())
def suppress_sorted(boxes: Tensor, group: Tensor, groups: int, iou: float, limit: int) -> Tensor:
    """suppress_reference on a GPU: (T, 4) float64 boxes sorted by group -> (T,) bool, which are kept."""
    keep = torch.zeros_like(group, dtype=torch.uint8)
    if groups and len(group):
        start = torch.searchsorted(group, torch.arange(groups + 1, device=group.device))
        suppress_groups[(groups,)](
            boxes.contiguous(), start, keep, limit, iou, _ROWS, num_warps=_WARPS, enable_fp_fusion=False
        )
    return keep.bool()


@suppress_sorted.register_fake
def _kept_shape(boxes, group, groups, iou, limit) -> Tensor:
    return torch.empty_like(group, dtype=torch.bool)


@triton.jit
def suppress_groups(
    boxes,  # (T, 4) float64
    start,  # (G + 1,) int64
    keep,  # (T,) uint8, zeros
    limit,
    IOU: tl.constexpr,
    ROWS: tl.constexpr,
):
    group = tl.program_id(0)
    first = tl.load(start + group)
    end = tl.minimum(tl.load(start + group + 1), first + limit)
    tile = first
    while tile < end:
        row = tile + tl.arange(0, ROWS)
        left = row < end
        x0, y0, x1, y1 = _corners(boxes, row, left)
        better = first
        while better < tile:
            if tl.load(keep + better) != 0:
                left &= ~_overlap(boxes, better, x0, y0, x1, y1, IOU)
            better += 1
        best = tl.min(tl.where(left, row, end))
        while best < end:
            left &= (row <= best) | ~_overlap(boxes, best, x0, y0, x1, y1, IOU)
            best = tl.min(tl.where(left & (row > best), row, end))
        tl.store(keep + row, left.to(tl.uint8), mask=row < end)
        tl.debug_barrier()  # the next tile reads what all threads have written
        tile += ROWS


@triton.jit
def _corners(boxes, row, mask):
    """The corners of rows; 0 where the mask is False."""
    x0 = tl.load(boxes + row * 4, mask=mask, other=0.0)
    y0 = tl.load(boxes + row * 4 + 1, mask=mask, other=0.0)
    x1 = tl.load(boxes + row * 4 + 2, mask=mask, other=0.0)
    y1 = tl.load(boxes + row * 4 + 3, mask=mask, other=0.0)
    return x0, y0, x1, y1


@triton.jit
def _overlap(boxes, better, x0, y0, x1, y1, IOU: tl.constexpr):
    """Whether the IoU of boxes with the box in row `better` exceeds the threshold."""
    u0, v0, u1, v1 = _corners(boxes, better, True)
    width = tl.minimum(u1, x1, _ALL_NAN) - tl.maximum(u0, x0, _ALL_NAN)
    height = tl.minimum(v1, y1, _ALL_NAN) - tl.maximum(v0, y0, _ALL_NAN)
    inter = tl.maximum(width, 0.0, _ALL_NAN) * tl.maximum(height, 0.0, _ALL_NAN)
    areas = (u1 - u0) * (v1 - v0) + (x1 - x0) * (y1 - y0)
    return inter / (areas - inter) > IOU
