"""Darknet's resizing (src/image.c), to reproduce its scores: bilinear, aligned corners, no anti-aliasing.

Images are (C, H, W) float32 in 0..1. All arithmetic is float32, in Darknet's order.
"""

from __future__ import annotations

import numpy as np

from detectors.structures import ImageInfo

DARKNET_GREY = np.float32(0.5)


def to_unit(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (3, H, W) float32 in 0..1."""
    table = (np.arange(256) / 255).astype(np.float32)
    return np.ascontiguousarray(table[image].transpose(2, 0, 1))


def darknet_resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """resize_image: (C, H, W) -> (C, height, width), aspect ratio not kept. size: (height, width).

    Darknet computes the last row from its upper neighbour only. This is the image's last row with weight 1,
    unless rounding puts the position just above it (3 rows to 42): then the row is black.
    """
    low, high, weight = _neighbours(image.shape[2], size[1])
    wide = (1 - weight) * image[:, :, low] + weight * image[:, :, high]  # (C, H, width)
    wide[:, :, -1] = image[:, :, -1]
    if image.shape[2] == 1:
        wide[:] = image
    low, high, weight = _neighbours(image.shape[1], size[0])
    weight = weight[:, None]
    out = (1 - weight) * wide[:, low]  # (C, height, width)
    if image.shape[1] > 1:
        out[:, :-1] += (weight * wide[:, high])[:, :-1]
    return out


def _neighbours(source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each of `target` pixels' two neighbours among `source` pixels, and the float32 weight of the second."""
    scale = np.float32(source - 1) / np.float32(max(target - 1, 1))
    position = np.arange(target, dtype=np.float32) * scale
    low = np.minimum(position.astype(np.int64), source - 1)
    return low, np.minimum(low + 1, source - 1), position - low.astype(np.float32)


def darknet_letterbox(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """letterbox_image: (C, H, W) -> (C, height, width), aspect kept, grey padding. size: (height, width)."""
    rows, columns = letterbox_size(image.shape[1:], size)
    canvas = np.full((len(image), *size), DARKNET_GREY)
    top = (size[0] - rows) // 2
    left = (size[1] - columns) // 2
    canvas[:, top : top + rows, left : left + columns] = darknet_resize(image, (rows, columns))
    return canvas


def letterbox_size(image_size: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of an image inside a letterbox of `size`. ValueError if one of them would be 0."""
    height, width = image_size
    rows, columns = size
    if np.float32(columns) / np.float32(width) < np.float32(rows) / np.float32(height):
        inner_size = (height * columns // width, columns)
    else:
        inner_size = (rows, width * rows // height)
    if min(inner_size) < 1:
        raise ValueError(
            f"an image of {width} x {height} pixels has no room in a letterbox of {columns} x {rows}; "
            "use stretch, or crop it"
        )
    return inner_size


def frame(image_size: tuple[int, int], size: tuple[int, int], resize: str) -> ImageInfo:
    """Scale and shift of an image in the network's input, with resize="letterbox" or "stretch".

    to_original inverts them as Darknet's correct_region_boxes does: a letterbox is shifted by exactly half of
    the free space, although the image is placed at that number rounded down.
    """
    inner_size = letterbox_size(image_size, size) if resize == "letterbox" else size
    scale_xy = (inner_size[1] / image_size[1], inner_size[0] / image_size[0])
    shift_xy = ((size[1] - inner_size[1]) / 2, (size[0] - inner_size[0]) / 2)

    return ImageInfo(0, "", "", (image_size[0], image_size[1]), scale_xy, shift_xy)
