"""Matching: which anchor must find which ground-truth box.

First YOLOv2's rule (ResponsibleCellMatcher), then SSD's (MultiBoxMatcher). Last come three functions for
RegionLoss on boxes that share an anchor: which of them owns the anchor, which comes first, the lowest label.

Both rules work on a whole padded batch, on its device, without synchronising. A box without area matches
nothing: the data stage reports such boxes by file name; here they must not become NaN.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from detectors.boxes import pairwise_iou, shape_iou, xyxy_to_cxcywh
from detectors.kernels.dispatch import uses_triton
from detectors.kernels.packing import packs, rows_where
from detectors.structures import BACKGROUND, AnchorGrid, EncodedTargets, Matches, Targets

SMALLEST_IOU = 1e-6  # Caffe's MatchBBox (bbox_util.cpp) ignores pairs below this
INVERTED = 0xFFFFFFFF  # the lower half of a pair_key holds this minus a number
KEY_BYTES = 8
# Bytes of the largest table of pairs at a time. On a GPU few launches count, but the tables of a large batch
# must not take the memory of its network. On a CPU a tile stays in a core's cache, and has little padding.
PADDED_TABLE = 64 << 20
PACKED_TABLE = 1 << 20


class ResponsibleCellMatcher:
    """YOLOv2: the cell that holds the box's centre, and in it the anchor of the most similar shape.

    A box has at most one positive anchor. If two boxes fall on one anchor, the later one wins, as in
    Darknet's loop (region_layer.c). Ties in shape go to the first anchor. The grid must have one level.

    use_predicted_shapes: compare the box with the sizes predicted in its cell instead of the anchors'
    (Darknet's bias_match=0).
    """

    def __init__(self, use_predicted_shapes: bool = False):
        self.needs_predictions = use_predicted_shapes

    def __call__(self, targets: Targets, grid: AnchorGrid, predicted: Tensor | None = None) -> Matches:
        """predicted: (B, A, 4) xyxy pixels, for use_predicted_shapes.

        A centre on the far edge counts as inside.
        """
        (level,) = grid.levels
        batch, count = targets.labels.shape
        boxes_cxcywh = xyxy_to_cxcywh(targets.boxes)  # (B, M, 4)
        cell = (boxes_cxcywh[..., :2] / level.stride).long().clamp(min=0)
        column = cell[..., 0].clamp(max=level.columns - 1)
        row = cell[..., 1].clamp(max=level.rows - 1)
        location = row * level.columns + column  # (B, M)
        shapes_wh = grid.boxes_cxcywh[: level.per_location, 2:]  # (K, 2)
        if self.needs_predictions:
            assert predicted is not None
            shapes_wh = _predicted_shapes(predicted, location, level.per_location)  # (B, M, K, 2)
        best = shape_iou(boxes_cxcywh[..., None, 2:], shapes_wh).argmax(-1)  # (B, M)
        usable = targets.valid & (boxes_cxcywh[..., 2:] > 0).all(-1)
        assigned = torch.where(usable, location * level.per_location + best, -1)
        order = torch.arange(count, device=assigned.device).expand(batch, count)
        matched = torch.full((batch, grid.num_anchors), BACKGROUND, device=assigned.device)
        # The largest row is the last box; padding writes BACKGROUND, which changes nothing.
        rows = torch.where(usable, order, BACKGROUND)
        matched = matched.scatter_reduce(1, assigned.clamp(min=0), rows, "amax")
        return Matches(matched, assigned)


def _predicted_shapes(predicted: Tensor, location: Tensor, per_location: int) -> Tensor:
    """(B, A, 4) predicted boxes, (B, M) locations -> (B, M, K, 2) predicted widths and heights there."""
    wh = predicted[..., 2:] - predicted[..., :2]  # (B, A, 2)
    wh = wh.unflatten(1, (-1, per_location)).flatten(2)  # (B, rows * columns, K * 2)
    return wh.gather(1, location[..., None].expand(-1, -1, wh.shape[-1])).unflatten(-1, (per_location, 2))


class MultiBoxMatcher:
    """SSD: each box gets one anchor; every other anchor takes its best box if their IoU >= positive_iou.

    bipartite: how each box gets its one anchor. "greedy" is Caffe's rule (bbox_util.cpp): repeatedly match
    the pair with the largest IoU among the boxes and anchors still free. "last" is torchvision's and
    ssd.pytorch's rule: each box takes its best anchor; if several boxes take the same one, the last keeps it
    and the others get none.
    """

    needs_predictions = False
    kernel = "matching"

    def __init__(self, positive_iou: float = 0.5, bipartite: str = "greedy"):
        if not 0 < positive_iou <= 1:
            raise ValueError(f"positive_iou={positive_iou}: an IoU in (0, 1] is needed; the paper has 0.5")
        if bipartite not in ("greedy", "last"):
            raise ValueError(
                f"bipartite={bipartite!r}: choose 'greedy' (Caffe) or 'last' (torchvision, ssd.pytorch)"
            )
        self.positive_iou = positive_iou
        self.bipartite = bipartite

    def unsupported(self) -> str | None:
        return None if self.bipartite == "greedy" else f"bipartite={self.bipartite!r}"

    def __call__(self, targets: Targets, grid: AnchorGrid, predicted: Tensor | None = None) -> Matches:
        in_float32 = targets.boxes.dtype == grid.boxes.dtype == torch.float32
        unsupported = self.unsupported() or (None if in_float32 else f"boxes of {targets.boxes.dtype}")
        if uses_triton(targets.boxes.device, unsupported):
            from detectors.kernels.matching_kernel import match_boxes

            boxes, valid = targets.boxes, targets.valid
            return Matches(*match_boxes(boxes, valid, grid.boxes, self.positive_iou, SMALLEST_IOU))
        return self.reference(targets, grid)

    def reference(self, targets: Targets, grid: AnchorGrid) -> Matches:
        # One operation of a compiled graph, because its tiles and rounds depend on the batch.
        match = torch.ops.detectors.tiled_match if torch.compiler.is_compiling() else tiled_match
        greedy = self.bipartite == "greedy"
        return Matches(*match(targets.boxes, targets.valid, grid.boxes, self.positive_iou, greedy))


def tiled_match(
    boxes: Tensor, valid: Tensor, anchors: Tensor, positive_iou: float, greedy: bool
) -> tuple[Tensor, Tensor]:
    """MultiBoxMatcher's rule: (B, M, 4) boxes, (B, M) valid, (A, 4) anchors -> Matches.

    Pairs of a box and an anchor are computed in tiles. All that stays of a tile is the best box of each
    anchor and the best anchors of each box, as pair_keys.
    """
    batch, count = valid.shape
    if count == 0:
        return valid.new_full((batch, len(anchors)), BACKGROUND, dtype=torch.int64), valid.long()
    boxes = torch.where(valid[..., None], boxes, 0)  # without area: an IoU of 0 with every anchor
    number = torch.arange(max(count, len(anchors)), device=boxes.device)
    length, order = (valid * (number[:count] + 1)).amax(1).sort(descending=True)  # (B,) boxes of an image
    boxes = boxes[order]
    depth = min(count, len(anchors)) if greedy else 1
    best_box = number.new_zeros(batch, len(anchors))
    best_anchors = number.new_zeros(batch, count, depth)
    for images, rows in _tiles(length, count, len(anchors)):
        iou = pairwise_iou(boxes[:images, rows], anchors).abs_()  # (b, m, A); a NaN gets the largest key
        best_anchors[:images, rows] = pair_keys(iou, number[: len(anchors)]).topk(depth).values
        of_tile = pair_keys(iou, number[rows, None]).amax(1)  # (b, A)
        best_box[:images] = torch.maximum(best_box[:images], of_tile)
    order = order.argsort()
    best_box = best_box[order]
    best_anchors = best_anchors[order]
    matched = torch.where(iou_of(best_box) >= positive_iou, number_of(best_box), BACKGROUND)
    usable = iou_of(best_anchors) > (SMALLEST_IOU if greedy else 0)
    best_anchors = torch.where(usable, best_anchors, -1)
    assigned = greedy_bipartite(best_anchors, len(anchors)) if greedy else number_of(best_anchors[..., 0])
    return _overwrite(matched, assigned), assigned


torch.library.custom_op("detectors::tiled_match", tiled_match, mutates_args=())


@torch.library.register_fake("detectors::tiled_match")
def _match_shapes(
    boxes: Tensor, valid: Tensor, anchors: Tensor, positive_iou: float, greedy: bool
) -> tuple[Tensor, Tensor]:
    matched = valid.new_empty((len(valid), len(anchors)), dtype=torch.int64)
    return matched, valid.new_empty(valid.shape, dtype=torch.int64)


def _tiles(length: Tensor, count: int, anchors: int) -> Iterator[tuple[int, slice]]:
    """(B,) boxes of each image, descending; M; A -> the number of images, and the boxes, of each tile.

    On a CPU, images that have no more boxes are left out.
    """
    images = [len(length)] * count
    size = PADDED_TABLE
    if packs(length.device):
        images = (length > torch.arange(count)[:, None]).sum(1).tolist()
        size = PACKED_TABLE
    first = 0
    while first < count and images[first]:
        last = min(count, first + max(1, size // (KEY_BYTES * anchors * images[first])))
        yield images[first], slice(first, last)
        first = last


def pair_keys(iou: Tensor, number: Tensor) -> Tensor:
    """IoU, and the number of one of the pair -> int64: the bits of the IoU, then the inverted number.

    So the largest key is the largest IoU and, of equal ones, the lowest number, on any device. Equal IoUs are
    common: a box inside several anchors of one size. Bits of non-negative floats are ordered as the floats.
    """
    return (iou.float().view(torch.int32).to(torch.int64) << 32) | (INVERTED - number)


def iou_of(key: Tensor) -> Tensor:
    return (key >> 32).to(torch.int32).view(torch.float32)


def number_of(key: Tensor) -> Tensor:
    """The number of a pair_key; -1 for -1."""
    return torch.where(key >= 0, INVERTED - (key & INVERTED), -1)


def greedy_bipartite(best_anchors: Tensor, anchors: int) -> Tensor:
    """(B, M, k) pair_keys of each box's best anchors, best first, -1 for none -> (B, M) its anchor, or -1.

    The rule: of all boxes and anchors that are still free, match the pair with the largest IoU; of equal
    ones the lowest anchor, then the lowest box; repeat. k = M is enough, because the other boxes take at most
    M - 1 of a box's best anchors.

    Boxes and anchors rank each other by the same IoU, so the result is their only stable matching (Gale and
    Shapley, 1962), and all boxes can ask at once: each for its best anchor that no better box holds. Round r
    settles the r-th pair, if not earlier ones did. A CPU stops when nothing changes: after a few rounds.
    """
    batch, count, _ = best_anchors.shape
    rows = rows_where(best_anchors[..., 0] >= 0)  # (R,)
    keys = best_anchors.flatten(0, 1)[rows]  # (R, k)
    anchor = number_of(keys)
    place = anchor.clamp(min=0) + (rows // count * anchors)[:, None]  # (R, k) among all anchors of the batch
    wish = torch.where(keys >= 0, pair_keys(iou_of(keys), (rows % count)[:, None]), -1)
    holder = keys.new_zeros(batch * anchors)  # the wish that an anchor grants
    before = None
    for _ in range(count):
        asks, choice = (wish >= holder[place]).max(1, keepdim=True)  # (R, 1) the first that is open
        if packs(keys.device) and before is not None and torch.equal(choice, before):
            break
        before = choice
        holder.scatter_reduce_(0, place.gather(1, choice)[:, 0], wish.gather(1, choice)[:, 0], "amax")
    granted = torch.where(asks, anchor.gather(1, choice), -1)[:, 0]
    return keys.new_full((batch * count,), -1).index_copy(0, rows, granted).view(batch, count)


def _overwrite(matched: Tensor, assigned: Tensor) -> Tensor:
    """(B, A) `matched`, with each anchor in `assigned` (B, M) pointing to its box; the last of several."""
    number = torch.arange(assigned.shape[1], device=matched.device)
    order = torch.where(assigned >= 0, number, -1)
    owner = torch.full_like(matched, -1).scatter_reduce(1, assigned.clamp(min=0), order, "amax")
    return torch.where(owner >= 0, owner, matched)


def owns(encoded: EncodedTargets) -> Tensor:
    """(B, M) bool: the box won the anchor that it was assigned to."""
    order = torch.arange(encoded.assigned.shape[1], device=encoded.assigned.device)
    winner = encoded.matched.gather(1, encoded.assigned.clamp(min=0))
    return (encoded.assigned >= 0) & (winner == order)


def comes_first(encoded: EncodedTargets) -> Tensor:
    """(B, M) bool: the box has an anchor that no earlier box has."""
    order = torch.arange(encoded.assigned.shape[1], device=encoded.assigned.device).expand_as(
        encoded.assigned
    )
    return (encoded.assigned >= 0) & (_lowest_on_anchor(order, encoded) == order)


def lowest_labels(encoded: EncodedTargets) -> Tensor:
    """(B, M) the lowest label among the boxes that share each box's anchor, itself included."""
    labels = encoded.targets.labels
    return torch.where(encoded.assigned >= 0, _lowest_on_anchor(labels, encoded), labels)


def _lowest_on_anchor(values: Tensor, encoded: EncodedTargets) -> Tensor:
    """(B, M) int64 of each box -> (B, M) the lowest of the boxes that share its anchor."""
    highest = torch.iinfo(values.dtype).max
    anchor = encoded.assigned.clamp(min=0)  # (B, M)
    values = torch.where(encoded.assigned >= 0, values, highest)
    of_anchors = torch.full_like(encoded.matched, highest)  # (B, A)
    return of_anchors.scatter_reduce(1, anchor, values, "amin").gather(1, anchor)
