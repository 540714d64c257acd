"""log Pr(node) of one node per row, from the logits on its path alone: all of a loss's arithmetic on a tree.

The groups on the path of a node have 108 nodes on average in YOLO9000's tree of 9,418, and at most 221.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from detectors.wordtree.tree_softmax import TreeSoftmax


class TreePaths(NamedTuple):
    """The groups on the paths of T nodes, from the root down, one after another in P columns.

    P is the tree's largest number; D levels.
    """

    column: Tensor  # (T, P) int64 node numbers; 0 in padding
    level: Tensor  # (T, P) int64, from 0; D in padding
    place: Tensor  # (T, D) int64: which of the P columns is the ancestor of that level
    group: Tensor  # (T, D) int64; -1 below the node

    @classmethod
    def of(cls, tree: TreeSoftmax, nodes: Tensor) -> TreePaths:
        """nodes: (T,) int64"""
        ancestors = tree.ancestors[nodes]  # (T, D)
        on_path = ancestors >= 0
        group = tree.group[ancestors.clamp(min=0)]
        offset = tree.group_offset[group]
        size = torch.where(on_path, tree.group_size[group], 0)
        end = size.cumsum(1)
        start = end - size
        number = torch.arange(tree.path_width, device=nodes.device).expand(len(nodes), -1)  # (T, P)
        level = torch.searchsorted(end, number.contiguous(), right=True)
        inside = level < on_path.sum(1, keepdim=True)
        above = level.clamp(max=group.shape[1] - 1)
        column = torch.where(inside, number + (offset - start).gather(1, above), 0)
        place = torch.where(on_path, ancestors - offset + start, 0)
        level = torch.where(inside, level, group.shape[1])
        return cls(column, level, place, torch.where(on_path, group, -1))

    def log_p(self, logits: Tensor) -> Tensor:
        """(T, ..., P) logits at `column` -> (T, ..., D) log Pr(ancestor | its parent); 0 below the node."""
        level, place, group = (_spread(part, logits) for part in self[1:])
        on_path = group >= 0
        shape = (*logits.shape[:-1], self.group.shape[1] + 1)
        level = level.expand(logits.shape)
        highest = logits.new_full(shape, -torch.inf).scatter_reduce(-1, level, logits.detach(), "amax")
        total = logits.new_zeros(shape).scatter_add(-1, level, (logits - highest.gather(-1, level)).exp())
        # Levels below the node have no column: their numbers are replaced before a logarithm.
        total = torch.where(on_path, total[..., :-1], 1)
        own = logits.gather(-1, place.expand(total.shape))
        return torch.where(on_path, own - torch.where(on_path, highest[..., :-1], own) - total.log(), 0)


def _spread(part: Tensor, logits: Tensor) -> Tensor:
    """(T, n) -> (T, 1, ..., n), with as many axes as logits."""
    return part.view(len(part), *[1] * (logits.ndim - 2), part.shape[1])
