"""Darknet's augmentation of training images and labels, number by number (src/image.c, src/data.c of
f6afaab).

Images here are (C, H, W) float32 from 0 to 1. Our own training uses data/transforms.py; this page is what it
is compared with.
"""

from __future__ import annotations

import numpy as np

from detectors.darknet.framing import DARKNET_GREY

CLASS_ONLY = 999999.0  # what a label at (0, 0) becomes: "the class is known, the box is not" (YOLO9000)


def place(
    image: np.ndarray, canvas_size: tuple[int, int], size: tuple[float, float], corner: tuple[float, float]
) -> np.ndarray:
    """place_image on a grey canvas: the image, enlarged or shrunk to `size`, with its top left pixel at
    `corner`.

    All pairs are (vertical, horizontal) and cut to whole numbers, as C does. Bilinear; the source counts as 0
    outside, so that the last row and column of an enlarged image fade.
    """
    rows = int(size[0])
    columns = int(size[1])
    canvas = np.full((len(image), *canvas_size), DARKNET_GREY)
    y = _places(rows, image.shape[1])
    x = _places(columns, image.shape[2])
    values = _bilinear(image, y, x)
    top = int(corner[0])
    left = int(corner[1])  # may be negative
    inside = tuple(
        slice(max(low, 0), max(0, min(low + n, m)))
        for low, n, m in zip((top, left), (rows, columns), canvas_size, strict=True)
    )
    source = tuple(
        slice(part.start - low, max(part.start, part.stop) - low)
        for part, low in zip(inside, (top, left), strict=True)
    )
    canvas[:, inside[0], inside[1]] = values[:, source[0], source[1]]
    return canvas


def _places(target: int, source: int) -> np.ndarray:
    """(target,) float32: where in the source each pixel is read."""
    return np.arange(target, dtype=np.float32) / np.float32(max(target, 1)) * np.float32(source)


def _bilinear(image: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(C, H, W) read at every pair of y and x; 0 outside."""
    padded = np.pad(image, ((0, 0), (0, 1), (0, 1)))
    top = np.floor(y).astype(np.int64)
    left = np.floor(x).astype(np.int64)
    down = (y - top.astype(np.float32))[:, None]
    right = x - left.astype(np.float32)
    corner = lambda i, j: padded[:, (top + i)[:, None], left + j]  # noqa: E731
    upper = (1 - down) * (1 - right) * corner(0, 0) + down * (1 - right) * corner(1, 0)
    return upper + (1 - down) * right * corner(0, 1) + down * right * corner(1, 1)


def darknet_distort(image: np.ndarray, *, hue: float, saturation: float, exposure: float) -> np.ndarray:
    """distort_image: (3, H, W) RGB; `hue` in turns is added, saturation and value are multiplied; the result
    is cut to 0..1.
    """
    turn, chroma, value = _to_hsv(image)
    turn = turn + np.float32(hue)
    turn = np.where(turn > 1, turn - 1, turn)
    turn = np.where(turn < 0, turn + 1, turn)
    return np.clip(_to_rgb(turn, chroma * np.float32(saturation), value * np.float32(exposure)), 0, 1)


def _to_hsv(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hue in turns, saturation, value; the hue of grey is 0 and does not matter."""
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


def _to_rgb(turn: np.ndarray, chroma: np.ndarray, value: np.ndarray) -> np.ndarray:
    sector = 6 * turn
    index = np.floor(sector).astype(np.int64)
    part = (sector - index).astype(np.float32)
    low = value * (1 - chroma)
    fall = value * (1 - chroma * part)
    rise = value * (1 - chroma * (1 - part))
    wheel = np.stack([
        np.stack([value, rise, low]), np.stack([fall, value, low]), np.stack([low, value, rise]),
        np.stack([low, fall, value]), np.stack([rise, low, value]), np.stack([value, low, fall]),
    ])  # (6, 3, H, W)  # fmt: skip
    return np.take_along_axis(wheel, np.clip(index, 0, 5)[None, None], 0)[0].astype(np.float32)


def correct_boxes(
    labels: np.ndarray, *, shift: tuple[float, float], scale: tuple[float, float], flip: bool
) -> np.ndarray:
    """(n, 4) x, y, w, h relative to the source -> the same relative to the augmented image, cut to it. shift,
    scale: (x, y).

    edge -> edge * scale - shift, mirrored if asked. A label at (0, 0) becomes 999999 in all four.
    """
    labels, shift, scale = (np.asarray(a, np.float32) for a in (labels, shift, scale))
    centre = labels[:, :2]
    half = labels[:, 2:] / 2
    low = (centre - half) * scale - shift
    high = (centre + half) * scale - shift  # (n, 2)
    if flip:
        low[:, 0], high[:, 0] = 1 - high[:, 0], 1 - low[:, 0]
    low = low.clip(0, 1)
    high = high.clip(0, 1)
    corrected = np.concatenate([(low + high) / 2, (high - low).clip(0, 1)], 1)
    corrected[(centre == 0).all(1)] = CLASS_ONLY
    return corrected
