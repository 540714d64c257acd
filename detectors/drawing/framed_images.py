"""Whole images: fitted to a side, below a line of text, several in a grid, and as bytes of a file.

All functions are pure and work on uint8 RGB arrays.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

import cv2
import numpy as np

CAPTION = 20  # pixels; height of the line of text above an image
TEXT_SCALE = 0.45  # OpenCV's font scale on an image of up to 1000 pixels
WHITE = (255, 255, 255)
BLACK = (0, 0, 0)


def fit_image(image: np.ndarray, side: int, *, enlarging: int = cv2.INTER_LINEAR) -> tuple[np.ndarray, float]:
    """(the image resized so that its longer side is `side` pixels, the factor to multiply its boxes by).

    enlarging: OpenCV's interpolation for an image that becomes larger.
    """
    factor = side / max(image.shape[:2])
    wh = [max(1, round(pixels * factor)) for pixels in image.shape[1::-1]]
    return cv2.resize(image, wh, interpolation=cv2.INTER_AREA if factor < 1 else enlarging), factor


def captioned(image: np.ndarray, text: str) -> np.ndarray:
    """The image below a line of text, white on black. A text that is too long loses its beginning."""
    canvas = np.concatenate([np.zeros((CAPTION, *image.shape[1:]), np.uint8), image])
    room = image.shape[1] - 4
    while len(text) > 4 and cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, TEXT_SCALE, 1)[0][0] > room:
        text = "..." + text[4:]
    cv2.putText(canvas, text, (2, CAPTION - 6), cv2.FONT_HERSHEY_SIMPLEX, TEXT_SCALE, WHITE, 1, cv2.LINE_AA)
    return canvas


def jpeg_address(image: np.ndarray, quality: int) -> str:
    """(H, W, 3) uint8 RGB -> a data: address of it as JPEG, for a page that holds its pictures itself."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg_bytes(image, quality)).decode()}"


def jpeg_bytes(image: np.ndarray, quality: int) -> bytes:
    """(H, W, 3) uint8 RGB -> the content of a .jpg file."""
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def png_bytes(image: np.ndarray) -> bytes:
    """(H, W, 3) uint8 RGB -> the content of a .png file."""
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


def image_grid(images: Sequence[np.ndarray], columns: int, gap: int = 4) -> np.ndarray:
    """Images of any sizes, row by row on black, `gap` pixels apart.

    Every cell is as large as the largest image; each image is at the top left of its cell.
    images: at least one, (H, W, 3) uint8. ValueError: no image, or columns < 1.
    """
    if not images or columns < 1:
        counts = f"{len(images)} images, {columns} columns"
        raise ValueError(f"image_grid() needs at least one image and one column, got {counts}")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height = max(image.shape[0] for image in images) + gap
    width = max(image.shape[1] for image in images) + gap
    canvas = np.zeros((rows * height - gap, columns * width - gap, 3), np.uint8)
    for n, image in enumerate(images):
        y = n // columns * height
        x = n % columns * width
        canvas[y : y + image.shape[0], x : x + image.shape[1]] = image
    return canvas
