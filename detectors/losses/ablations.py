"""Terms that neither paper has, for ablations: IoU losses of boxes, and the focal loss. docs/switches.md."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import complete_box_iou_loss, generalized_box_iou_loss, sigmoid_focal_loss

IOU_LOSSES = {"giou": generalized_box_iou_loss, "ciou": complete_box_iou_loss}


def iou_error(kind: str, boxes: Tensor, gt_boxes: Tensor) -> Tensor:
    """(..., 4) xyxy boxes and their ground truth -> (...,) 1 - GIoU, or 1 - CIoU, in float32 or float64.

    GIoU: arXiv 1902.09630; CIoU, which adds the distance of centres and of aspect ratios: arXiv 1911.08287.
    """
    return IOU_LOSSES[kind](boxes, gt_boxes)


def binary_focal_error(logits: Tensor, targets: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """-alpha_t (1 - p_t)^gamma log p_t of a sigmoid (arXiv 1708.02002, equation 5); targets are 0 or 1."""
    return sigmoid_focal_loss(logits, targets, alpha, gamma)


def softmax_focal_error(logits: Tensor, columns: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """(R, C + 1) logits, (R,) columns, 0 is background -> (R,) the same of a softmax.

    alpha_t is alpha for objects and 1 - alpha for background. With one class it equals the sigmoid's for the
    difference of the two logits.
    """
    log_p = -F.cross_entropy(logits, columns, reduction="none")
    weight = torch.where(columns > 0, alpha, 1 - alpha)
    return -weight * (1 - log_p.exp()) ** gamma * log_p


def check_focal(gamma: float | None, alpha: float, label_smoothing: float) -> None:
    """ValueError for numbers out of range, or two changes of one cross-entropy."""
    if gamma is not None and gamma < 0:
        raise ValueError(f"focal_gamma={gamma}: 0 or more is needed, the paper has 2; null switches it off")
    if not 0 < alpha < 1:
        raise ValueError(f"focal_alpha={alpha}: must be between 0 and 1; the paper has 0.25")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing={label_smoothing}: must be 0 or more and less than 1, such as 0.1")
