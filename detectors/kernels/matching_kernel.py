"""SSD's matching of a batch in two launches; the reference is MultiBoxMatcher with bipartite="greedy".

Both results equal the reference's bit for bit: the IoU is rounded like boxes.paired_iou, without fused
multiply-adds (ROUNDED_EACH), and all else is a comparison of int64 keys, which have no ties:

    pair of a box t and an anchor a:  (bits of the IoU, inverted number of the anchor)
    candidates of an anchor a:        (bits of the IoU, inverted number of the box)

The bits of non-negative floats are ordered like the floats; the lowest number wins ties.

Caffe's greedy rule takes the largest pair that is still free, M times over. Here all boxes choose at once:
each takes its best anchor; of several boxes on one anchor the best stays, and the others move on to their
next best, until no two boxes meet. The result is the same: pairs have one order, for boxes and for anchors,
so there is only one stable matching, and the greedy one is stable. The number of rounds is the length of the
longest chain of boxes that push one another away, not M.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from detectors.structures import BACKGROUND

ANCHORS_OF_BLOCK = 128
# BOXES boxes are compared with a block of ANCHORS anchors, and with RIVALS boxes, at a time.
OVERLAPS_SIZES = {"BOXES": 8, "ANCHORS": ANCHORS_OF_BLOCK, "RIVALS": 64}
BIPARTITE_SIZES = {"BOXES": 16, "ANCHORS": ANCHORS_OF_BLOCK, "RIVALS": 64, "BLOCKS": 32}
ROUNDED_EACH = {"enable_fp_fusion": False}  # every operation rounds to float32, as in PyTorch

_BACKGROUND = tl.constexpr(BACKGROUND)
_INVERT = tl.constexpr(0x7FFFFFFF)  # number ^ _INVERT: the lowest number becomes the largest; its own inverse
_NAN = tl.constexpr(0x7FC00000)
_PROPAGATE = tl.constexpr(tl.PropagateNan.ALL)


@torch.library.custom_op("detectors::match_boxes", mutates_args=())
def match_boxes(
    boxes: Tensor, valid: Tensor, anchors: Tensor, positive_iou: float, smallest_iou: float
) -> tuple[Tensor, Tensor]:
    """boxes: (B, M, 4) and anchors (A, 4) xyxy float32. valid: (B, M) bool.

    Returns matched (B, A) and assigned (B, M), see structures.Matches. smallest_iou: the greedy step leaves
    out pairs that are not above it.
    """
    batch, count = valid.shape
    num_anchors = len(anchors)
    boxes, valid, anchors = boxes.contiguous(), valid.contiguous(), anchors.contiguous()
    blocks = triton.cdiv(num_anchors, ANCHORS_OF_BLOCK)
    matched = torch.empty(batch, num_anchors, dtype=torch.int64, device=boxes.device)
    assigned = torch.empty(batch, count, dtype=torch.int64, device=boxes.device)
    block_best = torch.empty(batch, blocks, count, dtype=torch.int64, device=boxes.device)
    with torch.cuda.device_of(boxes):  # Triton launches on the current device
        _overlaps[(blocks, batch)](
            boxes, valid, anchors, matched, block_best, positive_iou, smallest_iou, count, num_anchors,
            **OVERLAPS_SIZES, **ROUNDED_EACH,
        )  # fmt: skip
        _bipartite[(batch,)](
            boxes, valid, anchors, matched, block_best, assigned, smallest_iou, count, num_anchors, blocks,
            **BIPARTITE_SIZES, **ROUNDED_EACH,
        )  # fmt: skip
    return matched, assigned


@match_boxes.register_fake
def _match_boxes_shapes(
    boxes: Tensor, valid: Tensor, anchors: Tensor, positive_iou: float, smallest_iou: float
) -> tuple[Tensor, Tensor]:
    matched = valid.new_empty((valid.shape[0], anchors.shape[0]), dtype=torch.int64)
    return matched, valid.new_empty(valid.shape, dtype=torch.int64)


@triton.jit(do_not_specialize=["count", "num_anchors"])  # another M compiles nothing again
def _overlaps(
    boxes, valid, anchors, matched, block_best, positive_iou, smallest_iou, count, num_anchors,
    BOXES: tl.constexpr, ANCHORS: tl.constexpr, RIVALS: tl.constexpr,
):  # fmt: skip
    """One program: ANCHORS anchors and all boxes of an image.

    Writes `matched` by the threshold alone, and the best pair of each box in this block, -1 for none.
    """
    block = tl.program_id(0)
    image = tl.program_id(1).to(tl.int64)
    anchor = block * ANCHORS + tl.arange(0, ANCHORS)
    inside = anchor < num_anchors
    boxes += image * count * 4
    valid += image * count
    used = _used(valid, count, RIVALS)
    best = tl.full([ANCHORS], -1, tl.int64)
    first = 0
    while first < used:
        box = first + tl.arange(0, BOXES)
        usable = tl.load(valid + box, box < count, 0) != 0
        iou = _iou(boxes, anchors, box, box < count, anchor[None, :], inside[None, :])
        paired = usable[:, None] & inside[None, :]
        candidate = _key(iou, (box ^ _INVERT)[:, None])
        best = tl.maximum(best, tl.max(tl.where(paired, candidate, -1), 0))
        pair = tl.where(paired & (iou > smallest_iou), _key(iou, (anchor ^ _INVERT)[None, :]), -1)
        place = block_best + (image * tl.num_programs(0) + block) * count + box
        tl.store(place, tl.max(pair, 1), box < count)
        first += BOXES
    best_iou = (best >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    best_box = best.to(tl.int32) ^ _INVERT
    row = tl.where((best >= 0) & (best_iou >= positive_iou), best_box, _BACKGROUND)
    tl.store(matched + image * num_anchors + anchor, row.to(tl.int64), inside)


@triton.jit(do_not_specialize=["count", "num_anchors", "blocks"])  # another M compiles nothing again
def _bipartite(
    boxes, valid, anchors, matched, block_best, assigned, smallest_iou, count, num_anchors, blocks,
    BOXES: tl.constexpr, ANCHORS: tl.constexpr, RIVALS: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """One program: an image. Writes `assigned`, and its boxes into `matched`.

    Until the end, `assigned` holds the pair that each box has chosen.
    """
    image = tl.program_id(0).to(tl.int64)
    boxes += image * count * 4
    matched += image * num_anchors
    block_best += image * blocks * count
    assigned += image * count
    used = _used(valid + image * count, count, RIVALS)
    first = 0
    while first < used:
        box = first + tl.arange(0, BOXES)
        pair = _best_of_blocks(block_best, box, used, count, blocks, BOXES, BLOCKS)
        tl.store(assigned + box, pair, box < used)
        first += BOXES
    moved = 1
    while moved > 0:
        moved = 0
        first = 0
        while first < used:
            tl.debug_barrier()  # what other threads stored can be read from here on
            box = first + tl.arange(0, BOXES)
            pair = tl.load(assigned + box, box < used, -1)
            beaten = _beaten(assigned, pair, box, used, BOXES, RIVALS)
            if tl.max(beaten) > 0:
                moving = beaten > 0
                anchor = tl.where(moving, pair.to(tl.int32) ^ _INVERT, 0)
                others = (anchor // ANCHORS * ANCHORS)[:, None] + tl.arange(0, ANCHORS)[None, :]
                inside = moving[:, None] & (others < num_anchors)
                iou = _iou(boxes, anchors, box, moving, others, inside)
                key = _key(iou, others ^ _INVERT)
                left = inside & (iou > smallest_iou) & (key < pair[:, None])
                place = block_best + (anchor // ANCHORS).to(tl.int64) * count + box
                tl.store(place, tl.max(tl.where(left, key, -1), 1), moving)
                tl.debug_barrier()
                next_best = _best_of_blocks(block_best, box, used, count, blocks, BOXES, BLOCKS)
                tl.store(assigned + box, next_best, moving)
                moved = 1
            first += BOXES
    first = 0
    tl.debug_barrier()
    while first < count:
        box = first + tl.arange(0, BOXES)
        pair = tl.load(assigned + box, box < used, -1)
        anchor = tl.where(pair >= 0, pair.to(tl.int32) ^ _INVERT, -1)
        tl.store(matched + anchor, box.to(tl.int64), pair >= 0)
        tl.store(assigned + box, anchor.to(tl.int64), box < count)
        first += BOXES


@triton.jit
def _used(valid, count, RIVALS: tl.constexpr):
    """The number of boxes of an image, without the padding behind its last one."""
    used = 0
    first = 0
    while first < count:
        box = first + tl.arange(0, RIVALS)
        there = tl.load(valid + box, box < count, 0) != 0
        used = tl.maximum(used, tl.max(tl.where(there, box + 1, 0)))
        first += RIVALS
    return used


@triton.jit
def _beaten(assigned, pair, box, used, BOXES: tl.constexpr, RIVALS: tl.constexpr):
    """(BOXES,) 1 where a rival, a box with the same anchor, has a larger IoU, or the same and comes first."""
    beaten = tl.zeros([BOXES], tl.int32)
    first = 0
    while first < used:
        other = first + tl.arange(0, RIVALS)
        theirs = tl.load(assigned + other, other < used, -1)[None, :]
        mine = pair[:, None]
        same_anchor = (mine.to(tl.int32) == theirs.to(tl.int32)) & (mine >= 0) & (theirs >= 0)
        better = (theirs > mine) | ((theirs == mine) & (other[None, :] < box[:, None]))
        beaten = tl.maximum(beaten, tl.max((same_anchor & better).to(tl.int32), 1))
        first += RIVALS
    return beaten


@triton.jit
def _best_of_blocks(block_best, box, used, count, blocks, BOXES: tl.constexpr, BLOCKS: tl.constexpr):
    """(BOXES,) the best pair of each box over all blocks."""
    best = tl.full([BOXES], -1, tl.int64)
    first = 0
    while first < blocks:
        block = first + tl.arange(0, BLOCKS)
        place = block_best + block.to(tl.int64)[:, None] * count + box[None, :]
        there = (block < blocks)[:, None] & (box < used)[None, :]
        best = tl.maximum(best, tl.max(tl.load(place, there, -1), 0))
        first += BLOCKS
    return best


@triton.jit
def _iou(boxes, anchors, box, box_inside, anchor, anchor_inside):
    """IoU of (T,) boxes with (1, K) or (T, K) anchors, with the roundings of boxes.paired_iou."""
    x0 = tl.load(boxes + 4 * box, box_inside, 0.0)[:, None]
    y0 = tl.load(boxes + 4 * box + 1, box_inside, 0.0)[:, None]
    x1 = tl.load(boxes + 4 * box + 2, box_inside, 0.0)[:, None]
    y1 = tl.load(boxes + 4 * box + 3, box_inside, 0.0)[:, None]
    u0 = tl.load(anchors + 4 * anchor, anchor_inside, 0.0)
    v0 = tl.load(anchors + 4 * anchor + 1, anchor_inside, 0.0)
    u1 = tl.load(anchors + 4 * anchor + 2, anchor_inside, 0.0)
    v1 = tl.load(anchors + 4 * anchor + 3, anchor_inside, 0.0)
    width = tl.minimum(x1, u1, _PROPAGATE) - tl.maximum(x0, u0, _PROPAGATE)
    height = tl.minimum(y1, v1, _PROPAGATE) - tl.maximum(y0, v0, _PROPAGATE)
    inter = tl.maximum(width, 0.0, _PROPAGATE) * tl.maximum(height, 0.0, _PROPAGATE)
    union = (x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0) - inter
    return tl.div_rn(inter, tl.maximum(union, 1.1754943508222875e-38, _PROPAGATE))


@triton.jit
def _key(iou, inverted_number):
    """int64 that orders by the IoU first, then by the inverted number. NaN comes first, as in torch.max."""
    bits = tl.where(iou == iou, iou.to(tl.int32, bitcast=True), _NAN)
    return (bits.to(tl.int64) << 32) | inverted_number.to(tl.int64)
