"""Matching: which anchor must find which truth. Both rules work on a whole padded batch, on its device, without synchronising.

A truth without area matches nothing in either rule (the data stage reports such boxes by file name; here they must not turn into NaN).
"""

from __future__ import annotations

import torch
from torch import Tensor

from detectors.boxes import pairwise_iou, shape_iou, xyxy_to_cxcywh
from detectors.structures import BACKGROUND, AnchorGrid, EncodedTargets, Matches, Targets

SMALLEST_IOU = 1e-6  # Caffe's MatchBBox (bbox_util.cpp) does not look at pairs below this


class ResponsibleCellMatcher:
    """YOLOv2: the cell that holds the truth's centre, and in it the anchor of the most similar shape. One level, one positive per truth.

    Two truths that meet in one anchor: the later one wins, as in Darknet's loop over truths (region_layer.c). Ties in shape go to the
    first anchor. `use_predicted_shapes` compares with the predicted sizes of that cell instead of the anchors (Darknet's bias_match=0).
    """

    def __init__(self, use_predicted_shapes: bool = False):
        self.needs_predictions = use_predicted_shapes

    def __call__(self, targets: Targets, grid: AnchorGrid, predicted: Tensor | None = None) -> Matches:
        """targets: boxes (B, M, 4); predicted: (B, A, 4) xyxy pixels, only for use_predicted_shapes. A centre on the far edge is inside."""
        (level,) = grid.levels
        batch, truths = targets.labels.shape
        boxes_cxcywh = xyxy_to_cxcywh(targets.boxes)  # (B, M, 4)
        place = (boxes_cxcywh[..., :2] / level.stride).long().clamp(min=0)
        location = place[..., 1].clamp(max=level.rows - 1) * level.columns + place[..., 0].clamp(
            max=level.columns - 1
        )  # (B, M)
        shapes_wh = grid.boxes_cxcywh[: level.per_location, 2:]  # (K, 2)
        if self.needs_predictions:
            shapes_wh = _predicted_shapes(predicted, location, level.per_location)  # (B, M, K, 2)
        best = shape_iou(boxes_cxcywh[..., None, 2:], shapes_wh).argmax(-1)  # (B, M)
        usable = targets.valid & (boxes_cxcywh[..., 2:] > 0).all(-1)
        assigned = torch.where(usable, location * level.per_location + best, -1)
        order = torch.arange(truths, device=assigned.device).expand(batch, truths)
        matched = torch.full((batch, grid.num_anchors), BACKGROUND, device=assigned.device)
        # The largest truth number is the latest truth; padding writes BACKGROUND, which changes nothing.
        matched = matched.scatter_reduce(
            1, assigned.clamp(min=0), torch.where(usable, order, BACKGROUND), "amax"
        )
        return Matches(matched, assigned)


def _predicted_shapes(predicted: Tensor, location: Tensor, per_location: int) -> Tensor:
    """(B, A, 4) predicted boxes, (B, M) locations -> (B, M, K, 2) predicted widths and heights at each truth's location."""
    wh = (
        (predicted[..., 2:] - predicted[..., :2]).unflatten(1, (-1, per_location)).flatten(2)
    )  # (B, rows * columns, K * 2)
    return wh.gather(1, location[..., None].expand(-1, -1, wh.shape[-1])).unflatten(-1, (per_location, 2))


class MultiBoxMatcher:
    """SSD: first every truth gets one anchor; then every other anchor takes its best truth if their IoU is >= positive_iou.

    bipartite says how truths get their one anchor. "greedy" is Caffe's rule (bbox_util.cpp): the largest IoU of all pairs left. "last" is
    torchvision's and ssd.pytorch's: each its best anchor, and of those that name the same one the last keeps it, so that some get none.
    """

    needs_predictions = False

    def __init__(self, positive_iou: float = 0.5, bipartite: str = "greedy"):
        if not 0 < positive_iou <= 1:
            raise ValueError(f"positive_iou={positive_iou}: an IoU in (0, 1] is needed; the paper has 0.5")
        if bipartite not in ("greedy", "last"):
            raise ValueError(
                f"bipartite={bipartite!r}: choose 'greedy' (Caffe) or 'last' (torchvision, ssd.pytorch)"
            )
        self.positive_iou = positive_iou
        self.bipartite = bipartite

    def __call__(self, targets: Targets, grid: AnchorGrid, predicted: Tensor | None = None) -> Matches:
        batch, truths = targets.labels.shape
        background = torch.full((batch, grid.num_anchors), BACKGROUND, device=targets.boxes.device)
        if truths == 0:
            return Matches(background, background[:, :0])
        iou = pairwise_iou(targets.boxes, grid.boxes)  # (B, M, A)
        iou = torch.where(targets.valid[..., None], iou, -1)
        best_iou, best_truth = iou.max(1)  # (B, A); the first truth wins ties
        matched = torch.where(best_iou >= self.positive_iou, best_truth, BACKGROUND)
        assigned = greedy_bipartite(iou) if self.bipartite == "greedy" else best_anchors(iou)
        return Matches(_overwrite(matched, assigned), assigned)


def greedy_bipartite(iou: Tensor) -> Tensor:
    """(B, M, A) IoU, -1 for padding -> (B, M) the anchor of each truth, -1 if none is left above 1e-6.

    M rounds, each taking the largest pair of those whose truth and anchor are still free. A truth's M best anchors are enough, because the
    other truths can take at most M - 1 of them; so the rounds work on (B, M, M) numbers, and only they grow with M.

    Equal IoUs are common (a truth inside several anchors of one size). As in Caffe's loops the lowest anchor wins, then the lowest truth:
    a key of the IoU's bits above the inverted anchor number has no ties within a truth, on any device.
    """
    batch, truths, anchors = iou.shape
    inverted = torch.arange(anchors - 1, -1, -1, device=iou.device)
    # The bits of a float that is not negative are ordered like the float itself.
    key = (iou.float().view(torch.int32).to(torch.int64) << 32) | inverted
    key = torch.where(iou > SMALLEST_IOU, key, -1).topk(min(truths, anchors), 2).values  # (B, M, k)
    anchor_of = anchors - 1 - (key & 0xFFFFFFFF)
    rows = torch.arange(truths, device=iou.device)[:, None]  # (M, 1)
    assigned = torch.full((batch, truths), -1, device=iou.device)
    for _ in range(truths):
        best, place = key.flatten(1).max(1, keepdim=True)  # (B, 1)
        truth = place // key.shape[2]
        anchor = torch.where(best >= 0, anchor_of.flatten(1).gather(1, place), assigned.gather(1, truth))
        assigned = assigned.scatter(1, truth, anchor)
        taken = (anchor_of == anchor[..., None]) | (rows == truth[..., None])  # (B, M, k)
        key = key.masked_fill(taken, -1)
    return assigned


def best_anchors(iou: Tensor) -> Tensor:
    """(B, M, A) IoU, -1 for padding -> (B, M) the anchor of the largest IoU, the first of equals, -1 if the truth touches none."""
    best, anchor = iou.max(2)
    return torch.where(best > 0, anchor, -1)


def _overwrite(matched: Tensor, assigned: Tensor) -> Tensor:
    """(B, A) matched with each truth's own anchor (B, M) put over it; of truths with the same anchor the last stays.

    Truths without one write into a column that is cut off again.
    """
    anchors = matched.shape[1]
    order = torch.arange(assigned.shape[1], device=matched.device).expand_as(assigned)
    padded = torch.cat([matched, matched[:, :1]], 1)
    place = torch.where(assigned >= 0, assigned, anchors)
    return padded.scatter_reduce(1, place, order, "amax", include_self=False)[:, :anchors]


def meets(assigned: Tensor) -> Tensor:
    """(B, M) anchor of each truth, -1 for none -> (B, M, M) whether two truths have the same anchor."""
    return (assigned[:, :, None] == assigned[:, None, :]) & (assigned >= 0)[:, None, :]


def owns(encoded: EncodedTargets) -> Tensor:
    """(B, M): whether the truth won the anchor it was assigned to."""
    order = torch.arange(encoded.assigned.shape[1], device=encoded.assigned.device)
    winner = encoded.matched.gather(1, encoded.assigned.clamp(min=0))
    return (encoded.assigned >= 0) & (winner == order)


def lowest_labels(encoded: EncodedTargets) -> Tensor:
    """(B, M): the lowest label among the truths that meet each truth in its anchor, its own included."""
    labels = encoded.targets.labels
    if labels.shape[1] == 0:
        return labels
    met = torch.where(meets(encoded.assigned), labels[:, None], torch.iinfo(labels.dtype).max).amin(-1)
    return torch.where(encoded.assigned >= 0, met, labels)
