"""The arithmetic of a WordTree on a device: a softmax in every group, products down the tree, the best node.

All groups are one segment operation over flat arrays. Products go level by level (17 for YOLO9000), as sums
of logarithms, because a product of 17 small numbers may leave float32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detectors.wordtree.nodes import WordTree


class TreeSoftmax(nn.Module):
    """A WordTree's arrays as buffers, which are not part of a state dict, and what is computed with them.

    Tensors (..., N) hold one number for each node.
    """

    def __init__(self, tree: WordTree):
        super().__init__()
        self.tree = tree
        for name in ("parent", "group", "group_offset", "group_size", "child_group", "ancestors"):
            self.register_buffer(name, getattr(tree, name).clone(), persistent=False)

    def log_softmax(self, logits: Tensor) -> Tensor:
        """(..., N) -> (..., N) log Pr(node | parent): a log-softmax in each group."""
        index = self.group.expand(logits.shape)
        shape = (*logits.shape[:-1], self.tree.groups)
        highest = logits.new_full(shape, -torch.inf).scatter_reduce(-1, index, logits.detach(), "amax")
        shifted = logits - highest.gather(-1, index)
        total = logits.new_zeros(shape).scatter_add(-1, index, shifted.exp())
        return shifted - total.log().gather(-1, index)

    def log_products(self, log_p: Tensor) -> Tensor:
        """(..., N) log Pr(node | parent) -> (..., N) log Pr(node), the sum over its path."""
        result = log_p.clone()
        for level in range(1, self.tree.levels):
            nodes = (self.tree.depth == level + 1).nonzero()[:, 0].to(log_p.device)
            result[..., nodes] += result[..., self.parent[nodes]]
        return result

    def best_node(self, p: Tensor, threshold: float) -> Tensor:
        """(..., N) -> (...) the node where the walk down from the roots ends.

        It goes to the best node of a group (the first of equal ones) while the product of p over the walk
        stays above the threshold, and ends at the last such node; among the roots it takes the best in any
        case. With p = Pr(node | parent) the product is Pr(node).
        """
        index = self.group.expand(p.shape)
        shape = (*p.shape[:-1], self.tree.groups)
        highest = p.new_zeros(shape).scatter_reduce(-1, index, p, "amax", include_self=False)
        number = torch.arange(len(self.tree), device=p.device).expand(p.shape)
        number = torch.where(p == highest.gather(-1, index), number, len(self.tree))
        first = number.new_full(shape, len(self.tree)).scatter_reduce(-1, index, number, "amin")  # (..., G)
        node = first[..., 0]
        product = highest[..., 0]
        walking = product > threshold
        for _ in range(self.tree.levels - 1):
            group = self.child_group[node]
            below = group.clamp(min=0)[..., None]
            deeper = product * highest.gather(-1, below)[..., 0]
            walking = walking & (group >= 0) & (deeper > threshold)
            node = torch.where(walking, first.gather(-1, below)[..., 0], node)
            product = torch.where(walking, deeper, product)
        return node
