"""Greedy suppression in which a class also suppresses its ancestors and descendants, in PyTorch alone.

Darknet suppresses per class, so that a box keeps its "dog" beside another's "animal". Here a box is kept
unless its IoU with a better box that is kept exceeds the threshold and the two labels are the same or on one
path.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detectors.boxes import pairwise_iou
from detectors.wordtree.nodes import WordTree


def suppress_related(boxes: Tensor, image: Tensor, label: Tensor, tree: WordTree, *, iou: float) -> Tensor:
    """(T, 4) boxes, their (T,) images and (T,) nodes -> (T,) bool, which are kept.

    The boxes of an image come one after another, the best first. Synchronises with the device.
    """
    ancestors = torch.from_numpy(tree.ancestors)[label.cpu()]  # (T, D)
    keep = torch.ones(len(boxes), dtype=torch.bool)
    counts = image.unique_consecutive(return_counts=True)[1].tolist()
    parts = zip(keep.split(counts), boxes.cpu().split(counts), ancestors.split(counts), strict=True)
    for kept, of_image, paths in parts:
        _suppress_image(kept, of_image, paths, iou)
    return keep.to(boxes.device)


def _suppress_image(keep: Tensor, boxes: Tensor, paths: Tensor, iou: float) -> None:
    """Clears `keep` (T,) where a better box that is kept suppresses a box. paths: (T, D), from the root."""
    depth = (paths >= 0).sum(1)  # (T,)
    label = paths.gather(1, depth[:, None] - 1)[:, 0]
    for row in range(len(boxes)):
        if not keep[row]:
            continue
        rest = slice(row + 1, None)
        above = paths[rest, depth[row] - 1] == label[row]  # the label is an ancestor, or the same
        below = paths[row, depth[rest] - 1] == label[rest]
        overlap = pairwise_iou(boxes[row : row + 1], boxes[rest])[0] > iou
        keep[rest] &= ~(overlap & (above | below))
