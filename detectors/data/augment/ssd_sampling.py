"""Which part of an image SSD's training sees, and its boxes there: expansion and the seven samplers.

Numbers only, no pixels. Follows Caffe's annotated_data_layer.cpp, sampler.cpp and bbox_util.cpp (branch ssd).
A window is (xmin, ymin, xmax, ymax) relative to the expanded image, from 0 to 1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

TRIALS = 50  # max_trials of each sampler
# IoU of the window with at least one object; the last sampler takes any window, if there is an object
MIN_IOU = np.array([0.1, 0.3, 0.5, 0.7, 0.9, -np.inf])
WHOLE_IMAGE = np.array([0.0, 0.0, 1.0, 1.0])  # the first sampler
WINDOW_SCALE = (0.3, 1.0)  # square root of a window's area
WINDOW_ASPECT = (0.5, 2.0)  # width / height, relative to the image's own
MAX_ZOOM = 1 / (WINDOW_SCALE[0] * WINDOW_ASPECT[0] ** 0.5)  # of the narrowest window


class Expansion(NamedTuple):
    """The image on a larger canvas, in pixels of the original."""

    size: tuple[int, int]  # (height, width) of the canvas
    top_left: tuple[int, int]  # (row, column) of the image on the canvas


def draw_expansion(
    generator: np.random.Generator, size: tuple[int, int], *, largest: float, probability: float
) -> Expansion:
    """With `probability` a canvas of 1 to `largest` times the image's sides, and a place on it.

    size: (height, width) of the image.
    """
    chosen, ratio, row, column = generator.random(4).tolist()
    if chosen >= probability:
        return Expansion(size, (0, 0))
    ratio = 1 + ratio * (largest - 1)
    height, width = (int(side * ratio) for side in size)
    return Expansion((height, width), (int(row * (height - size[0])), int(column * (width - size[1]))))


def expand_boxes(boxes: np.ndarray, expansion: Expansion) -> np.ndarray:
    """(n, 4) xyxy pixels of the original -> (n, 4) relative to the canvas."""
    (height, width), (top, left) = expansion
    return (boxes + np.array([left, top, left, top])) / [width, height, width, height]


def draw_window(generator: np.random.Generator, boxes: np.ndarray) -> np.ndarray:
    """(4,) the whole image or a window of one of the samplers, all with the same chance.

    A sampler's window is the first of its TRIALS whose IoU with any object is high enough; a sampler may have
    none. boxes: (n, 4) relative to the canvas.
    """
    windows = windows_from(generator.random((len(MIN_IOU), TRIALS, 4)))  # (6, 50, 4)
    choice = generator.random()
    if not len(boxes):
        return WHOLE_IMAGE
    good = window_iou(windows, boxes).max(-1) >= MIN_IOU[:, None]  # (6, 50)
    successful = np.flatnonzero(good.any(1))
    chosen = int(choice * (len(successful) + 1))
    if chosen == 0:
        return WHOLE_IMAGE
    sampler = successful[chosen - 1]
    return windows[sampler, good[sampler].argmax()]


def windows_from(draws: np.ndarray) -> np.ndarray:
    """(..., 4) numbers from 0 to 1 for scale, aspect, x and y -> (..., 4) windows.

    The aspect ratio is clipped so that neither side exceeds 1.
    """
    scale = WINDOW_SCALE[0] + draws[..., 0] * (WINDOW_SCALE[1] - WINDOW_SCALE[0])
    aspect = WINDOW_ASPECT[0] + draws[..., 1] * (WINDOW_ASPECT[1] - WINDOW_ASPECT[0])
    root = np.sqrt(np.minimum(np.maximum(aspect, scale**2), 1 / scale**2))
    width = np.minimum(scale * root, 1)
    height = np.minimum(scale / root, 1)
    x = draws[..., 2] * (1 - width)
    y = draws[..., 3] * (1 - height)
    return np.stack([x, y, x + width, y + height], -1)


def window_iou(windows: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(..., 4), (n, 4) -> (..., n) IoU.

    In relative coordinates, as in Caffe; a ratio of areas is the same in pixels.
    """
    xmin, ymin, xmax, ymax = boxes.T  # (n,) each
    x0, y0, x1, y1 = (windows[..., i, None] for i in range(4))  # (..., 1) each
    overlap_width = np.maximum(np.minimum(x1, xmax) - np.maximum(x0, xmin), 0)
    overlap_height = np.maximum(np.minimum(y1, ymax) - np.maximum(y0, ymin), 0)
    overlap = overlap_width * overlap_height
    return overlap / ((x1 - x0) * (y1 - y0) + (xmax - xmin) * (ymax - ymin) - overlap)


def project_boxes(boxes: np.ndarray, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, 4) relative to the canvas -> ((m, 4) relative to the window and clipped to it, their rows (m,)).

    A box is kept if its centre is in the window, borders included, and some of its area is.
    """
    low = window[:2]
    sides = window[2:] - window[:2]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((centres >= low) & (centres <= window[2:])).all(1)
    projected = ((boxes.reshape(-1, 2, 2) - low) / sides).clip(0, 1).reshape(-1, 4)
    rows = np.flatnonzero(inside & (projected[:, 2:] > projected[:, :2]).all(1))
    return projected[rows], rows


def pixels_of(window: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(row, column, height, width) in pixels of a window on a canvas of `size` (height, width).

    Corner and sides are truncated to whole pixels. The pixels may thus begin and end a fraction of a pixel
    before the window; boxes follow the window. Each side is at least one pixel: in Caffe, a window on a
    canvas of three pixels can be empty and end the training.
    """
    height, width = size
    x0, y0, x1, y1 = (window * [width, height, width, height]).tolist()
    row = min(int(y0), height - 1)
    column = min(int(x0), width - 1)
    rows = min(max(int(y1 - y0), 1), height - row)
    columns = min(max(int(x1 - x0), 1), width - column)
    return row, column, rows, columns
