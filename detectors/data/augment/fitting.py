"""How a whole image is resized to the model's input: letterbox, stretch or crop."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

GREY = 127  # letterbox bars and uncovered corners; Darknet pads with .5 of 0..1, which is 127.5


class Fit(NamedTuple):
    """Size and place of the resized image in the model's input."""

    size: tuple[int, int]  # (height, width) of the resized image, without bars
    top_left: tuple[int, int]  # (row, column) in the model's input

    def scale_xy(self, size_original: tuple[int, int]) -> tuple[float, float]:
        return self.size[1] / size_original[1], self.size[0] / size_original[0]

    def shift_xy(self) -> tuple[float, float]:
        return float(self.top_left[1]), float(self.top_left[0])


def letterbox(size_original: tuple[int, int], size: tuple[int, int]) -> Fit:
    """The largest size of the same aspect ratio that fits, centred. Sizes are (height, width).

    Size and offset are rounded down, as in Darknet's letterbox_image.
    """
    height, width = size_original
    rows, columns = size
    if columns * height < rows * width:  # columns / width < rows / height, without rounding
        rows = max(1, height * columns // width)
    else:
        columns = max(1, width * rows // height)
    return Fit((rows, columns), ((size[0] - rows) // 2, (size[1] - columns) // 2))


def stretch(size_original: tuple[int, int], size: tuple[int, int]) -> Fit:
    """The image fills the whole input; its aspect ratio changes."""
    return Fit(size, (0, 0))


def crop(size_original: tuple[int, int], size: tuple[int, int]) -> Fit:
    """The smallest size of the same aspect ratio that covers the input, centred; what stands out is cut off.

    Sizes are (height, width). For a square input it is Darknet's center_crop_image.
    """
    height, width = size_original
    rows, columns = size
    if rows * width > columns * height:  # wider than the input, without rounding
        columns = max(columns, round(width * rows / height))
    else:
        rows = max(rows, round(height * columns / width))
    return Fit((rows, columns), (-((rows - size[0]) // 2), -((columns - size[1]) // 2)))


RESIZES: dict[str, Callable[[tuple[int, int], tuple[int, int]], Fit]] = {
    "letterbox": letterbox,
    "stretch": stretch,
    "crop": crop,
}


def resize(image: np.ndarray, fit: Fit, size: tuple[int, int]) -> np.ndarray:
    """(h, w, 3) -> (H, W, 3) with grey bars, or without what stands out.

    Bilinear without antialiasing (cv2.INTER_LINEAR, half-pixel centres).
    """
    if image.shape[:2] != fit.size:
        image = cv2.resize(image, fit.size[::-1], interpolation=cv2.INTER_LINEAR)
    if fit.size == tuple(size):
        return image
    if fit.size[0] > size[0] or fit.size[1] > size[1]:
        top, left = (-edge for edge in fit.top_left)
        return np.ascontiguousarray(image[top : top + size[0], left : left + size[1]])
    canvas = np.full((*size, 3), GREY, dtype=np.uint8)
    top, left = fit.top_left
    rows, columns = fit.size
    canvas[top : top + rows, left : left + columns] = image
    return canvas
