"""YOLOv2's loss as one operation: all terms and their gradients, from the head's outputs and encoded targets.

The formula and the reference are RegionLoss's (losses/region_loss.py). With p for an anchor's predicted
offsets, g for its target's, o = sigmoid(objectness), iou for the IoU of the predicted box with a truth:

    box      1/B  sum over positive anchors of  m/2 |p - g|^2                m = coord_scale * (2 - w h)
    prior    1/B  sum over the others of        prior_scale/2 |p - g|^2      while images_seen < prior_images
    object   1/B  sum over positive anchors of  object_scale/2 (o - t)^2     t = iou with its own truth
    noobject 1/B  sum over the others of        noobject_scale/2 o^2         unless the best iou > ignore_iou
    class    1/B  sum over positive anchors of  class_scale (log sum exp(z) - z[label])

The forward pass also writes the gradient of each term, so that the backward pass multiplies it by the term's
upstream gradient and does nothing else. An anchor's offsets belong to one of box and prior, its objectness to
one of object and noobject: `matched` says to which. The owner of an anchor comes from there, too; the matcher
has let the last of several truths win.

One program of the forward kernel has one image and ROWS anchors. It decodes their boxes into registers,
encodes the anchors' own truths, loops over the image's truths for the best IoU, writes 4 + 1 + C gradients
for each anchor and five partial sums, one for each term, which are added in a fixed order later. It reads the
class logits of positive anchors only. Bytes of an anchor, float32:

    forward   read 28: offsets 16, objectness 4, matched 8; the grid and the truths stay in the cache.
              A positive anchor: 4 C more.  Write 20 + 4 C
    backward  read 28 + 4 C, write 20 + 4 C

Where a gradient of the reference is NaN or infinite, the kernel's is not finite either.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from detectors.structures import AnchorGrid, EncodedTargets, HeadOutputs

_TERMS = ("box", "prior", "object", "noobject", "class")
_ROWS = 64  # anchors of one program
_COLUMNS = 16  # classes that it handles together; 32 would spill registers
_WARPS = 4
_ALL_NAN: tl.constexpr = tl.constexpr(tl.PropagateNan.ALL)  # as torch.minimum, maximum and clamp do
_TINY: tl.constexpr = tl.constexpr(torch.finfo(torch.float32).tiny)


def region_terms(
    outputs: HeadOutputs,
    encoded: EncodedTargets,
    grid: AnchorGrid,
    images_seen: Tensor,
    **settings: float | bool,
) -> dict[str, Tensor]:
    """The terms of RegionLoss, () float32 each.

    images_seen: () int64, this batch included. settings: the scales and switches of region_forward.
    """
    terms, *_ = region_forward(
        outputs.offsets,
        outputs.objectness,
        outputs.class_logits,
        encoded.matched,
        encoded.targets.labels,
        encoded.targets.boxes,
        encoded.targets.valid,
        grid.boxes_cxcywh,
        grid.stride,
        grid.cell,
        images_seen,
        input_area=float(grid.size[0] * grid.size[1]),
        **settings,
    )
    return dict(zip(_TERMS, terms.unbind(), strict=True))


@torch.library.custom_op("detectors::region_forward", mutates_args=())
def region_forward(
    offsets: Tensor,  # (B, A, 4)
    objectness: Tensor,  # (B, A)
    class_logits: Tensor,  # (B, A, C)
    matched: Tensor,  # (B, A) int64
    labels: Tensor,  # (B, M) int64
    truths: Tensor,  # (B, M, 4) xyxy pixels
    valid: Tensor,  # (B, M) bool
    anchors_cxcywh: Tensor,  # (A, 4) pixels
    stride: Tensor,  # (A,)
    cell: Tensor,  # (A, 2)
    images_seen: Tensor,  # () int64
    *,
    coord_scale: float,
    object_scale: float,
    noobject_scale: float,
    class_scale: float,
    prior_scale: float,
    prior_images: int,
    ignore_iou: float,
    input_area: float,  # square pixels
    weigh_small_boxes: bool,
    rescore: bool,  # t is the IoU; otherwise it is 1
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(5,) terms, and the gradients of their sum: (B, A, 4), (B, A), (B, A, C). All float32."""
    batch, anchors, classes = class_logits.shape
    tiles = triton.cdiv(anchors, _ROWS)
    partial = offsets.new_empty((batch, tiles, len(_TERMS)), dtype=torch.float32)
    gradients = [torch.empty(x.shape, dtype=torch.float32, device=x.device) for x in (offsets, objectness)]
    gradients.append(class_logits.new_empty(class_logits.shape, dtype=torch.float32))
    with torch.cuda.device_of(offsets):  # Triton launches on the current device
        region_forward_kernel[(tiles, batch)](
            *(offsets, *offsets.stride()),
            *(objectness, *objectness.stride()),
            *(class_logits, *class_logits.stride()),
            *(x.contiguous() for x in (matched, labels, truths, valid, anchors_cxcywh, stride, cell)),
            images_seen,
            *(partial, *gradients),
            *(anchors, truths.shape[1], classes),
            *(coord_scale, object_scale, noobject_scale, class_scale, prior_scale, prior_images, ignore_iou),
            *(input_area, 1 / max(batch, 1)),
            WEIGH_SMALL_BOXES=weigh_small_boxes,
            RESCORE=rescore,
            ROWS=_ROWS,
            COLUMNS=_COLUMNS,
            num_warps=_WARPS,
        )
    return partial.sum((0, 1)), *gradients


@region_forward.register_fake
def _forward_shapes(
    offsets, objectness, class_logits, *targets, **settings
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shapes = [(len(_TERMS),), offsets.shape, objectness.shape, class_logits.shape]
    return tuple(offsets.new_empty(shape, dtype=torch.float32) for shape in shapes)


@torch.library.custom_op("detectors::region_backward", mutates_args=())
def region_backward(
    upstream: Tensor,  # (5,)
    matched: Tensor,  # (B, A) int64
    offset_gradient: Tensor,  # (B, A, 4)
    objectness_gradient: Tensor,  # (B, A)
    class_gradient: Tensor,  # (B, A, C)
) -> tuple[Tensor, Tensor, Tensor]:
    """Each anchor's gradients, times the upstream gradient of the term that it belongs to."""
    gradients = (offset_gradient, objectness_gradient, class_gradient)
    results = tuple(torch.empty_like(gradient) for gradient in gradients)
    batch, anchors, classes = class_gradient.shape
    with torch.cuda.device_of(upstream):
        region_backward_kernel[(triton.cdiv(anchors, _ROWS), batch)](
            upstream.contiguous(),
            matched.contiguous(),
            *gradients,
            *results,
            anchors,
            classes,
            ROWS=_ROWS,
            COLUMNS=_COLUMNS,
            num_warps=_WARPS,
        )
    return results


@region_backward.register_fake
def _backward_shapes(upstream, matched, *gradients) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.empty_like(gradient) for gradient in gradients)


def _save(ctx, inputs, keyword_only_inputs, output) -> None:
    _, *gradients = output
    ctx.mark_non_differentiable(*gradients)
    ctx.set_materialize_grads(False)  # zeros for the gradients' own gradients would be as large as they are
    ctx.save_for_backward(inputs[3], *gradients)


def _multiply(ctx, upstream, *_) -> tuple[Tensor | None, ...]:
    """float32 gradients, which autograd converts to the types of the inputs."""
    results = (None, None, None) if upstream is None else region_backward(upstream, *ctx.saved_tensors)
    return *results, *[None] * 8


region_forward.register_autograd(_multiply, setup_context=_save)


@triton.jit(do_not_specialize=["M"])  # it changes from batch to batch
def region_forward_kernel(
    offsets, offsets_image, offsets_anchor, offsets_entry,  # (B, A, 4) and its strides
    objectness, objectness_image, objectness_anchor,  # (B, A) and its strides
    class_logits, logits_image, logits_anchor, logits_class,  # (B, A, C) and its strides
    matched, labels, truths, valid, anchors_cxcywh, stride, cell, images_seen,  # these are contiguous
    partial, offset_gradient, objectness_gradient, class_gradient,  # results
    A, M, C,
    coord_scale, object_scale, noobject_scale, class_scale, prior_scale, prior_images, ignore_iou,
    input_area, share,  # share: 1 / B
    WEIGH_SMALL_BOXES: tl.constexpr, RESCORE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One program has one image and ROWS anchors, see above."""
    image = tl.program_id(1).to(tl.int64)  # products with it may not fit into 32 bits
    anchor = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = anchor < A
    row = image * A + anchor
    owner = tl.load(matched + row, inside, -1).to(tl.int32)
    positive = owner >= 0
    is_positive = positive.to(tl.float32)
    sums = partial + (image * tl.num_programs(0) + tl.program_id(0)) * 5

    p = offsets + image * offsets_image + anchor * offsets_anchor
    p_x = tl.load(p, inside, 0.0).to(tl.float32)
    p_y = tl.load(p + offsets_entry, inside, 0.0).to(tl.float32)
    p_w = tl.load(p + 2 * offsets_entry, inside, 0.0).to(tl.float32)
    p_h = tl.load(p + 3 * offsets_entry, inside, 0.0).to(tl.float32)
    truths += image * M * 4
    u0 = tl.load(truths + 4 * owner, positive, 0.0)  # the anchor's own truth
    v0 = tl.load(truths + 4 * owner + 1, positive, 0.0)
    u1 = tl.load(truths + 4 * owner + 2, positive, 0.0)
    v1 = tl.load(truths + 4 * owner + 3, positive, 0.0)
    x0, x1, g_x, g_w = _axis(p_x, p_w, u0, u1, positive, anchor, inside, stride, cell, anchors_cxcywh)
    y0, y1, g_y, g_h = _axis(p_y, p_h, v0, v1, positive, anchor, inside, stride, cell + 1, anchors_cxcywh + 1)

    size_weight = 2 - (u1 - u0) * (v1 - v0) / input_area if WEIGH_SMALL_BOXES else 1.0
    early = (tl.load(images_seen) < prior_images).to(tl.float32)
    weight = tl.where(positive, coord_scale * size_weight, prior_scale * early) * share
    error = _box_term(p_x - g_x, weight, offset_gradient + row * 4, inside)
    error += _box_term(p_y - g_y, weight, offset_gradient + row * 4 + 1, inside)
    error += _box_term(p_w - g_w, weight, offset_gradient + row * 4 + 2, inside)
    error += _box_term(p_h - g_h, weight, offset_gradient + row * 4 + 3, inside)
    tl.store(sums, tl.sum(error * is_positive, 0))  # NaN times 0 is NaN, as in the reference
    tl.store(sums + 1, tl.sum(error * (1 - is_positive), 0))

    logit = objectness + image * objectness_image + anchor * objectness_anchor
    o = tl.sigmoid(tl.load(logit, inside, 0.0).to(tl.float32))
    best = _best_iou(x0, y0, x1, y1, truths, valid + image * M, M)
    weight = tl.where(positive, object_scale, tl.where(best > ignore_iou, 0.0, noobject_scale)) * share
    own = _iou(x0, y0, x1, y1, u0, v0, u1, v1) if RESCORE else 1.0
    difference = o - tl.where(positive, own, 0.0)
    tl.store(objectness_gradient + row, weight * difference * o * (1 - o), inside)
    error = tl.where(inside, weight * difference * difference / 2, 0.0)
    tl.store(sums + 2, tl.sum(error * is_positive, 0))
    tl.store(sums + 3, tl.sum(error * (1 - is_positive), 0))

    error = _class_term(
        class_logits + image * logits_image,
        anchor * logits_anchor,
        logits_class,
        tl.load(labels + image * M + owner, positive, 0).to(tl.int32),
        positive,
        inside,
        class_gradient + image * A * C,
        anchor * C,
        class_scale * share,
        C,
        COLUMNS,
    )
    tl.store(sums + 4, tl.sum(error, 0))


@triton.jit
def _axis(centre, log_size, low, high, positive, anchor, inside, stride, cell, anchors_cxcywh):
    """Along one axis: low and high edge of the predicted boxes, pixels, and the target of both offsets.

    low, high: the edges of the anchor's own truth; an anchor without one has itself as its target. cell,
    anchors_cxcywh: pointers to this axis.
    """
    pixels = tl.load(stride + anchor, inside, 1.0)
    number = tl.load(cell + 2 * anchor, inside, 0.0)
    size = tl.load(anchors_cxcywh + 4 * anchor + 2, inside, 1.0)
    middle = tl.where(positive, (low + high) / 2, tl.load(anchors_cxcywh + 4 * anchor, inside, 0.0))
    goal = middle / pixels - number
    log_goal = tl.log(tl.where(positive, high - low, size) / size)
    half = tl.exp(log_size) * size / 2
    return (centre + number) * pixels - half, (centre + number) * pixels + half, goal, log_goal


@triton.jit
def _iou(x0, y0, x1, y1, u0, v0, u1, v1):
    """IoU of two boxes, broadcast, as boxes.paired_iou."""
    width = tl.minimum(x1, u1, _ALL_NAN) - tl.maximum(x0, u0, _ALL_NAN)
    height = tl.minimum(y1, v1, _ALL_NAN) - tl.maximum(y0, v0, _ALL_NAN)
    overlap = tl.maximum(width, 0.0, _ALL_NAN) * tl.maximum(height, 0.0, _ALL_NAN)
    union = (x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0) - overlap
    return overlap / tl.maximum(union, _TINY, _ALL_NAN)


@triton.jit
def _best_iou(x0, y0, x1, y1, truths, valid, M):
    """(ROWS,) the best IoU of each predicted box with the valid ones of an image's M truths."""
    best = tl.zeros_like(x0)
    truth = 0
    while truth < M:
        u0 = tl.load(truths + 4 * truth)
        v0 = tl.load(truths + 4 * truth + 1)
        u1 = tl.load(truths + 4 * truth + 2)
        v1 = tl.load(truths + 4 * truth + 3)
        iou = _iou(x0, y0, x1, y1, u0, v0, u1, v1) * tl.load(valid + truth).to(tl.float32)
        best = tl.where(iou > best, iou, best)
        truth += 1
    return best


@triton.jit
def _box_term(difference, weight, gradient, inside):
    """(ROWS,) weighted half squared error of one of the four offsets; stores its gradient."""
    tl.store(gradient, weight * difference, inside)
    return tl.where(inside, weight * difference * difference / 2, 0.0)


@triton.jit
def _class_term(
    logits, logits_row, step, label, positive, inside, gradient, gradient_row, weight, C,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """(ROWS,) weighted cross-entropy, 0 where not `positive`; stores its gradient for all anchors.

    logits, gradient: pointers to the image's first number. logits_row, gradient_row: where each anchor's
    begin. step: from the logit of one class to that of the next.
    """
    read = tl.where(tl.max(positive.to(tl.int32), 0) > 0, C, 0)  # without a positive anchor nothing is read
    highest = tl.full(label.shape, float("-inf"), tl.float32)
    start = 0
    while start < read:
        z, column, usable = _logits(logits, logits_row, step, positive, start, C, COLUMNS)
        highest = tl.maximum(highest, tl.max(z, 1))
        start += COLUMNS
    highest = tl.where(positive, highest, 0.0)
    total = tl.zeros_like(highest)
    chosen = tl.zeros_like(highest)
    start = 0
    while start < read:
        z, column, usable = _logits(logits, logits_row, step, positive, start, C, COLUMNS)
        total += tl.sum(tl.where(usable, tl.exp(z - highest[:, None]), 0.0), 1)
        chosen += tl.sum(tl.where(usable & (column[None, :] == label[:, None]), z, 0.0), 1)
        start += COLUMNS
    total = tl.where(positive, total, 1.0)
    start = 0
    while start < C:
        z, column, usable = _logits(logits, logits_row, step, positive, start, C, COLUMNS)
        target = (column[None, :] == label[:, None]).to(tl.float32)
        slope = weight * (tl.exp(z - highest[:, None]) / total[:, None] - target)
        stored = inside[:, None] & (column < C)[None, :]
        place = gradient_row[:, None] + column[None, :]
        tl.store(gradient + place, tl.where(usable, slope, 0.0), stored)
        start += COLUMNS
    return tl.where(positive, weight * (highest + tl.log(total) - chosen), 0.0)


@triton.jit
def _logits(logits, row, step, positive, start, C, COLUMNS: tl.constexpr):
    """(ROWS, COLUMNS) logits of the classes from `start` on, their numbers, and which count; others -inf."""
    column = start + tl.arange(0, COLUMNS)
    usable = positive[:, None] & (column < C)[None, :]
    z = tl.load(logits + row[:, None] + (column * step)[None, :], usable, float("-inf")).to(tl.float32)
    return z, column, usable


@triton.jit
def region_backward_kernel(
    upstream, matched,
    offset_gradient, objectness_gradient, class_gradient,
    offset_result, objectness_result, class_result,
    A, C, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One program has one image and ROWS anchors."""
    image = tl.program_id(1).to(tl.int64)
    anchor = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = anchor < A
    row = image * A + anchor
    positive = tl.load(matched + row, inside, -1) >= 0
    box = tl.where(positive, tl.load(upstream), tl.load(upstream + 1))[:, None]
    entry = row[:, None] * 4 + tl.arange(0, 4)[None, :]
    tl.store(offset_result + entry, box * tl.load(offset_gradient + entry, inside[:, None]), inside[:, None])
    confidence = tl.where(positive, tl.load(upstream + 2), tl.load(upstream + 3))
    tl.store(objectness_result + row, confidence * tl.load(objectness_gradient + row, inside), inside)
    factor = tl.load(upstream + 4)
    class_gradient += image * A * C
    class_result += image * A * C
    start = 0
    while start < C:
        column = start + tl.arange(0, COLUMNS)
        usable = inside[:, None] & (column < C)[None, :]
        place = (anchor * C)[:, None] + column[None, :]
        tl.store(class_result + place, factor * tl.load(class_gradient + place, usable), usable)
        start += COLUMNS
