"""Darknet's augmentation from draws to the model's input: placement on grey (since June 2017), crop jitter (2016), each with HSV and flip.

load_data_detection of src/data.c, f6afaab and c6afc7ff. Images are uint8: every step's result is rounded to whole levels, where Darknet
keeps fractions; weights/darknet_augment.py is the page without rounding that the tests hold this one to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from detectors.data.augment.fitting import (
    GREY,
)  # Darknet's .5 is 127.5; the letterbox of the evaluation has 127, too
from detectors.data.augment.photometric import Shade, draw_shade, shade

DARKNET_MIN_SIDE = 0.001  # of the model's input; thinner truths are dropped


@dataclass(frozen=True)
class _DarknetLayout:
    jitter: float  # share of the image's sides
    hue: float  # turns
    saturation: float  # factor, at most
    exposure: float  # factor, at most
    max_boxes: int  # `max` of the cfg's region layer: truths of one image

    def _shade(self, generator: np.random.Generator) -> Shade:
        return draw_shade(generator, hue=self.hue, saturation=self.saturation, exposure=self.exposure)

    def _followed(
        self,
        boxes: np.ndarray,
        scale: np.ndarray,
        shift: np.ndarray,
        *,
        order: np.ndarray,
        flip: bool,
        size: tuple[int, int],
    ):
        """correct_boxes and what follows: (n, 4) xyxy -> x * scale + shift, mirrored, cut to the input; ((m, 4), their rows (m,)).

        Shuffled, since a later truth wins an anchor; the first max_boxes of them count, and of those only what is wide enough. A centre at
        (0, 0), by which YOLO9000 marks truths without a box, has no such meaning here.
        """
        rows = order[: self.max_boxes]
        boxes = boxes[rows] * np.tile(scale, 2) + np.tile(shift, 2)
        limits = np.array(size[::-1], dtype=np.float64)
        if flip:
            boxes[:, [0, 2]] = limits[0] - boxes[:, [2, 0]]
        boxes = boxes.clip(0, np.tile(limits, 2))
        wide = (boxes[:, 2:] - boxes[:, :2] >= DARKNET_MIN_SIDE * limits).all(1)
        return boxes[wide], rows[wide]


class PlacementDraws(NamedTuple):
    aspect: float  # width / height of the placed image
    place: tuple[float, float]  # 0 to 1 between the two ends of the canvas: (down, right)
    shade: Shade
    flip: bool
    order: np.ndarray  # (n,) of the truths


class DarknetPlacement(_DarknetLayout):
    """Since June 2017: the image, its aspect ratio jittered, fills the input one way and lies somewhere on grey the other way. No zoom."""

    def draw(
        self, generator: np.random.Generator, size: tuple[int, int], boxes: np.ndarray
    ) -> PlacementDraws:
        """size: (height, width) of the image, of which Darknet takes `jitter` off or adds it, each side on its own."""
        tall, wide = (
            side * (1 + self.jitter * change)
            for side, change in zip(size, generator.uniform(-1, 1, 2).tolist(), strict=True)
        )
        place, flip = tuple(generator.random(2).tolist()), bool(generator.random() < 0.5)
        return PlacementDraws(
            wide / tall, place, self._shade(generator), flip, generator.permutation(len(boxes))
        )

    def image(self, image: np.ndarray, draws: PlacementDraws, size: tuple[int, int]) -> np.ndarray:
        """(h, w, 3) -> (H, W, 3) uint8 RGB. Darknet shades the whole canvas: the same as the image and one pixel of the grey."""
        extent, corner = placed(draws, size)
        extent, corner = [max(1, int(side)) for side in extent], [int(place) for place in corner]
        grey = shade(np.full((1, 1, 3), GREY, dtype=np.uint8), draws.shade).max()  # stays grey
        canvas = np.full((*size, 3), grey, dtype=np.uint8)
        put(canvas, shade(scaled(image, extent), draws.shade), corner)
        return cv2.flip(canvas, 1) if draws.flip else canvas

    def boxes(
        self, boxes: np.ndarray, draws: PlacementDraws, original: tuple[int, int], size: tuple[int, int]
    ):
        """(n, 4) xyxy in pixels of the original -> ((m, 4) in pixels of the model's input, their rows (m,)).

        They follow the fractions of pixels that the image's place loses: it is cut to whole pixels, as in Darknet.
        """
        extent, corner = (np.array(pair[::-1]) for pair in placed(draws, size))
        return self._followed(
            boxes, extent / original[::-1], corner, order=draws.order, flip=draws.flip, size=size
        )


def placed(draws: PlacementDraws, size: tuple[int, int]) -> tuple[tuple[float, float], tuple[float, float]]:
    """((height, width) of the placed image, (down, right) of its corner) in pixels of an input of `size`, not yet whole numbers.

    Where an input is not square, the image may be larger than it; the corner is then negative.
    """
    height, width = size
    extent = (
        (float(height), height * draws.aspect) if draws.aspect < 1 else (width / draws.aspect, float(width))
    )
    return extent, tuple(
        share * (whole - part) for share, whole, part in zip(draws.place, size, extent, strict=True)
    )


def scaled(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """place_image's bilinear: pixel i of n is read at i * N / n of the N there are, 0 beyond them: an enlarged image's last ones fade."""
    (height, width), (rows, columns) = image.shape[:2], size
    matrix = np.array([[width / columns, 0, 0], [0, height / rows, 0]])
    return cv2.warpAffine(
        image,
        matrix,
        (columns, rows),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
    )


def put(canvas: np.ndarray, image: np.ndarray, corner: tuple[int, int]) -> None:
    """Writes an image into a canvas, its top left pixel at `corner` (row, column), as far as it is inside."""
    (row, column), (height, width) = corner, image.shape[:2]
    inside = canvas[max(row, 0) : max(row + height, 0), max(column, 0) : max(column + width, 0)]
    top, left = max(-row, 0), max(-column, 0)
    inside[:] = image[top : top + inside.shape[0], left : left + inside.shape[1]]


class CropDraws(NamedTuple):
    edges: tuple[
        int, int, int, int
    ]  # pixels of the original cut off (above, below, left, right); negative: added
    shade: Shade
    flip: bool
    order: np.ndarray  # (n,) of the truths


class DarknetCrop(_DarknetLayout):
    """2016: each edge moves in or out on its own, the outermost pixels are repeated, and what is left is stretched to the input."""

    def draw(self, generator: np.random.Generator, size: tuple[int, int], boxes: np.ndarray) -> CropDraws:
        limits = [int(side * self.jitter) for side in size for _ in range(2)]
        edges = tuple(
            int(limit * change)
            for limit, change in zip(limits, generator.uniform(-1, 1, 4).tolist(), strict=True)
        )
        flip = bool(generator.random() < 0.5)
        return CropDraws(edges, self._shade(generator), flip, generator.permutation(len(boxes)))

    def image(self, image: np.ndarray, draws: CropDraws, size: tuple[int, int]) -> np.ndarray:
        """(h, w, 3) -> (H, W, 3) uint8 RGB. Bilinear with aligned corners: the first and last pixels of the crop are those of the input."""
        (top, left), sides = cropped(draws, image.shape[:2])
        down, right = ((side - 1) / max(new - 1, 1) for side, new in zip(sides, size, strict=True))
        matrix, flags = np.array([[right, 0, left], [0, down, top]]), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        result = shade(
            cv2.warpAffine(image, matrix, size[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE),
            draws.shade,
        )
        return cv2.flip(result, 1) if draws.flip else result

    def boxes(self, boxes: np.ndarray, draws: CropDraws, original: tuple[int, int], size: tuple[int, int]):
        """(n, 4) xyxy in pixels of the original -> ((m, 4) in pixels of the model's input, their rows (m,))."""
        (top, left), sides = cropped(draws, original)
        scale = np.divide(size, sides)[::-1]
        return self._followed(
            boxes, scale, -scale * [left, top], order=draws.order, flip=draws.flip, size=size
        )


def cropped(draws: CropDraws, original: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """((row, column) of the crop's corner, its (height, width)) in pixels of the original; at least one pixel."""
    above, below, left, right = draws.edges
    return (above, left), (max(1, original[0] - above - below), max(1, original[1] - left - right))
