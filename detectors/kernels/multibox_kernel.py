"""SSD's loss of a batch in three launches, and its gradient in one; the reference is losses.MultiBoxLoss.

    L = (cross-entropy over positives and mined negatives + box_scale * smooth L1 over positives) / n

1. `_rows` reads the logits and offsets once. It writes each mining key, and sums over positives.
2. `_mine` finds the k-th largest key of each image without a sort. A key is the bits of an error, and the
   limit is built bit by bit. Of several anchors with just that error, the first are mined. The error of a
   negative, -log p(background), is its key, so their sum needs no logits.
3. `_terms` adds up the images in their order and divides by n.
4. `_gradients` runs in the backward pass: softmax - onehot for positives and mined negatives, the only rows
   whose logits are read again, and zeros elsewhere, multiplied by the gradient of the loss.

Everything is computed in float32. No sum depends on the order in which programs run. A logit or offset that
is not finite makes its term not finite, as in the reference. Counts are not specialised: a batch with more
boxes compiles nothing again.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from detectors.structures import BACKGROUND, IGNORED

LOGITS_OF_PROGRAM = 1024  # of _rows and _gradients, unless a row has more
ROWS_AT_MOST = 64
KEYS_HELD = 32768  # of an image that stay in registers; others are read again for each bit
PARTS_AT_A_TIME = 4096  # partial sums, and other keys, that are read at a time
IMAGES_AT_A_TIME = 1024

_BACKGROUND = tl.constexpr(BACKGROUND)
_IGNORED = tl.constexpr(IGNORED)
_POSITIVE_KEY = tl.constexpr(-1)
_IGNORED_KEY = tl.constexpr(-2)
_NAN_KEY = tl.constexpr(0x7FFFFFFF)  # the largest: a NaN is mined first, as torch.sort has it


@torch.library.custom_op("detectors::multibox", mutates_args=())
def multibox(
    offsets: Tensor,
    class_logits: Tensor,
    matched: Tensor,
    boxes: Tensor,
    labels: Tensor,
    anchors_cxcywh: Tensor,
    variances: Tensor,
    divisors: Tensor | None,
    negatives_per_positive: float,
    box_scale: float,
    normalizer: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """offsets: (B, A, 4), class_logits: (B, A, C + 1), each float32, bfloat16 or float16, of any strides.
    matched: (B, A). boxes: (B, M, 4) xyxy, labels: (B, M), anchors_cxcywh: (A, 4), variances: (4,).
    divisors: (B,) n of each image; None: as `normalizer` says, from the positives of this batch.

    Returns the terms box and class, and what the backward pass needs: keys (B, A), limits (3, B) and divisors
    (B,). Limits are the smallest key that is mined, the anchor before which anchors with just this key are
    mined, and the number of positives.
    """
    batch, num_anchors, columns = class_logits.shape
    device = offsets.device
    matched, boxes, labels, anchors_cxcywh, variances = (
        x.contiguous() for x in (matched, boxes, labels, anchors_cxcywh, variances)
    )
    rows, padded, warps = _tile(columns)
    blocks = triton.cdiv(num_anchors, rows)
    keys = torch.empty(batch, num_anchors, dtype=torch.int32, device=device)
    limits = torch.empty(3, batch, dtype=torch.int32, device=device)
    partial = torch.empty(2, batch, blocks, dtype=torch.float32, device=device)
    sums = torch.empty(2, batch, dtype=torch.float32, device=device)
    normalizer = normalizer if divisors is None else "given"
    divisors = sums.new_empty(batch) if divisors is None else divisors.clone()
    box_term, class_term = (sums.new_empty(()) for _ in range(2))
    held, key_warps = _held_keys(num_anchors)
    with torch.cuda.device_of(offsets):  # Triton launches on the current device
        _rows[(blocks, batch)](
            offsets, class_logits, matched, boxes, labels, anchors_cxcywh, variances, keys, partial,
            *offsets.stride(), *class_logits.stride(), boxes.shape[1], num_anchors, columns,
            ROWS=rows, COLUMNS=padded, num_warps=warps,
        )  # fmt: skip
        _mine[(batch,)](
            keys, partial, limits, sums, negatives_per_positive, num_anchors, blocks,
            KEYS=held, PARTS=PARTS_AT_A_TIME, num_warps=key_warps,
        )  # fmt: skip
        _terms[(1,)](
            sums, limits, divisors, box_term, class_term, box_scale, batch,
            NORMALIZER=normalizer, IMAGES=IMAGES_AT_A_TIME,
        )  # fmt: skip
    return box_term, class_term, keys, limits, divisors


@multibox.register_fake
def _multibox_shapes(offsets, class_logits, *_) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, num_anchors = class_logits.shape[:2]
    new = class_logits.new_empty
    return (
        new((), dtype=torch.float32),
        new((), dtype=torch.float32),
        new((batch, num_anchors), dtype=torch.int32),
        new((3, batch), dtype=torch.int32),
        new((batch,), dtype=torch.float32),
    )


@torch.library.custom_op("detectors::multibox_gradients", mutates_args=())
def multibox_gradients(
    grad_box: Tensor,
    grad_class: Tensor,
    offsets: Tensor,
    class_logits: Tensor,
    matched: Tensor,
    boxes: Tensor,
    labels: Tensor,
    anchors_cxcywh: Tensor,
    variances: Tensor,
    keys: Tensor,
    limits: Tensor,
    divisors: Tensor,
    box_scale: float,
) -> tuple[Tensor, Tensor]:
    """Gradients by offsets and class_logits, given those by the terms. The other arguments are multibox's."""
    batch, num_anchors, columns = class_logits.shape
    matched, boxes, labels, anchors_cxcywh, variances = (
        x.contiguous() for x in (matched, boxes, labels, anchors_cxcywh, variances)
    )
    grad_offsets = torch.empty(offsets.shape, dtype=offsets.dtype, device=offsets.device)
    grad_logits = torch.empty(class_logits.shape, dtype=class_logits.dtype, device=offsets.device)
    rows, padded, warps = _tile(columns)
    with torch.cuda.device_of(offsets):  # Triton launches on the current device
        _gradients[(triton.cdiv(num_anchors, rows), batch)](
            grad_box, grad_class, offsets, class_logits, matched, boxes, labels, anchors_cxcywh, variances,
            keys, limits, divisors, grad_offsets, grad_logits,
            *offsets.stride(), *class_logits.stride(), box_scale, boxes.shape[1], num_anchors, columns, batch,
            ROWS=rows, COLUMNS=padded, num_warps=warps,
        )  # fmt: skip
    return grad_offsets, grad_logits


@multibox_gradients.register_fake
def _gradient_shapes(grad_box, grad_class, offsets, class_logits, *_) -> tuple[Tensor, Tensor]:
    return offsets.new_empty(offsets.shape), class_logits.new_empty(class_logits.shape)


def _save(ctx, inputs, output) -> None:
    *tensors, _, _, ctx.box_scale, _ = inputs
    ctx.save_for_backward(*tensors, *output[2:])
    ctx.mark_non_differentiable(*output[2:])
    ctx.set_materialize_grads(False)


def _backward(ctx, grad_box, grad_class, *_):
    tensors = ctx.saved_tensors
    zero = tensors[0].new_zeros((), dtype=torch.float32) if grad_box is None or grad_class is None else None
    gradients = (zero if x is None else x for x in (grad_box, grad_class))
    return *multibox_gradients(*gradients, *tensors, ctx.box_scale), *[None] * 9


multibox.register_autograd(_backward, setup_context=_save)


def _tile(columns: int) -> tuple[int, int, int]:
    """Rows and columns, both powers of two, and warps of a program that handles rows of `columns` logits."""
    padded = triton.next_power_of_2(columns)
    return max(1, min(ROWS_AT_MOST, LOGITS_OF_PROGRAM // padded)), padded, min(32, max(2, padded // 512))


def _held_keys(num_anchors: int) -> tuple[int, int]:
    """Keys that a program of _mine holds in registers, a power of two, and its warps."""
    held = min(KEYS_HELD, max(128, triton.next_power_of_2(num_anchors)))
    return held, min(32, max(4, held // 512))


@triton.jit(do_not_specialize=["count", "num_anchors"])
def _rows(
    offsets, class_logits, matched, boxes, labels, anchors_cxcywh, variances, keys, partial,
    offset_image, offset_row, offset_column, logit_image, logit_row, logit_column,
    count, num_anchors, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One program: ROWS anchors of an image. Writes their keys, and their sums of both terms."""
    image = tl.program_id(1).to(tl.int64)
    anchor = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = anchor < num_anchors
    box = tl.load(matched + image * num_anchors + anchor, inside, _IGNORED)
    positive = box >= 0
    column = tl.load(labels + image * count + box, positive, -1).to(tl.int32) + 1
    shifted = _shifted(class_logits + image * logit_image, anchor, inside, logit_row, logit_column,
                       columns, COLUMNS)  # fmt: skip
    here = tl.arange(0, COLUMNS)[None, :] == column[:, None]
    error = tl.log(tl.sum(tl.exp(shifted), 1)) - tl.sum(tl.where(here, shifted, 0.0), 1)
    bits = tl.where(error == error, tl.maximum(error, 0.0).to(tl.int32, bitcast=True), _NAN_KEY)
    key = tl.where(box == _BACKGROUND, bits, tl.where(positive, _POSITIVE_KEY, _IGNORED_KEY))
    tl.store(keys + image * num_anchors + anchor, key, inside)
    box_sum = tl.zeros([ROWS], tl.float32)
    for side in tl.static_range(4):
        place = offsets + image * offset_image + anchor * offset_row + side * offset_column
        offset = tl.load(place, inside, 0.0).to(tl.float32)
        target = _target(boxes + image * count * 4, anchors_cxcywh, variances, box, anchor, positive, side)
        # 0 for other anchors, but NaN if their offset is not finite
        distance = tl.abs(tl.where(positive, offset - target, offset * 0.0))
        box_sum += tl.where(distance < 1.0, 0.5 * distance * distance, distance - 0.5)
    place = partial + image * tl.num_programs(0) + tl.program_id(0)
    tl.store(place, tl.sum(box_sum, 0))
    class_sum = tl.where(positive, error, error * 0.0)
    tl.store(place + tl.num_programs(0) * tl.num_programs(1).to(tl.int64), tl.sum(class_sum, 0))


@triton.jit(do_not_specialize=["num_anchors", "blocks"])
def _mine(
    keys, partial, limits, sums, ratio, num_anchors, blocks, KEYS: tl.constexpr, PARTS: tl.constexpr
):  # fmt: skip
    """One program: an image. Writes its limits, and its sums of both terms."""
    image = tl.program_id(0).to(tl.int64)
    batch = tl.num_programs(0)
    keys += image * num_anchors
    anchor = tl.arange(0, KEYS)
    held = tl.load(keys + anchor, anchor < num_anchors, _IGNORED_KEY)
    candidates = _at_least(held, keys, 0, num_anchors, KEYS, PARTS)
    positives = _at_least(held, keys, _POSITIVE_KEY, num_anchors, KEYS, PARTS) - candidates
    wanted = tl.where(positives > 0, tl.minimum(ratio * positives, candidates.to(tl.float32)), 0.0)
    limit = 0
    bit = 1 << 30
    while bit > 0:
        enough = _at_least(held, keys, limit | bit, num_anchors, KEYS, PARTS) >= wanted
        limit = tl.where(enough, limit | bit, limit)
        bit = bit >> 1
    # Ties at the limit are rare: mined are those before anchor `stop`, all of them unless they are too many.
    too_many = _at_least(held, keys, limit, num_anchors, KEYS, PARTS) >= wanted + 1
    stop = tl.where(too_many, 0, _NAN_KEY)
    bit = tl.where(too_many, 1 << 30, 0)
    while bit > 0:
        few = _sum_mined(keys, limit, stop | bit, num_anchors, 0, PARTS, COUNT=True) < wanted + 1
        stop = tl.where(few, stop | bit, stop)
        bit = bit >> 1
    tl.store(limits + image, limit)
    tl.store(limits + batch + image, stop)
    tl.store(limits + 2 * batch + image, positives)
    box_sum = 0.0
    class_sum = _sum_mined(keys, limit, stop, num_anchors, 0, PARTS, COUNT=False)
    first = 0
    while first < blocks:
        part = first + tl.arange(0, PARTS)
        box_sum += tl.sum(tl.load(partial + image * blocks + part, part < blocks, 0.0))
        class_sum += tl.sum(tl.load(partial + (batch + image) * blocks + part, part < blocks, 0.0))
        first += PARTS
    tl.store(sums + image, box_sum)
    tl.store(sums + batch + image, class_sum)


@triton.jit(do_not_specialize=["batch"])
def _terms(
    sums, limits, divisors, box_term, class_term, box_scale, batch,
    NORMALIZER: tl.constexpr, IMAGES: tl.constexpr,
):  # fmt: skip
    """The only program: divides the sums of the images by n, and adds them up."""
    total = 0
    first = 0
    while first < batch:
        image = first + tl.arange(0, IMAGES)
        positives = tl.load(limits + 2 * batch + image, image < batch, 0)
        total += tl.sum(tl.maximum(positives, image < batch) if NORMALIZER == "floor" else positives)
        first += IMAGES
    box_sum = 0.0
    class_sum = 0.0
    first = 0
    while first < batch:
        image = first + tl.arange(0, IMAGES)
        inside = image < batch
        if NORMALIZER == "given":
            divisor = tl.load(divisors + image, inside, 1.0)
        else:
            divisor = tl.full([IMAGES], 1.0, tl.float32) * tl.maximum(total, 1)
            if NORMALIZER == "images":
                positives = tl.load(limits + 2 * batch + image, inside, 0)
                divisor = tl.maximum(positives, 1).to(tl.float32) * batch
            tl.store(divisors + image, divisor, inside)
        box_sum += tl.sum(tl.div_rn(tl.load(sums + image, inside, 0.0), divisor))
        class_sum += tl.sum(tl.div_rn(tl.load(sums + batch + image, inside, 0.0), divisor))
        first += IMAGES
    tl.store(box_term, box_sum * box_scale)
    tl.store(class_term, class_sum)


@triton.jit(do_not_specialize=["count", "num_anchors", "batch"])
def _gradients(
    grad_box, grad_class, offsets, class_logits, matched, boxes, labels, anchors_cxcywh, variances,
    keys, limits, divisors, grad_offsets, grad_logits,
    offset_image, offset_row, offset_column, logit_image, logit_row, logit_column,
    box_scale, count, num_anchors, columns, batch, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One program: the gradients of ROWS anchors of an image."""
    image = tl.program_id(1).to(tl.int64)
    anchor = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = anchor < num_anchors
    first = image * num_anchors
    key = tl.load(keys + first + anchor, inside, _IGNORED_KEY)
    positive = key == _POSITIVE_KEY
    selected = positive | _mined(key, anchor, tl.load(limits + image), tl.load(limits + batch + image))
    box = tl.load(matched + first + anchor, positive, 0)
    divisor = tl.load(divisors + image)
    label = tl.load(labels + image * count + box, positive, -1).to(tl.int32)
    shifted = _shifted(class_logits + image * logit_image, anchor, selected, logit_row, logit_column,
                       columns, COLUMNS)  # fmt: skip
    exps = tl.exp(shifted)
    column = tl.arange(0, COLUMNS)[None, :]
    onehot = tl.where(column == (label + 1)[:, None], 1.0, 0.0)
    scale = tl.load(grad_class).to(tl.float32) / divisor
    gradient = tl.where(selected[:, None], (exps / tl.sum(exps, 1)[:, None] - onehot) * scale, 0.0)
    place = grad_logits + first * columns + anchor[:, None] * columns + column
    tl.store(place, gradient, inside[:, None] & (column < columns))
    scale = tl.load(grad_box).to(tl.float32) * box_scale / divisor
    for side in tl.static_range(4):
        place = offsets + image * offset_image + anchor * offset_row + side * offset_column
        offset = tl.load(place, positive, 0.0).to(tl.float32)
        target = _target(boxes + image * count * 4, anchors_cxcywh, variances, box, anchor, positive, side)
        slope = offset - target
        slope = tl.where(slope > 1.0, 1.0, tl.where(slope < -1.0, -1.0, slope))
        tl.store(grad_offsets + first * 4 + anchor * 4 + side, tl.where(positive, slope * scale, 0.0), inside)


@triton.jit
def _shifted(class_logits, anchor, inside, stride_row, stride_column, columns, COLUMNS: tl.constexpr):
    """(ROWS, COLUMNS) float32 logits minus the largest of their row; -inf behind the last column."""
    column = tl.arange(0, COLUMNS)[None, :]
    place = class_logits + anchor[:, None] * stride_row + column * stride_column
    logits = tl.load(place, inside[:, None] & (column < columns), 0.0).to(tl.float32)
    logits = tl.where(column < columns, logits, float("-inf"))
    return logits - tl.max(logits, 1)[:, None]


@triton.jit
def _target(boxes, anchors_cxcywh, variances, box, anchor, positive, side: tl.constexpr):
    """(ROWS,) offset `side` of each positive's box, as SSDBoxCoder.encode computes it."""
    low = tl.load(boxes + 4 * box + side % 2, positive, 0.0)
    high = tl.load(boxes + 4 * box + side % 2 + 2, positive, 1.0)
    length = tl.load(anchors_cxcywh + 4 * anchor + side % 2 + 2, positive, 1.0)
    if side < 2:
        centre = tl.load(anchors_cxcywh + 4 * anchor + side, positive, 0.0)
        raw = tl.div_rn((low + high) / 2 - centre, length)
    else:
        raw = tl.log(tl.div_rn(high - low, length))
    return tl.div_rn(raw, tl.load(variances + side))


@triton.jit
def _at_least(held, keys, limit, num_anchors, KEYS: tl.constexpr, PARTS: tl.constexpr):
    """The number of keys of an image from `limit` up. held: the first KEYS of them."""
    return tl.sum((held >= limit).to(tl.int32)) + _sum_mined(
        keys, limit, None, num_anchors, KEYS, PARTS, COUNT=True
    )


@triton.jit
def _sum_mined(
    keys, limit, stop, num_anchors, FIRST: tl.constexpr, PARTS: tl.constexpr, COUNT: tl.constexpr
):  # fmt: skip
    """The number of mined negatives from anchor FIRST on, or the sum of their errors."""
    total = 0 if COUNT else 0.0
    first = FIRST
    while first < num_anchors:
        anchor = first + tl.arange(0, PARTS)
        key = tl.load(keys + anchor, anchor < num_anchors, _IGNORED_KEY)
        mined = _mined(key, anchor, limit, stop)
        if COUNT:
            total += tl.sum(mined.to(tl.int32))
        else:
            total += tl.sum(tl.where(mined, key.to(tl.float32, bitcast=True), 0.0))
        first += PARTS
    return total


@triton.jit
def _mined(key, anchor, limit, stop):
    """Whether an anchor is a mined negative. stop: the anchor before which ties are mined; None: all are."""
    if stop is None:
        mined = key >= limit
    else:
        mined = (key > limit) | ((key == limit) & (anchor < stop))
    return mined
