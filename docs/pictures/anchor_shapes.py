"""Pictures of docs/concepts/anchors.md."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure

from detectors.anchors import YoloAnchors
from detectors.coders import YoloBoxCoder
from detectors.commands.cluster.kmeans import kmeans, shapes_of
from detectors.data.shapes import draw_shapes
from docs.pictures.canvas import BLUE, GREY, ORANGE, RED, SIDE, draw, frame, panels

IMAGES = 150
MOST = 9  # anchors
CHOSEN = 5
STRIDE = 32


def generated_sizes() -> np.ndarray:
    """(T, 2) widths and heights of the boxes of IMAGES generated images, pixels."""
    boxes = [draw_shapes(np.random.default_rng(seed), SIDE)[2] for seed in range(IMAGES)]
    flat = np.array([box for image in boxes for box in image], dtype=float)
    return flat[:, 2:] - flat[:, :2]


def anchor_clusters() -> Figure:
    """The sizes of boxes with five anchors, and the mean IoU with the best of k anchors."""
    sizes = generated_sizes()
    shapes = shapes_of(sizes)
    results = {k: kmeans(shapes, k) for k in range(1, MOST + 1)}
    figure, (left, right) = panels(2, size=4.2)
    left.scatter(*sizes.T, s=6, color=GREY)
    left.scatter(*results[CHOSEN].anchors.T, s=60, marker="s", color=RED, label=f"{CHOSEN} anchors")
    left.set(xlabel="width, pixels", ylabel="height, pixels", aspect="equal")
    left.legend()
    right.plot(list(results), [result.mean_iou for result in results.values()], "o-", color=BLUE)
    right.set(xlabel="anchors k", ylabel="mean IoU of a box with its best anchor")
    return figure


def anchor_decoding() -> Figure:
    """From an anchor and four numbers to a box, in YOLOv2."""
    size = 5 * STRIDE
    grid = YoloAnchors([(1.9, 2.4)], STRIDE)((size, size))
    offsets = torch.tensor([0.5, 0.5, 0.0, 0.0]).repeat(grid.num_anchors, 1)
    number = 2 * 5 + 2  # the middle cell
    offsets[number] = torch.tensor([0.8, 0.3, 0.45, -0.25])
    box = YoloBoxCoder().decode(offsets, grid)[number]
    figure, (ax,) = panels(1, size=4.5)
    frame(ax, size)
    for place in range(0, size + 1, STRIDE):
        ax.axhline(place, color=GREY, linewidth=0.6)
        ax.axvline(place, color=GREY, linewidth=0.6)
    draw(ax, [[64, 64, 96, 96]], GREY, fill=True, facecolor=GREY, alpha=0.25)
    draw(ax, grid.boxes[number].tolist(), BLUE, linestyle="--", label="anchor")
    draw(ax, box.tolist(), ORANGE, label="box")
    ax.plot(*((box[:2] + box[2:]) / 2).tolist(), "o", color=ORANGE)
    ax.plot(64, 64, "s", color=GREY, label="corner of the cell")
    ax.legend(loc="lower right")
    return figure
