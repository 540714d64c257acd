"""A picture of each level: its fields and its anchors over an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from detectors.commands.receptive_field.field_sizes import Field, centre_units, effective_square
from detectors.drawing.drawn_boxes import draw_boxes
from detectors.drawing.framed_images import captioned, image_grid
from detectors.models.detector import Detector

SEEN = (255, 255, 255)
COUNTING = (255, 200, 0)
PANELS_IN_A_ROW = 3


def field_pictures(
    detector: Detector, image: np.ndarray, fields: Sequence[Field], gradients: Sequence[Tensor]
) -> np.ndarray:
    """Panels, one for each level, from fine to coarse.

    White: the theoretical field, as far as it lies in the image. Yellow: the square with 95 % of the
    gradient. Dashed: the anchors of the centre cell. Pixels are as bright as their gradient. image: (H, W, 3)
    uint8 RGB of the input's size.
    """
    grid = detector.grid(image.shape[:2])
    panels = []
    units = centre_units(detector, image.shape[:2])
    for level, field, gradient, (start, count) in zip(grid.levels, fields, gradients, units, strict=True):
        column, row, side = effective_square(gradient)
        cx, cy = grid.boxes_cxcywh[start, :2].tolist()
        squares = [_box(column, row, side, side), _box(cx, cy, field.width, field.height)]
        strength = (gradient / gradient.max().clamp(min=1e-30)).sqrt().numpy()[..., None]
        lit = (image * (0.25 + 0.75 * strength)).astype(np.uint8)
        anchors = grid.boxes[start : start + count].numpy()
        panel = draw_boxes(lit, squares, ["", ""], colours=np.array([COUNTING, SEEN]), gt_boxes=anchors)
        text = f"{level.rows} x {level.columns}: field {field.height} px, 95 % in {side} px"
        panels.append(captioned(panel, text))
    return image_grid(panels, PANELS_IN_A_ROW)


def _box(cx: float, cy: float, width: float, height: float) -> np.ndarray:
    return np.array([cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2])
