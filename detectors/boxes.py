"""Box formats, clipping, area and IoU: pure functions on boxes (xmin, ymin, xmax, ymax).

Boxes are in pixels with continuous edges. The functions keep the dtype of their input, never change it, and
never synchronise with a device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
def largest_iou(boxes: Tensor, others: Tensor, counts: Sequence[int] | None = None) -> Tensor:
    """(B, A, 4) boxes, (B, M, 4) others -> (B, A) each box's largest IoU with the others; 0 if M is 0.

    The same numbers as pairwise_iou(others, boxes).amax(1). Others of zeros, as in padding, have IoU 0. Work
    goes tile by tile, in place, so that memory does not grow with M. No gradient.

    counts: the number of others in each image, where the host knows it. Those behind are zeros.
    """
    if counts is not None and 4 * sum(counts) < others.shape[0] * others.shape[1]:
        return _largest_iou_of_counts(boxes, others, counts)
    traced = torch.compiler.is_compiling()  # the number of tiles depends on the batch: one opaque operation
    return torch.ops.detectors.largest_iou(boxes, others) if traced else _largest_iou(boxes, others)


def _largest_iou(boxes: Tensor, others: Tensor) -> Tensor:
    batch, count, _ = boxes.shape
    # Contiguous planes: an inner axis of 4 costs several times as much on a CPU.
    planes = boxes.permute(2, 0, 1).contiguous()[:, :, None]  # (4, B, 1, A)
    others = others.permute(2, 0, 1)[..., None]  # (4, B, M, 1)
    columns = others.shape[2]
    tile = min(max(1, TILE_NUMBERS // max(1, batch * count)), columns)
    largest = boxes.new_zeros(batch, tile, count)
    buffers = boxes.new_empty(2, 2, batch, tile, count)
    for start in range(0, columns, max(1, tile)):
        iou = _iou_into(buffers[:, :, :, : columns - start], planes, others[:, :, start : start + tile])
        best = largest[:, : columns - start]
        torch.maximum(best, iou, out=best)
    return largest.amax(1) if columns else boxes.new_zeros(batch, count)


def _largest_iou_of_counts(boxes: Tensor, others: Tensor, counts: Sequence[int]) -> Tensor:
    """For a batch in which most of (B, M) is padding, because few images have many others.

    Images with most others come first: those with a k-th other are the first ones, too, and a tile takes no
    more of them.
    """
    batch, count, _ = boxes.shape
    order = sorted(range(batch), key=lambda image: -counts[image])
    planes = boxes.permute(2, 0, 1)[:, order].contiguous()[:, :, None]  # (4, B, 1, A)
    others = others[order].permute(2, 0, 1)[..., None]  # (4, B, M, 1)
    images = [sum(n > k for n in counts) for k in range(max(counts))]  # with a k-th other
    tiles = list(_tiles(images, TILE_NUMBERS // max(1, 2 * count)))
    buffer = boxes.new_empty(4 * count * max((first * columns for _, first, columns in tiles), default=0))
    largest = boxes.new_zeros(batch, count)
    for start, first, columns in tiles:
        used = buffer[: 4 * first * columns * count].view(2, 2, first, columns, count)
        iou = _iou_into(used, planes[:, :first], others[:, :first, start : start + columns])
        torch.maximum(largest[:first], iou.amax(1), out=largest[:first])
    result = torch.empty_like(largest)
    result[order] = largest
    return result


def _tiles(images: Sequence[int], most: int) -> Iterator[tuple[int, int, int]]:
    """(first column, images, columns) of tiles with `most` pairs of image and column, or a single column.

    images: of each column, falling. A column with a quarter of a tile's images begins the next one.
    """
    start = 0
    while start < len(images):
        first = images[start]
        columns = min(max(1, most // first), sum(4 * n > first for n in images[start:]))
        yield start, first, columns
        start += columns


def _iou_into(buffers: Tensor, planes: Tensor, others: Tensor) -> Tensor:
    """IoU of boxes and others, coordinates first (4, ...), which broadcast to the (...) of the buffers.

    buffers: (2, 2, ...), overwritten; the result is a part of it.
    """
    low, high = planes.chunk(2)
    others_low, others_high = others.chunk(2)
    # The limit keeps the union of two empty boxes above 0, and changes no other IoU.
    others_area = (others_high - others_low).prod(0).clamp(min=torch.finfo(others.dtype).tiny)
    wh, start_xy = buffers
    torch.minimum(high, others_high, out=wh)
    wh.sub_(torch.maximum(low, others_low, out=start_xy)).clamp_(min=0)
    inter = wh[0].mul_(wh[1])
    union = torch.add((high - low).prod(0), others_area, out=start_xy[0]).sub_(inter)
    return inter.div_(union)


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
