"""The loss of a classifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from detectors.losses.shared_loss import SharedLoss
from detectors.structures import builder
from detectors.wordtree.tree_paths import TreePaths
from detectors.wordtree.tree_softmax import TreeSoftmax
from detectors.wordtree.tree_sources import load_tree


@builder("loss")
class CrossEntropyLoss(SharedLoss):
    """The mean over the images of -log p(right class), p the softmax of the logits.

    Darknet's [softmax] sums its gradient p - truth over the images, and the optimiser divides by the cfg's
    batch: the same gradient. All processes have equally many images, so that the mean of their losses is the
    loss of the whole batch.
    """

    def __init__(self, *, label_smoothing: float = 0.0, tree: str | Mapping[str, Any] | None = None):
        """label_smoothing: share of the truth that is spread evenly over all classes; 0: none.
        tree: of the classes, see load_tree: p is then Pr(node), so that each group on the path of the right
            node learns; inner nodes may be labels. None: they are flat.
        """
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing}: must be from 0 to less than 1")
        if tree is not None and label_smoothing:
            raise ValueError(f"label_smoothing={label_smoothing}: with a tree, 0 is the only choice")
        self.label_smoothing = label_smoothing
        self.tree = None if tree is None else TreeSoftmax(load_tree(tree))

    def forward(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """logits (B, C) float32, labels (B,) 0..C-1 -> the term `class`."""
        if self.tree is not None:
            paths = TreePaths.of(self.tree, labels)
            return {"class": -paths.log_p(logits.gather(1, paths.column)).sum(1).mean()}
        return {"class": F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)}

    def statistics(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Numbers for the log: the share of images whose best class is the right one.

        With a tree: of images whose right node is on the path to the leaf where the walk down ends.
        """
        if self.tree is not None:
            leaf, _ = self.tree.walk(logits, 0.0)
            return {"accuracy": (self.tree.ancestors[leaf] == labels[:, None]).any(1).float().mean()}
        return {"accuracy": (logits.argmax(1) == labels).float().mean()}

    def probabilities(self, logits: Tensor) -> Tensor:
        """(B, C) logits -> (B, C): a softmax, or Pr(node)."""
        return logits.softmax(1) if self.tree is None else self.tree.probabilities(logits)
