"""cv2.INTER_AREA for an image on a large canvas of one colour, of which only the image is looked at.

Where SSD's expansion makes the canvas four times as wide and high, OpenCV averages sixteen times as many pixels, almost all of them equal:
that alone took a sixth of the augmentation's time.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np


def resize_on_canvas(
    image: np.ndarray, borders: tuple[int, int, int, int], size: tuple[int, int], colour: Sequence[float]
) -> np.ndarray:
    """(h, w, 3) uint8 with `borders` (above, below, left, right) of `colour` around -> (H, W, 3) uint8, each pixel the mean of its area.

    cv2.resize(cv2.copyMakeBorder(image, ...), interpolation=cv2.INTER_AREA) within one level, if neither side is enlarged. The mean over
    an area with fractions of pixels is a difference of sums from the corner on, which are linear between whole pixels.
    """
    (height, width), (above, below, left, right) = image.shape[:2], borders
    y, down = _edges(height, above, below, size[0])
    x, across = _edges(width, left, right, size[1])
    rows, columns = _touched(y, height), _touched(x, width)
    y, x = y[rows.start : rows.stop + 1], x[columns.start : columns.stop + 1]
    sums = _between(_between(cv2.integral(image), y).transpose(1, 0, 2), x).transpose(1, 0, 2)
    ground = np.array(colour, dtype=np.float32)
    covered = np.outer(np.diff(y), np.diff(x)).astype(np.float32)[..., None]  # pixels of the image
    result = np.full((*size, 3), ground, dtype=np.uint8)
    result[rows, columns] = np.rint((sums - ground * covered) / np.float32(down * across) + ground)
    return result


def _edges(extent: int, before: int, after: int, size: int) -> tuple[np.ndarray, float]:
    """(size + 1,) where the result's pixels begin and end along one side, in pixels of the image and cut to it; pixels in each."""
    scale = (before + extent + after) / size
    return np.clip(np.arange(size + 1) * scale - before, 0, extent), scale


def _touched(edges: np.ndarray, extent: int) -> slice:
    """The pixels of the result that show some of the image."""
    return slice(int(np.searchsorted(edges, 0, side="right")) - 1, int(np.searchsorted(edges, extent)))


def _between(sums: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(h + 1, ...) sums up to each whole row, (n + 1,) edges -> (n, ...) sums between the edges.

    Whole rows are subtracted as integers: as float32, sums over a large image would lose their last digits.
    """
    low = np.minimum(edges.astype(np.int64), len(sums) - 2)
    part = (edges - low).astype(np.float32).reshape(-1, *[1] * (sums.ndim - 1))
    whole = sums[low]
    part = part * (sums[low + 1] - whole)
    return np.diff(whole, axis=0) + np.diff(part, axis=0)
