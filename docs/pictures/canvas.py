"""What the pictures of the concept pages share: figures, colours, one generated image, boxes on axes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from detectors.config.check import check
from detectors.config.composing import composed
from detectors.data.shapes import CLASSES, draw_shapes
from detectors.models.detector import Detector
from detectors.structures import Targets
from detectors.training import assemble

BLUE, ORANGE, GREEN, RED, GREY = "#2f6db3", "#d9822b", "#2f9e5b", "#c8413a", "#8a8f98"
SIDE = 160  # pixels of the generated images, and of the demo's detectors
SCENE = 140  # seed of the image that most pages show: five shapes of different sizes


def panels(columns: int, rows: int = 1, size: float = 3.0) -> tuple[Figure, list[Axes]]:
    """A figure of equal panels, row by row. size: inches of a panel's side."""
    figure = Figure(figsize=(columns * size, rows * size), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, number + 1) for number in range(rows * columns)]


def svg(figure: Figure) -> bytes:
    """The same bytes for the same figure: no date, and no random names of its parts."""
    data = io.BytesIO()
    with rc_context({"svg.hashsalt": "detectors", "svg.fonttype": "path"}):
        figure.savefig(data, format="svg", metadata={"Date": None})
    return data.getvalue()


def frame(axes: Axes, side: float, image: np.ndarray | None = None, title: str = "") -> None:
    """Pixels from 0 to `side` in both directions, y downwards, without ticks."""
    if image is not None:
        axes.imshow(image, extent=(0, side, side, 0), interpolation="nearest")
    axes.set(xlim=(0, side), ylim=(side, 0), xticks=[], yticks=[], aspect="equal", title=title)


def draw(axes: Axes, boxes: Sequence[Sequence[float]], colour: str, **style) -> None:
    """boxes: (n, 4) xyxy pixels. style: of matplotlib's Rectangle."""
    style = {"fill": False, "linewidth": 2} | style
    for x0, y0, x1, y1 in np.asarray(boxes, dtype=float).reshape(-1, 4):
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, edgecolor=colour, **style))


def grid_lines(axes: Axes, side: float, stride: float) -> None:
    for place in np.arange(stride, side, stride):
        axes.axhline(place, color="white", linewidth=0.5, alpha=0.6)
        axes.axvline(place, color="white", linewidth=0.5, alpha=0.6)


@cache
def scene() -> tuple[np.ndarray, Targets]:
    """The generated image (SIDE, SIDE, 3), and its boxes as a batch of one."""
    image, labels, boxes = draw_shapes(np.random.default_rng(SCENE), SIDE)
    targets = Targets(
        boxes=torch.tensor([boxes], dtype=torch.float32),
        labels=torch.tensor([labels]),
        valid=torch.ones(1, len(labels), dtype=torch.bool),
    )
    return image, targets


def dimmed() -> np.ndarray:
    """The scene, dark enough for lines on it."""
    return (scene()[0] * 0.55).astype(np.uint8)


@cache
def demo_detector(name: str) -> Detector:
    """yolov2_160 or ssd160 with the random weights of seed 0, in evaluation mode."""
    return assemble.build_detector(check(composed([f"model={name}"])), len(CLASSES)).eval()
