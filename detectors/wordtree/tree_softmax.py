"""The arithmetic of a WordTree on a device: a softmax in every group, products down the tree, the walk down.

All groups are one segment operation over flat arrays. Products go level by level (17 for YOLO9000), as sums
of logarithms, because a product of 17 small numbers may leave float32. Rows are taken in tiles that stay in a
CPU's cache, so that nothing but the result has the size of all logits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from detectors.wordtree.nodes import WordTree

# Bytes of the logits of one tile: a CPU's cache; on a GPU few launches count.
CACHED_TILE = 1 << 20
LARGE_TILE = 64 << 20


class TreeSoftmax(nn.Module):
    """A WordTree's arrays as buffers, which are not part of a state dict, and what is computed with them.

    >>> import torch
    >>> from detectors.wordtree.nodes import WordTree
    >>> from detectors.wordtree.tree_softmax import TreeSoftmax
    >>> softmax = TreeSoftmax(WordTree.of(("animal", "thing", "cat", "dog"), (-1, -1, 0, 0)))
    >>> softmax.log_probabilities(torch.zeros(1, 4)).exp()
    tensor([[0.5000, 0.5000, 0.2500, 0.2500]])
    """

    def __init__(self, tree: WordTree):
        super().__init__()
        self.tree = tree
        sizes = np.where(tree.ancestors >= 0, tree.group_size[tree.group[tree.ancestors]], 0)
        self.path_width = int(sizes.sum(1).max())  # nodes in all groups on the widest path
        size = tree.group_size[tree.group]  # (N,)
        self.widest = [int(size[tree.depth == level + 1].max()) for level in range(tree.levels)]
        # Level by level: the nodes, their groups, and the places of their parents.
        order = np.argsort(tree.depth, kind="stable")
        place = np.argsort(order)
        self.level_ends = np.cumsum(np.bincount(tree.depth)[1:]).tolist()
        arrays = {
            "group": tree.group,
            "group_offset": tree.group_offset,
            "group_size": tree.group_size,
            "child_group": tree.child_group,
            "ancestors": tree.ancestors,
            "order": order,
            "place": place,
            "group_in_order": tree.group[order],
            "parent_in_order": np.where(tree.parent >= 0, place[tree.parent], -1)[order],
        }
        for name, array in arrays.items():
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(array)), persistent=False)

    @torch.no_grad()
    def log_softmax(self, logits: Tensor) -> Tensor:
        """(..., N) -> (..., N) log Pr(node | parent): a log-softmax in each group."""
        return self._in_tiles(logits, self.place, products=False)

    @torch.no_grad()
    def log_probabilities(self, logits: Tensor, nodes: Sequence[int] | Tensor | None = None) -> Tensor:
        """(..., N) -> (..., N) log Pr(node), or (..., K) of K nodes."""
        places = self.place if nodes is None else self.place[torch.as_tensor(nodes, device=logits.device)]
        return self._in_tiles(logits, places, products=True)

    def _in_tiles(self, logits: Tensor, places: Tensor, products: bool) -> Tensor:
        rows = logits.flatten(0, -2)
        result = logits.new_empty(len(rows), len(places))
        size = CACHED_TILE if logits.device.type == "cpu" else LARGE_TILE
        count = max(1, size // (rows.shape[1] * rows.element_size()))
        for tile, target in zip(rows.split(count), result.split(count), strict=True):
            target.copy_(self._tile(tile, products).index_select(0, places).T)
        return result.view(*logits.shape[:-1], -1)

    def _tile(self, rows: Tensor, products: bool) -> Tensor:
        """(r, N) logits -> (N, r) level by level: log Pr(node | parent), or log Pr(node)."""
        x = rows.T.index_select(0, self.order)
        index = self.group_in_order[:, None].expand(x.shape)
        shape = (self.tree.groups, len(rows))
        highest = x.new_full(shape, -torch.inf).scatter_reduce_(0, index, x, "amax")
        x -= highest.index_select(0, self.group_in_order)
        total = x.new_zeros(shape).scatter_add_(0, index, x.exp())
        x -= total.log_().index_select(0, self.group_in_order)
        if products:
            for start, end in zip(self.level_ends, self.level_ends[1:], strict=False):
                x[start:end] += x.index_select(0, self.parent_in_order[start:end])
        return x

    @torch.no_grad()
    def walk(
        self, logits: Tensor, threshold: float, rows: Tensor | None = None, *, twice: bool = False
    ) -> tuple[Tensor, Tensor]:
        """(R, N) -> (R,) the node where the walk down from the roots ends, (R,) its Pr(node).

        It goes to the best node of a group (the first of equal ones) as long as Pr(node) is above the
        threshold, and ends at the last such node; among the roots it takes the best in any case.
        rows: (R,) int64, of which rows of the logits; None: of all.
        twice: in place of Pr(node) the product of Pr over the node and its ancestors counts, as in Darknet,
            which multiplies down the tree before it walks, and multiplies again.
        """
        row = torch.arange(len(logits), device=logits.device) if rows is None else rows
        group = torch.zeros_like(row)
        node = torch.zeros_like(row)
        probability = logits.new_ones(len(row))
        passed = torch.ones_like(probability)
        walking = torch.ones_like(row, dtype=torch.bool)
        for level, width in enumerate(self.widest):
            column = torch.arange(width, device=row.device)
            inside = column < self.group_size[group][:, None]  # (R, width)
            column = torch.where(inside, self.group_offset[group][:, None] + column, 0)
            values = torch.where(inside, logits[row[:, None], column], -torch.inf)
            best = values.argmax(1, keepdim=True)
            p = (values.gather(1, best) - values.logsumexp(1, keepdim=True)).exp()[:, 0]
            deeper = probability * p
            product = passed * (deeper if twice else p)
            walking &= product > threshold
            taken = walking if level else torch.ones_like(walking)
            node = torch.where(taken, column.gather(1, best)[:, 0], node)
            probability = torch.where(taken, deeper, probability)
            passed = torch.where(walking, product, passed)
            below = self.child_group[node]
            walking &= below >= 0
            group = below.clamp(min=0)
        return node, probability
