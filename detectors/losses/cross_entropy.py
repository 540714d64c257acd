"""The loss of a classifier."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from detectors.losses.shared_loss import SharedLoss
from detectors.structures import builder


@builder("loss")
class CrossEntropyLoss(SharedLoss):
    """The mean over the images of -log p(right class), p the softmax of the logits.

    Darknet's [softmax] sums its gradient p - truth over the images, and the optimiser divides by the cfg's
    batch: the same gradient. All processes have equally many images, so that the mean of their losses is the
    loss of the whole batch.
    """

    def __init__(self, *, label_smoothing: float = 0.0):
        """label_smoothing: share of the truth that is spread evenly over all classes; 0: none."""
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing}: must be from 0 to less than 1")
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """logits (B, C) float32, labels (B,) 0..C-1 -> the term `class`."""
        return {"class": F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)}

    def statistics(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Numbers for the log: the share of images whose best class is the right one."""
        return {"accuracy": (logits.argmax(1) == labels).float().mean()}
