"""Pictures of docs/concepts/matching.md: the anchors that must find each box of one image."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from detectors.boxes import area
from detectors.structures import EncodedTargets
from docs.pictures.canvas import ORANGE, SIDE, demo_detector, dimmed, draw, frame, grid_lines, panels, scene

HUES = ("#ffffff", "#ffd43b", "#4dd0e1", "#ff8a80", "#b2ff59")


def encoded_scene(name: str) -> EncodedTargets:
    detector = demo_detector(name)
    return detector.encoder(scene()[1], detector.grid((SIDE, SIDE)))


def matching() -> Figure:
    """Left: YOLOv2, one anchor for each box. Right: SSD, its best anchor, and all with an IoU of .5."""
    figure, axes = panels(2, size=4.5)
    for ax, name in zip(axes, ("yolov2_160", "ssd160"), strict=True):
        encoded = encoded_scene(name)
        frame(
            ax, SIDE, dimmed(), f"{name}: {int(encoded.positive.sum())} of {encoded.grid.num_anchors} anchors"
        )
        if name == "yolov2_160":
            grid_lines(ax, SIDE, float(encoded.grid.stride[0]))
        for number, box in enumerate(encoded.targets.boxes[0].tolist()):
            mine = encoded.matched[0] == number
            hue = HUES[number % len(HUES)]
            draw(ax, encoded.grid.boxes[mine].tolist(), hue, linewidth=0.8)
            draw(ax, [box], hue, linestyle="--")
        if name == "yolov2_160":
            corners = encoded.grid.cell[encoded.matched[0] >= 0] * encoded.grid.stride[0]
            draw(ax, cells(corners, 16), ORANGE, fill=True, facecolor=ORANGE, alpha=0.5, linewidth=0)
    return figure


def cells(corners: Tensor, side: float) -> np.ndarray:
    return np.concatenate([corners.numpy(), corners.numpy() + side], 1)


def matching_levels() -> Figure:
    """How many of SSD's anchors each box gets, by level."""
    encoded = encoded_scene("ssd160")
    ends = np.cumsum([level.rows * level.columns * level.per_location for level in encoded.grid.levels])
    matched = encoded.matched[0].numpy()
    parts = np.split(matched, ends[:-1])
    figure, (ax,) = panels(1, size=4.2)
    sides = np.sqrt(area(encoded.targets.boxes[0]).numpy())
    order = sides.argsort()
    place = np.arange(len(order))
    below = np.zeros(len(order))
    for level, part in zip(encoded.grid.levels, parts, strict=True):
        counts = np.array([(part == n).sum() for n in order])
        ax.bar(place, counts, bottom=below, label=f"{level.rows} x {level.columns}")
        below = below + counts
    ax.set_xticks(place, [f"{side:.0f}" for side in sides[order]])
    ax.set(xlabel="box, by the root of its area in pixels", ylabel="positive anchors", ylim=(0, 8))
    ax.legend(title="level", ncols=2)
    return figure
