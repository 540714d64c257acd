"""Picture of docs/predict.md."""

from __future__ import annotations

import numpy as np

from detectors.commands.predict.merging import Boxes, merge_views
from detectors.commands.predict.views import View, ViewPlan
from detectors.data.shapes import CLASSES, draw_shapes
from detectors.drawing.drawn_boxes import class_colours, draw_boxes
from detectors.drawing.framed_images import captioned, image_grid, jpeg_bytes
from docs.pictures.canvas import SIDE

ROWS, COLUMNS = 2, 3  # generated images side by side
MAGNIFIED = 2
TILE = 320  # pixels
NMS_IOU = 0.45
QUALITY = 85  # of the JPEG


def crowd() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Generated images side by side (H, W, 3), their boxes (n, 4) xyxy pixels, and labels (n,)."""
    rng = np.random.default_rng(1)
    canvas = np.zeros((ROWS * SIDE, COLUMNS * SIDE, 3), np.uint8)
    boxes, labels = [], []
    for y in range(0, ROWS * SIDE, SIDE):
        for x in range(0, COLUMNS * SIDE, SIDE):
            canvas[y : y + SIDE, x : x + SIDE], its_labels, its_boxes = draw_shapes(rng, SIDE)
            boxes.append(np.reshape(its_boxes, (-1, 4)) + np.array([x, y, x, y]))
            labels.append(its_labels)
    canvas = canvas.repeat(MAGNIFIED, 0).repeat(MAGNIFIED, 1)
    return canvas, np.concatenate(boxes).astype(np.float32) * MAGNIFIED, np.concatenate(labels)


def parts_of(view: View, number: int, boxes: np.ndarray, labels: np.ndarray, size: tuple[int, int]) -> Boxes:
    """What a detector without faults finds in a view: the visible part of each object."""
    x0, y0, x1, y1 = view.window
    seen = np.concatenate([np.maximum(boxes[:, :2], (x0, y0)), np.minimum(boxes[:, 2:], (x1, y1))], 1)
    rows = (seen[:, 2:] - seen[:, :2] > 8).all(1)
    scores = np.linspace(0.95, 0.5, len(boxes), dtype=np.float32)[rows]
    cut = view.cut_sides(seen[rows], size)
    return Boxes(seen[rows], scores, labels[rows], cut, np.full(rows.sum(), number))


def tiles_and_labels() -> bytes:
    """A .jpg: the boxes of all tiles, one colour for each tile; below, what they become, with labels."""
    image, boxes, labels = crowd()
    size = image.shape[:2]
    views = list(ViewPlan(TILE, whole=False).views(size, [(TILE, TILE)]))
    parts = [parts_of(view, number, boxes, labels, size) for number, view in enumerate(views)]
    seen = Boxes.together(parts)
    one = merge_views(parts, NMS_IOU)
    dark = (image * 0.5).astype(np.uint8)
    windows = np.array([view.window for view in views])
    colours = class_colours(len(views))
    silent = [""] * len(seen.scores)
    above = draw_boxes(dark, seen.boxes, silent, colours=colours[seen.view], gt_boxes=windows)
    texts = [f"{CLASSES[label]} {score:.2f}" for label, score in zip(one.labels, one.scores, strict=True)]
    below = draw_boxes(image, one.boxes, texts, colours=class_colours(len(CLASSES))[one.labels])
    first = f"{len(views)} tiles of {TILE} x {TILE} pixels (dashed) show {len(seen.scores)} boxes"
    second = f"{len(one.scores)} objects, each once; no label covers another"
    return jpeg_bytes(image_grid([captioned(above, first), captioned(below, second)], 1), QUALITY)
