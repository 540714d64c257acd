"""Several truths in one anchor (YOLOv2): which of them meet, which one owns the anchor, which class they stand for together."""

from __future__ import annotations

import torch
from torch import Tensor

from detectors.structures import EncodedTargets


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
