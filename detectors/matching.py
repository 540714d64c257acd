"""Matching: which anchor must find which ground-truth box.

First YOLOv2's rule (ResponsibleCellMatcher), then SSD's (MultiBoxMatcher). Last come three functions for
RegionLoss on boxes that share an anchor: which of them owns the anchor, which comes first, the lowest label.

Both rules work on a whole padded batch, on its device, without synchronising. A box without area matches
nothing: the data stage reports such boxes by file name; here they must not become NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detectors.boxes import pairwise_iou, shape_iou, xyxy_to_cxcywh
from detectors.kernels.dispatch import uses_triton
from detectors.structures import BACKGROUND, AnchorGrid, EncodedTargets, Matches, Targets

SMALLEST_IOU = 1e-6  # Caffe's MatchBBox (bbox_util.cpp) ignores pairs below this


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
        batch, count = targets.labels.shape
        background = torch.full((batch, grid.num_anchors), BACKGROUND, device=targets.boxes.device)
        if count == 0:
            return Matches(background, background[:, :0])
        iou = pairwise_iou(targets.boxes, grid.boxes)  # (B, M, A)
        iou = torch.where(targets.valid[..., None], iou, -1)
        best_iou, best_box = iou.max(1)  # (B, A); the first box wins ties
        matched = torch.where(best_iou >= self.positive_iou, best_box, BACKGROUND)
        assigned = best_anchors(iou) if self.bipartite == "last" else _greedy(iou)
        return Matches(_overwrite(matched, assigned), assigned)


def greedy_bipartite(iou: Tensor) -> Tensor:
    """(B, M, A) IoU, -1 for padding -> (B, M) the anchor of each box, or -1.

    M rounds, each taking the largest IoU among the boxes and anchors that are still free. A box gets -1 if no
    free anchor has an IoU above SMALLEST_IOU. The M best anchors of a box are enough, because the other boxes
    can take at most M - 1 of them; so the rounds work on (B, M, M) numbers.

    Equal IoUs are common: a box inside several anchors of one size. As in Caffe's loops, the lowest anchor
    wins, then the lowest box. The key (bits of the IoU, inverted anchor number) has no ties within a box, on
    any device.
    """
    batch, count, anchors = iou.shape
    inverted = torch.arange(anchors - 1, -1, -1, device=iou.device)
    # The bits of non-negative floats are ordered like the floats themselves.
    key = (iou.float().view(torch.int32).to(torch.int64) << 32) | inverted
    key = torch.where(iou > SMALLEST_IOU, key, -1).topk(min(count, anchors), 2).values  # (B, M, k)
    anchor_of = anchors - 1 - (key & 0xFFFFFFFF)
    rows = torch.arange(count, device=iou.device)[:, None]  # (M, 1)
    assigned = torch.full((batch, count), -1, device=iou.device)
    for _ in range(count):
        best, entry = key.flatten(1).max(1, keepdim=True)  # (B, 1)
        box = entry // key.shape[2]
        anchor = torch.where(best >= 0, anchor_of.flatten(1).gather(1, entry), assigned.gather(1, box))
        assigned = assigned.scatter(1, box, anchor)
        taken = (anchor_of == anchor[..., None]) | (rows == box[..., None])  # (B, M, k)
        key = key.masked_fill(taken, -1)
    return assigned


def _greedy(iou: Tensor) -> Tensor:
    """greedy_bipartite; one operation of a compiled graph, because its rounds depend on the batch."""
    traced = torch.compiler.is_compiling()
    return torch.ops.detectors.greedy_bipartite(iou) if traced else greedy_bipartite(iou)


torch.library.custom_op("detectors::greedy_bipartite", greedy_bipartite, mutates_args=())


@torch.library.register_fake("detectors::greedy_bipartite")
def _greedy_shape(iou: Tensor) -> Tensor:
    return iou.new_empty(iou.shape[:2], dtype=torch.int64)


def best_anchors(iou: Tensor) -> Tensor:
    """(B, M, A) IoU, -1 for padding -> (B, M) the first anchor of the largest IoU, -1 if that is 0."""
    best, anchor = iou.max(2)
    return torch.where(best > 0, anchor, -1)


def _overwrite(matched: Tensor, assigned: Tensor) -> Tensor:
    """(B, A) `matched`, with each anchor in `assigned` (B, M) pointing to its box; the last of several wins.

    Boxes without an anchor write into an extra column, which is dropped.
    """
    anchors = matched.shape[1]
    order = torch.arange(assigned.shape[1], device=matched.device).expand_as(assigned)
    padded = torch.cat([matched, matched[:, :1]], 1)
    column = torch.where(assigned >= 0, assigned, anchors)
    return padded.scatter_reduce(1, column, order, "amax", include_self=False)[:, :anchors]


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
