"""Picture of docs/concepts/suppression.md."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from detectors.boxes import pairwise_iou
from detectors.kernels.suppression import suppress
from docs.pictures.canvas import ORANGE, SIDE, dimmed, draw, frame, panels, scene

GUESSES = 12  # for each box
LIMITS = (0.8, 0.45, 0.05)


def candidates() -> Tensor:
    """(T, 4) boxes around the true ones, the best first: the closer, the better."""
    true = scene()[1].boxes[0].double()
    generator = torch.Generator().manual_seed(0)
    sides = (true[:, 2:] - true[:, :2]).repeat(1, 2)[:, None]  # (M, 1, 4)
    noise = torch.randn(len(true), GUESSES, 4, generator=generator, dtype=torch.float64)
    boxes = (true[:, None] + 0.09 * sides * noise).flatten(0, 1)
    return boxes[pairwise_iou(boxes, true).amax(1).argsort(descending=True)]


def kept(boxes: Tensor, iou: float) -> Tensor:
    """What stays if all boxes are of one class."""
    one_class = torch.zeros(len(boxes), dtype=torch.int64)
    return boxes[suppress(boxes, one_class, 1, iou=iou, limit=len(boxes))]


def suppression() -> Figure:
    """All candidates, and what stays at three limits."""
    image = dimmed()
    boxes = candidates()
    figure, axes = panels(4, size=3)
    frame(axes[0], SIDE, image, f"all {len(boxes)}")
    draw(axes[0], boxes, ORANGE, linewidth=0.8)
    for ax, limit in zip(axes[1:], LIMITS, strict=True):
        stays = kept(boxes, limit)
        frame(ax, SIDE, image, f"nms_iou {limit}: {len(stays)}")
        draw(ax, stays, ORANGE, linewidth=1.6)
    return figure
