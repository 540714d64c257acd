"""Greedy non-maximum suppression of many groups of boxes at once, such as the classes of a batch of images.

In each group, from the best box down: a box is kept unless its IoU with a better box that is kept exceeds the
threshold. That is torchvision.ops.nms, group by group (tests/kernels/test_suppression.py). The number of
operations does not depend on groups, boxes or scores, as long as TILE_PAIR_LIMIT and OVERLAP_LIMIT hold.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.ops import nms

from detectors.kernels.dispatch import uses_triton

TILE = 32  # boxes of a group that are compared with as many others
# Where there are more pairs of tiles, groups are large, and torchvision's loop in C++, which skips what is
# suppressed, is faster.
TILE_PAIR_LIMIT = 2**13
TILE_PAIRS_AT_ONCE = 2**11  # 2^21 pairs of boxes at 41 bytes each: 82 MiB
OVERLAP_LIMIT = 2**17  # pairs of boxes that overlap; the host decides them in 20 ms


def suppress(boxes: Tensor, group: Tensor, groups: int, *, iou: float, limit: int) -> Tensor:
    """(T, 4) float64 boxes and the (T,) int64 group of each -> (T,) bool, whether a box is kept.

    The boxes of a group come from the best to the worst; boxes of other groups may lie between them.
    limit: only so many boxes of a group count, the best ones; the others are dropped.
    """
    order = group.argsort(stable=True)
    run: Callable[[Tensor, Tensor, int, float, int], Tensor] = suppress_reference
    if uses_triton(boxes.device):
        from detectors.kernels.suppression_kernel import suppress_sorted  # imports Triton

        run = suppress_sorted
    keep = torch.empty_like(group, dtype=torch.bool)
    keep[order] = run(boxes[order], group[order], groups, iou, limit)
    return keep


def suppress_reference(boxes: Tensor, group: Tensor, groups: int, iou: float, limit: int) -> Tensor:
    """suppress() for boxes sorted by group, in PyTorch: the definition. Synchronises with the device.

    A group is cut into tiles of TILE boxes; the last is filled up with NaN, which overlaps nothing. Each tile
    is compared with itself and the later ones of its group.
    """
    if not len(boxes):
        return torch.zeros_like(group, dtype=torch.bool)
    rank = torch.arange(len(boxes), device=boxes.device) - torch.searchsorted(group, group)
    usable = rank < limit
    in_tile = rank % TILE
    opens = in_tile == 0
    first = opens.nonzero().squeeze(1)  # (N,) the first row of each tile
    pair = None
    if len(first) ** 2 <= 2 * groups * TILE_PAIR_LIMIT:  # otherwise there are more, however they are shared
        place = (opens.cumsum(0) - 1) * TILE + in_tile  # (T,) of each row among the N * TILE
        corners = boxes.new_full((4, len(first) * TILE), torch.nan).index_copy_(1, place, boxes.T)
        own = group[first]
        together = (own[:, None] == own).triu_() & usable[first]  # (N, N)
        pair = _overlapping(corners.view(4, -1, TILE), together, iou)
    if pair is None:
        return _group_by_group(boxes, group, usable, iou)
    return _settle(pair, len(first) * TILE)[place] & usable


def _overlapping(corners: Tensor, together: Tensor, iou: float) -> Tensor | None:
    """(4, N, TILE) boxes of tiles, (N, N) bool, which tiles are compared -> (2, E) places, the better first.

    The IoU is computed as nms does: NaN for two boxes without an area. None where a limit is exceeded.
    """
    if int(together.sum()) > TILE_PAIR_LIMIT:
        return None
    low, high = corners.split(2)
    columns = torch.cat([corners, (high - low).prod(0)[None]])  # (5, N, TILE) with the area
    found: list[Tensor] = []
    for tiles in together.nonzero().split(TILE_PAIRS_AT_ONCE):
        better, worse = columns[:, tiles].unbind(2)  # (5, P, TILE) each
        better = better[..., None]
        worse = worse[..., None, :]
        sides = torch.minimum(better[2:4], worse[2:4])  # (2, P, TILE, TILE)
        sides -= torch.maximum(better[:2], worse[:2])
        inter, union = sides.clamp_(min=0).unbind()
        inter *= union
        union = torch.add(better[4], worse[4], out=union)
        union -= inter
        pair, *places = (inter.div_(union) > iou).nonzero().T
        rows = tiles.T[:, pair] * TILE + torch.stack(places)
        found.append(rows[:, rows[0] < rows[1]])
        if sum(part.shape[1] for part in found) > OVERLAP_LIMIT:
            return None
    return torch.cat(found, 1)


def _settle(pair: Tensor, count: int) -> Tensor:
    """(2, E) places of which the first suppresses the second if it is kept itself -> (count,) bool, kept.

    Pairs are ordered by tile, and within a tile by place. So all pairs in which a place is the worse box come
    before those in which it is the better one, and one pass over the pairs decides all places.
    """
    keep = bytearray([True]) * count
    for better, worse in zip(*pair.tolist(), strict=True):
        if keep[better]:
            keep[worse] = False
    return torch.frombuffer(keep, dtype=torch.bool).to(pair.device)


def _group_by_group(boxes: Tensor, group: Tensor, usable: Tensor, iou: float) -> Tensor:
    """(T, 4) boxes, their groups, which of them count -> (T,) bool, which are kept, by torchvision's nms."""
    rows = usable.nonzero().squeeze(1)
    score = -rows.to(boxes.dtype)
    counts = torch.unique_consecutive(group[rows], return_counts=True)[1].tolist()
    parts = zip(rows.split(counts), boxes[rows].split(counts), score.split(counts), strict=True)
    kept = torch.cat([row[nms(box, each, iou)] for row, box, each in parts])
    return torch.zeros_like(usable).index_fill_(0, kept, True)
