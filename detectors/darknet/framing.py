"""Darknet's own resizing (src/image.c), by which its scores are reproduced: bilinear with aligned corners, without anti-aliasing.

Images here are (C, H, W) float32 from 0 to 1. All arithmetic is float32 in Darknet's order.
"""

from __future__ import annotations

import numpy as np

from detectors.structures import ImageInfo

DARKNET_GREY = np.float32(0.5)


def to_unit(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (3, H, W) float32 from 0 to 1."""
    table = (np.arange(256) / 255).astype(np.float32)
    return np.ascontiguousarray(table[image].transpose(2, 0, 1))


def darknet_resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """resize_image: (C, H, W) -> (C, height, width), the aspect ratio ignored. size: (height, width).

    Darknet's last row takes its upper neighbour alone. That is the image's last row with all the weight, unless rounding puts the place
    just above it (3 rows to 42): then the row comes out black.
    """
    low, high, part = _places(image.shape[2], size[1])
    wide = (1 - part) * image[:, :, low] + part * image[:, :, high]  # (C, H, width)
    wide[:, :, -1] = image[:, :, -1]
    if image.shape[2] == 1:
        wide[:] = image
    low, high, part = _places(image.shape[1], size[0])
    part = part[:, None]
    out = (1 - part) * wide[:, low]  # (C, height, width)
    if image.shape[1] > 1:
        out[:, :-1] += (part * wide[:, high])[:, :-1]
    return out


def _places(source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `target` pixels: its two neighbours among `source` pixels, and the float32 weight of the second."""
    scale = np.float32(source - 1) / np.float32(max(target - 1, 1))
    place = np.arange(target, dtype=np.float32) * scale
    low = np.minimum(place.astype(np.int64), source - 1)
    return low, np.minimum(low + 1, source - 1), place - low.astype(np.float32)


def darknet_letterbox(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """letterbox_image: (C, H, W) -> (C, height, width), the aspect ratio kept, grey around it. size: (height, width)."""
    rows, columns = letterbox_size(image.shape[1:], size)
    canvas = np.full((len(image), *size), DARKNET_GREY)
    top, left = (size[0] - rows) // 2, (size[1] - columns) // 2
    canvas[:, top : top + rows, left : left + columns] = darknet_resize(image, (rows, columns))
    return canvas


def letterbox_size(image_size: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of an image within its letterbox of `size`. ValueError for an image so narrow that nothing of it would be left."""
    (height, width), (rows, columns) = image_size, size
    if np.float32(columns) / np.float32(width) < np.float32(rows) / np.float32(height):
        found = (height * columns // width, columns)
    else:
        found = (rows, width * rows // height)
    if min(found) < 1:
        raise ValueError(
            f"an image of {width} x {height} pixels has no room in a letterbox of {columns} x {rows}; use stretch, or cut it"
        )
    return found


def frame(image_size: tuple[int, int], size: tuple[int, int], resize: str) -> ImageInfo:
    """How letterbox or resize ("stretch") puts an image into the network's frame; to_original undoes it as correct_region_boxes does.

    As there, the letterbox is taken to begin at the exact half of the free space, although the image lies at the whole number below it.
    """
    inside = letterbox_size(image_size, size) if resize == "letterbox" else size
    scale_xy = (inside[1] / image_size[1], inside[0] / image_size[0])
    shift_xy = ((size[1] - inside[1]) / 2, (size[0] - inside[0]) / 2)
    return ImageInfo(0, "", "", tuple(image_size), scale_xy, shift_xy)
