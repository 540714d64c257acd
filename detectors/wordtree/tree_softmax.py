"""The arithmetic of a WordTree on a device: a softmax in every group, products down the tree, the walk down.

All groups are one segment operation over flat arrays. Products go level by level (17 for YOLO9000), as sums
of logarithms, because a product of 17 small numbers may leave float32. Rows are taken in tiles that stay in a
CPU's cache, so that nothing but the result has the size of all logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from detectors.wordtree.nodes import WordTree

# Bytes of the logits of one tile: a CPU's cache; on a GPU few launches count.
CACHED_TILE = 5 << 18
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

    # G groups; see WordTree
    group: Tensor  # (N,)
    group_offset: Tensor  # (G,)
    group_size: Tensor  # (G,)
    group_parent: Tensor  # (G,) the parent of a group's nodes, -1 for the roots
    child_group: Tensor  # (N,)
    ancestors: Tensor  # (N, D)
    by_depth: Tensor  # (G,) groups, those of the roots first

    def __init__(self, tree: WordTree):
        super().__init__()
        self.tree = tree
        sizes = np.where(tree.ancestors >= 0, tree.group_size[tree.group[tree.ancestors]], 0)
        self.path_width = int(sizes.sum(1).max())  # nodes in all groups on the widest path
        size = tree.group_size[tree.group]  # (N,)
        first = np.minimum(tree.group_offset, len(tree) - 1)
        self.widest = [int(size[tree.depth == level + 1].max()) for level in range(tree.levels)]
        above = np.where(tree.group_size > 0, tree.parent[first], -1)  # (G,)
        depth = np.where(above >= 0, tree.depth[above], 0)
        arrays = {
            "group": tree.group,
            "group_offset": tree.group_offset,
            "group_size": tree.group_size,
            "group_parent": above,
            "child_group": tree.child_group,
            "ancestors": tree.ancestors,
            "by_depth": np.argsort(depth, kind="stable"),
        }
        for name, array in arrays.items():
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(array)), persistent=False)
        ends = np.cumsum(np.bincount(depth, minlength=1)).tolist()
        self.level_spans = list(pairwise(ends))  # of `by_depth`, below the roots

    @torch.no_grad()
    def log_softmax(self, logits: Tensor) -> Tensor:
        """(..., N) -> (..., N) log Pr(node | parent): a log-softmax in each group."""
        return self._in_tiles(logits, self._log_softmax)

    @torch.no_grad()
    def log_probabilities(self, logits: Tensor, nodes: Sequence[int] | Tensor | None = None) -> Tensor:
        """(..., N) -> (..., N) log Pr(node), or (..., K) of K nodes."""
        return self._in_tiles(logits, self._log_products, self._numbers(nodes))

    @torch.no_grad()
    def probabilities(
        self, logits: Tensor, nodes: Sequence[int] | Tensor | None = None, log_factor: Tensor | None = None
    ) -> Tensor:
        """log_probabilities, as numbers. log_factor: (...), of a factor for each row."""
        return self._in_tiles(logits, self._log_products, self._numbers(nodes), log_factor, exp=True)

    def _numbers(self, nodes: Sequence[int] | Tensor | None) -> Tensor | None:
        return None if nodes is None else torch.as_tensor(nodes, device=self.group.device)

    def _in_tiles(
        self,
        logits: Tensor,
        tile: Callable[[Tensor, Tensor | None], Tensor],
        nodes: Tensor | None = None,
        log_factor: Tensor | None = None,
        *,
        exp: bool = False,
    ) -> Tensor:
        """tile: (N, r) logits, (K,) nodes -> (K, r), in new memory or in that of the logits."""
        rows = logits.flatten(0, -2)
        result = logits.new_empty(len(rows), rows.shape[1] if nodes is None else len(nodes))
        size = CACHED_TILE if logits.device.type == "cpu" else LARGE_TILE
        count = max(16, size // (rows.shape[1] * rows.element_size()) // 16 * 16)  # 16 floats: a register
        for start in range(0, len(rows), count):
            part = slice(start, start + count)
            values = tile(rows[part].T.clone(memory_format=torch.contiguous_format), nodes)
            if log_factor is not None:
                values += log_factor.flatten()[part]
            result[part] = (values.exp_() if exp else values).T
        return result.view(*logits.shape[:-1], -1)

    def _log_sums(self, x: Tensor) -> Tensor:
        """(N, r) logits, of which each group's largest is subtracted -> (G, r) log sum exp of the groups."""
        index = self.group[:, None].expand(x.shape)
        shape = (self.tree.groups, x.shape[1])
        highest = x.new_full(shape, -torch.inf).scatter_reduce_(0, index, x, "amax")
        x -= highest.index_select(0, self.group)
        return x.new_zeros(shape).scatter_add_(0, index, x.exp()).log_()

    def _log_softmax(self, x: Tensor, nodes: Tensor | None) -> Tensor:
        log_sums = self._log_sums(x)
        return x.sub_(log_sums.index_select(0, self.group))

    def _log_products(self, x: Tensor, nodes: Tensor | None) -> Tensor:
        """All nodes of a group have the same ancestors: log Pr(node) = x - (log sum - log Pr(parent))."""
        log_sums = self._log_sums(x)
        parent = self.group_parent.clamp(min=0)
        own = x.index_select(0, parent) - log_sums.index_select(0, self.group[parent])  # (G, r) of the parent
        above = torch.zeros_like(log_sums)
        for start, end in self.level_spans:
            groups = self.by_depth[start:end]
            of_parent = self.group[self.group_parent[groups]]
            values = own.index_select(0, groups) + above.index_select(0, of_parent)
            above.index_copy_(0, groups, values)
        log_sums -= above
        if nodes is None:
            return x.sub_(log_sums.index_select(0, self.group))
        return x.index_select(0, nodes) - log_sums.index_select(0, self.group[nodes])

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
            p = 1 / (values - values.gather(1, best)).exp().sum(1)
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
