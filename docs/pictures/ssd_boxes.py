"""Pictures of docs/concepts/default-boxes.md."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from detectors.anchors import DefaultBoxes, ssd300_levels
from docs.pictures.canvas import BLUE, GREY, ORANGE, RED, draw, frame, panels

SIDE = 300


def default_box_levels() -> Figure:
    """The default boxes of the middle cell of each of SSD300's levels; grey: the centres of all cells."""
    levels = ssd300_levels()
    grid = DefaultBoxes(levels, (SIDE, SIDE))((SIDE, SIDE))
    figure, axes = panels(3, 2, 2.8)
    first = 0
    for ax, level in zip(axes, levels, strict=True):
        count = level.rows * level.columns * level.per_location
        boxes = grid.boxes_cxcywh[first : first + count].numpy()
        middle = (level.rows // 2 * level.columns + level.columns // 2) * level.per_location
        frame(ax, SIDE, title=f"{level.rows} x {level.columns}, {level.per_location} boxes: {count:,}")
        ax.scatter(*boxes[:: level.per_location, :2].T, s=2, color=GREY)
        for number, (cx, cy, w, h) in enumerate(boxes[middle : middle + level.per_location]):
            colour = (BLUE, ORANGE, *[RED] * 4)[number]
            draw(ax, [[cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]], colour, linewidth=1.4)
        first += count
    return figure


def default_box_scales() -> Figure:
    """The sizes of SSD300's squares, level by level, beside the formula of the paper."""
    levels = ssd300_levels()
    figure, (ax,) = panels(1, size=4.5)
    place = np.arange(1, len(levels) + 1)
    ax.bar(
        place,
        [level.max_size - level.min_size for level in levels],
        bottom=[level.min_size for level in levels],
        color=BLUE,
        alpha=0.3,
        label="from min_size to max_size",
    )
    ax.plot(place, [level.shapes_wh()[1][0] for level in levels], "s", color=ORANGE, label="second square")
    scales = 0.2 + (0.9 - 0.2) * np.arange(5) / 4  # equation 4, for the five levels after conv4_3
    ax.plot(place[1:], SIDE * scales, "k_", markersize=20, label="equation 4, s from .2 to .9")
    ax.set(xlabel="level", ylabel="pixels", xticks=place)
    ax.legend()
    return figure
