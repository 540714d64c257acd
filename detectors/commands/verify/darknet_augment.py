"""Darknet's augmentation of training images and labels, after src/image.c and src/data.c of f6afaab.

Images are (C, H, W) float32 in 0..1. Training does not use these functions: they are the reference for
data/augment.
"""

from __future__ import annotations

import numpy as np

from detectors.darknet.framing import DARKNET_GREY

CLASS_ONLY = 999999.0  # all four numbers of a label whose class is known but not its box (YOLO9000)


def place(
    image: np.ndarray, canvas_size: tuple[int, int], size: tuple[float, float], corner: tuple[float, float]
) -> np.ndarray:
    """place_image on a grey canvas: the image, resized to `size`, with its top left pixel at `corner`.

    All pairs are (vertical, horizontal), in pixels, and truncated to whole numbers as in C. The resizing is
    bilinear. Outside of the image the source is 0, so the last row and column of an enlarged image fade.
    """
    rows = int(size[0])
    columns = int(size[1])
    top = int(corner[0])  # may be negative
    left = int(corner[1])
    y = _source_coordinates(rows, image.shape[1])
    x = _source_coordinates(columns, image.shape[2])
    resized = _bilinear(image, y, x)
    canvas = np.full((len(image), *canvas_size), DARKNET_GREY)
    canvas_rows, source_rows = _overlap(top, rows, canvas_size[0])
    canvas_columns, source_columns = _overlap(left, columns, canvas_size[1])
    canvas[:, canvas_rows, canvas_columns] = resized[:, source_rows, source_columns]
    return canvas


def _overlap(start: int, length: int, canvas_length: int) -> tuple[slice, slice]:
    """The overlap of an image at start..start + length with the canvas: in the canvas, and in the image."""
    first = max(start, 0)
    end = max(0, min(start + length, canvas_length))
    return slice(first, end), slice(first - start, max(first, end) - start)


def _source_coordinates(target: int, source: int) -> np.ndarray:
    """(target,) float32: the source coordinate that each target pixel is read from."""
    return np.arange(target, dtype=np.float32) / np.float32(max(target, 1)) * np.float32(source)


def _bilinear(image: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(C, H, W) sampled at y (rows,) and x (columns,) -> (C, rows, columns). The image is 0 outside."""
    padded = np.pad(image, ((0, 0), (0, 1), (0, 1)))
    top = np.floor(y).astype(np.int64)
    left = np.floor(x).astype(np.int64)
    down = (y - top.astype(np.float32))[:, None]
    right = x - left.astype(np.float32)
    corner = lambda i, j: padded[:, (top + i)[:, None], left + j]  # noqa: E731
    upper = (1 - down) * (1 - right) * corner(0, 0) + down * (1 - right) * corner(1, 0)
    return upper + (1 - down) * right * corner(0, 1) + down * right * corner(1, 1)


def darknet_distort(image: np.ndarray, *, hue: float, saturation: float, exposure: float) -> np.ndarray:
    """distort_image: (3, H, W) RGB -> the same, clipped to 0..1.

    hue: added, in turns. saturation, exposure: factors of the saturation and the value.
    """
    hues, saturations, values = _to_hsv(image)
    hues = hues + np.float32(hue)
    hues = np.where(hues > 1, hues - 1, hues)
    hues = np.where(hues < 0, hues + 1, hues)
    distorted = _to_rgb(hues, saturations * np.float32(saturation), values * np.float32(exposure))
    return np.clip(distorted, 0, 1)


def _to_hsv(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(3, H, W) RGB -> hue in turns, saturation and value, each (H, W). The hue of grey is 0."""
    red, green, blue = image
    high = image.max(0)
    low = image.min(0)
    delta = high - low
    safe = np.where(delta > 0, delta, 1)
    sector = np.where(
        red == high,
        (green - blue) / safe,
        np.where(green == high, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sector = np.where(sector < 0, sector + 6, sector)
    return (sector / np.float32(6)).astype(np.float32), delta / np.where(high > 0, high, 1), high


def _to_rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """The inverse of _to_hsv."""
    sector = 6 * hue
    index = np.floor(sector).astype(np.int64)
    fraction = (sector - index).astype(np.float32)
    low = value * (1 - saturation)
    fall = value * (1 - saturation * fraction)
    rise = value * (1 - saturation * (1 - fraction))
    wheel = np.stack([
        np.stack([value, rise, low]), np.stack([fall, value, low]), np.stack([low, value, rise]),
        np.stack([low, fall, value]), np.stack([rise, low, value]), np.stack([value, low, fall]),
    ])  # (6, 3, H, W)  # fmt: skip
    return np.take_along_axis(wheel, np.clip(index, 0, 5)[None, None], 0)[0].astype(np.float32)


def correct_boxes(
    labels: np.ndarray, *, shift: tuple[float, float], scale: tuple[float, float], flip: bool
) -> np.ndarray:
    """(n, 4) cx, cy, w, h relative to the source -> the same relative to the augmented image, clipped to it.

    Each edge moves to edge * scale - shift, where shift and scale are (x, y), and is then mirrored if `flip`.
    A label with its centre at (0, 0) becomes CLASS_ONLY in all four numbers.
    """
    labels = np.asarray(labels, np.float32)
    scale_xy = np.asarray(scale, np.float32)
    shift_xy = np.asarray(shift, np.float32)
    centre = labels[:, :2]
    half = labels[:, 2:] / 2
    low = (centre - half) * scale_xy - shift_xy  # (n, 2) left, top
    high = (centre + half) * scale_xy - shift_xy  # (n, 2) right, bottom
    if flip:
        low[:, 0], high[:, 0] = 1 - high[:, 0], 1 - low[:, 0]
    low = low.clip(0, 1)
    high = high.clip(0, 1)
    corrected = np.concatenate([(low + high) / 2, (high - low).clip(0, 1)], 1)
    corrected[(centre == 0).all(1)] = CLASS_ONLY
    return corrected
