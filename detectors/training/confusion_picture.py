"""A confusion matrix as a picture."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from detectors.drawing.framed_images import BLACK, TEXT_SCALE, WHITE, captioned

SIDE = 900  # pixels of the matrix, at most, for up to 50 classes
CELL = (18, 64)  # pixels of a cell, at least and at most
NUMBERED = 34  # pixels of a cell from which on its number is written
LABEL = 220  # pixels of a class name, at most
LINES = (225, 225, 225)  # RGB of the lines, and of the last cell
RIGHT = np.array([20.0, 80, 170])  # RGB of a full share
WRONG = np.array([200.0, 50, 20])


def confusion_picture(
    matrix: np.ndarray, class_names: Sequence[str], caption: str, *, background: bool = True
) -> np.ndarray:
    """(H, W, 3) uint8 RGB. matrix: see metrics.confusion; without its last row and column if not background.

    The shade is the share of the row: blue for right, red for wrong.
    """
    count = len(matrix)
    cell = int(np.clip(SIDE // count, *CELL))
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)  # (C + 1, C + 1)
    full = np.where(np.eye(count, dtype=bool)[..., None], RIGHT, WRONG)
    colours = (255 + shares[..., None] * (full - 255)).round().astype(np.uint8)
    if background:
        colours[-1, -1] = LINES  # it is not detected
    canvas = colours.repeat(cell, 0).repeat(cell, 1)
    canvas[::cell] = LINES
    canvas[:, ::cell] = LINES
    if cell >= NUMBERED:
        for row, column in zip(*np.nonzero(matrix), strict=True):
            ink = WHITE if shares[row, column] > 0.5 else BLACK
            _centred(canvas, str(matrix[row, column]), column * cell, row * cell, cell, ink)
    left = _names([*class_names, *["no box"] * background], cell, right_aligned=True)
    above = np.rot90(_names([*class_names, *["missed"] * background], cell, right_aligned=False))
    corner = np.full((above.shape[0], left.shape[1], 3), 255, np.uint8)
    picture = np.concatenate([np.concatenate([corner, above], 1), np.concatenate([left, canvas], 1)], 0)
    return captioned(picture, caption)


def _names(names: Sequence[str], cell: int, *, right_aligned: bool) -> np.ndarray:
    """Names below each other, one per cell, on white."""
    widths = [_size(name)[0] for name in names]
    width = min(LABEL, max(widths)) + 8
    canvas = np.full((cell * len(names), width, 3), 255, np.uint8)
    for row, (name, own) in enumerate(zip(names, widths, strict=True)):
        x = max(2, width - own - 4) if right_aligned else 4
        _put(canvas, name, x, row * cell + (cell + _size(name)[1]) // 2, BLACK)
    return canvas


def _centred(canvas: np.ndarray, text: str, x: int, y: int, cell: int, ink: tuple[int, int, int]) -> None:
    width, height = _size(text)
    _put(canvas, text, x + (cell - width) // 2, y + (cell + height) // 2, ink)


def _size(text: str) -> tuple[int, int]:
    """(width, height) in pixels."""
    return cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, TEXT_SCALE, 1)[0]


def _put(canvas: np.ndarray, text: str, x: int, y: int, ink: tuple[int, int, int]) -> None:
    cv2.putText(canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, TEXT_SCALE, ink, 1, cv2.LINE_AA)
