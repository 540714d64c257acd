"""Greedy non-maximum suppression of many groups of boxes at once, such as the classes of a batch of images.

In each group, from the best box down: a box is kept unless its IoU with a better box that is kept exceeds the
threshold. That is torchvision.ops.nms, group by group (tests/kernels/test_suppression.py). The number of
operations does not depend on the number of groups, as long as there are at most PAIR_LIMIT pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

from detectors.kernels.dispatch import uses_triton

# Pairs of boxes that are compared at once, at up to 128 bytes each: 64 MiB. Where there are more, the groups
# are large, and torchvision's loop in C++ takes less time than a list of all pairs.
PAIR_LIMIT = 2**19
ROUNDS = 4  # after which the host looks whether anything has changed: more than most batches need


def suppress(boxes: Tensor, group: Tensor, groups: int, *, iou: float, limit: int) -> Tensor:
    """(T, 4) float64 boxes and the (T,) int64 group of each -> (T,) bool, whether a box is kept.

    The boxes of a group come from the best to the worst; boxes of other groups may lie between them.
    limit: only so many boxes of a group count, the best ones; the others are dropped.
    """
    order = group.argsort(stable=True)
    if uses_triton(boxes.device):
        from detectors.kernels.suppression_kernel import suppress_sorted  # imports Triton
    else:
        suppress_sorted = suppress_reference
    keep = torch.empty_like(group, dtype=torch.bool)
    keep[order] = suppress_sorted(boxes[order], group[order], groups, iou, limit)
    return keep


def suppress_reference(boxes: Tensor, group: Tensor, groups: int, iou: float, limit: int) -> Tensor:
    """suppress() for boxes sorted by group, in PyTorch: the definition. Synchronises with the device."""
    if not len(boxes):
        return torch.zeros_like(group, dtype=torch.bool)
    next_row = torch.arange(1, len(boxes) + 1, device=boxes.device)
    start = torch.searchsorted(group, group)  # (T,) the first row of each row's group
    end = torch.minimum(torch.searchsorted(group, group, right=True), start + limit)
    worse_rows = (end - next_row).clamp(min=0)  # (T,) how many of the group come after the row
    total = worse_rows.cumsum(0)
    pairs = int(total[-1])
    if pairs > PAIR_LIMIT:
        return _group_by_group(boxes, start, end, iou)
    better = torch.repeat_interleave(worse_rows, output_size=pairs)
    worse = torch.arange(pairs, device=boxes.device) + (end - total)[better]
    pair = torch.stack([better, worse])
    return _settle(pair[:, _paired_iou(boxes, pair) > iou], (next_row > end).to(torch.uint8))


def _paired_iou(boxes: Tensor, pair: Tensor) -> Tensor:
    """(T, 4) boxes and (2, P) rows -> (P,) IoU as nms computes it: NaN for two boxes without an area."""
    low, high = boxes.T.contiguous().split(2)  # (2, T) each
    area = (high - low).prod(0)
    inter = (high[:, pair].amin(1) - low[:, pair].amax(1)).clamp_(min=0).prod(0)
    return inter / (area[pair].sum(0) - inter)


def _settle(pair: Tensor, dropped: Tensor) -> Tensor:
    """(2, E) rows of which the first suppresses the second if it is kept itself -> (T,) bool, which are kept.

    dropped: (T,) 1 where a row is dropped in any case, otherwise 0. In every round all rows are decided from
    the decisions of the round before, until none changes. A row is right one round after the better rows that
    overlap it: the longest chain of boxes in which each overlaps the next bounds the number of rounds.
    """
    better, worse = pair
    keep = 1 - dropped
    while True:
        for _ in range(ROUNDS):
            before = keep
            keep = 1 - dropped.scatter_reduce(0, worse, before[better], "amax")
        if torch.equal(before, keep):
            return keep.bool()


def _group_by_group(boxes: Tensor, start: Tensor, end: Tensor, iou: float) -> Tensor:
    """(T, 4) boxes; (T,) where each one's group starts and ends -> (T,) bool, by torchvision's nms."""
    row = torch.arange(len(boxes), device=boxes.device)
    score = -row.to(boxes.dtype)
    first = row[row == start]
    bounds = zip(first.tolist(), end[first].tolist(), strict=True)
    kept = torch.cat([nms(boxes[a:b], score[a:b], iou) + a for a, b in bounds])
    return torch.zeros_like(start, dtype=torch.bool).index_fill_(0, kept, True)
