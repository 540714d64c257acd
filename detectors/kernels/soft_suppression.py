"""Suppression by other rules than a hard IoU, for ablations: Soft-NMS and DIoU-NMS, in PyTorch alone.

Of each group, the box with the best score is taken; the scores of all others that are left are multiplied by
a factor that falls with their overlap with it; and so on with the best of these. Factors:

    soft_linear     1 - IoU if IoU > iou, else 1                 Soft-NMS, arXiv 1704.04503
    soft_gaussian   exp(-IoU^2 / SIGMA)                          the same; `iou` does not matter
    diou            0 if IoU - d^2 / c^2 > iou, else 1           arXiv 1911.08287

d is the distance of the centres, c the diagonal of the smallest box around both.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detectors.boxes import paired_iou

SOFT_RULES = ("soft_linear", "soft_gaussian", "diou")
SIGMA = 0.5  # of the paper's Gaussian


def decayed_scores(
    boxes: Tensor, scores: Tensor, group: Tensor, *, rule: str, iou: float, limit: int, least: float
) -> Tensor:
    """(T, 4) boxes with (T,) scores and (T,) groups -> (T,) scores after the suppression, 0 if dropped.

    Boxes come in the order of falling scores. limit: only so many boxes of a group count, the best ones.
    least: a box whose score falls to this or below is dropped. Synchronises with the device.
    """
    if not len(boxes):
        return scores
    order = group.argsort(stable=True)
    _, row, count = group[order].unique_consecutive(return_inverse=True, return_counts=True)
    column = torch.arange(len(order), device=order.device) - (count.cumsum(0) - count)[row]
    used = column < limit
    place = (row[used], column[used])
    width = min(int(count.max()), limit)
    table = boxes.new_zeros(len(count), width, 4)
    left = boxes.new_zeros(len(count), width)  # scores of boxes that are not taken yet; 0: none
    table[place] = boxes[order[used]]
    left[place] = scores[order[used]].to(left.dtype)
    taken = torch.zeros_like(left)
    lanes = torch.arange(len(count), device=order.device)
    while bool((left > least).any()):
        best, index = left.max(1)
        taken[lanes, index] += torch.where(best > least, best, 0)  # nothing where a group is done
        left[lanes, index] = 0
        left = left * _factor(table[lanes, index][:, None], table, rule, iou)
    result = torch.zeros_like(scores)
    result[order[used]] = taken[place].to(scores.dtype)
    return result


def _factor(chosen: Tensor, others: Tensor, rule: str, iou: float) -> Tensor:
    """(G, 1, 4) and (G, N, 4) boxes -> (G, N) factors of the others' scores."""
    overlap = paired_iou(chosen, others)
    if rule == "soft_linear":
        return torch.where(overlap > iou, 1 - overlap, 1)
    if rule == "soft_gaussian":
        return torch.exp(-(overlap**2) / SIGMA)
    low = torch.minimum(chosen[..., :2], others[..., :2])
    high = torch.maximum(chosen[..., 2:], others[..., 2:])
    diagonal = ((high - low) ** 2).sum(-1).clamp(min=torch.finfo(high.dtype).tiny)
    apart = ((chosen[..., :2] + chosen[..., 2:] - others[..., :2] - others[..., 2:]) ** 2).sum(-1) / 4
    return (overlap - apart / diagonal <= iou).to(overlap.dtype)
