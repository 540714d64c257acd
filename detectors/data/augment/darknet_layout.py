"""Darknet's augmentation, from random draws to the model's input.

Two layouts: placement on grey (since June 2017) and crop jitter (2016), each with HSV changes and a flip.
Follows load_data_detection of src/data.c, commits f6afaab and c6afc7ff. Images are uint8: the result of every
step is rounded to whole levels, where Darknet keeps fractions. The tests compare with
detectors/commands/verify/darknet_augment.py, which does not round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from detectors.data.augment.fitting import GREY  # Darknet's .5 is 127.5; 127 is also the letterbox's grey
from detectors.data.augment.photometric import Shade, draw_shade, shade

DARKNET_MIN_SIDE = 0.001  # of the model's input; thinner boxes are dropped


@dataclass(frozen=True)
class _DarknetLayout:
    jitter: float  # share of the image's sides
    hue: float  # turns
    saturation: float  # largest factor
    exposure: float  # largest factor
    max_boxes: int  # per image; `max` of the cfg's region layer

    def _draw_shade(self, generator: np.random.Generator) -> Shade:
        return draw_shade(generator, hue=self.hue, saturation=self.saturation, exposure=self.exposure)

    def _move_boxes(
        self,
        boxes: np.ndarray,
        scale: np.ndarray,
        shift: np.ndarray,
        *,
        order: np.ndarray,
        flip: bool,
        size: tuple[int, int],
    ) -> tuple[np.ndarray, np.ndarray]:
        """(n, 4) xyxy -> ((m, 4) xyxy pixels of the model input, their rows (m,)).

        A box becomes box * scale + shift, flipped if `flip`, and clipped to the input. As in Darknet's
        load_data_detection and correct_boxes, boxes are shuffled (`order`), because a later box wins an
        anchor; the first max_boxes of them count, and of those the thin ones are dropped. Unlike in YOLO9000,
        a centre at (0, 0) does not mark a label without a box.
        """
        rows = order[: self.max_boxes]
        boxes = boxes[rows] * np.tile(scale, 2) + np.tile(shift, 2)
        input_wh = np.array(size[::-1], dtype=np.float64)
        if flip:
            boxes[:, [0, 2]] = input_wh[0] - boxes[:, [2, 0]]
        boxes = boxes.clip(0, np.tile(input_wh, 2))
        wide = (boxes[:, 2:] - boxes[:, :2] >= DARKNET_MIN_SIDE * input_wh).all(1)
        return boxes[wide], rows[wide]


class PlacementDraws(NamedTuple):
    aspect: float  # width / height of the placed image
    place: tuple[float, float]  # (down, right), 0 to 1 between the two ends of the canvas
    shade: Shade
    flip: bool
    order: np.ndarray  # (n,) rows of the boxes, shuffled


class DarknetPlacement(_DarknetLayout):
    """Since June 2017: the image, with its aspect ratio jittered, is placed on grey.

    It fills the input in one direction and lies at a random place in the other. There is no zoom.
    """

    def draw(
        self, generator: np.random.Generator, size: tuple[int, int], boxes: np.ndarray
    ) -> PlacementDraws:
        """size: (height, width) of the image. Each side changes on its own by up to the share `jitter`."""
        changes = generator.uniform(-1, 1, 2).tolist()
        height, width = (
            side * (1 + self.jitter * change) for side, change in zip(size, changes, strict=True)
        )
        place = tuple(generator.random(2).tolist())
        flip = bool(generator.random() < 0.5)
        shade_draws = self._draw_shade(generator)
        order = generator.permutation(len(boxes))
        return PlacementDraws(width / height, place, shade_draws, flip, order)

    def image(self, image: np.ndarray, draws: PlacementDraws, size: tuple[int, int]) -> np.ndarray:
        """(h, w, 3) -> (H, W, 3) uint8 RGB.

        Darknet shades the whole canvas. Shading the image and one pixel of the grey gives the same.
        """
        (height, width), (down, right) = placed(draws, size)
        grey = shade(np.full((1, 1, 3), GREY, dtype=np.uint8), draws.shade).max()  # stays grey
        canvas = np.full((*size, 3), grey, dtype=np.uint8)
        extent = (max(1, int(height)), max(1, int(width)))
        put(canvas, shade(scaled(image, extent), draws.shade), (int(down), int(right)))
        return cv2.flip(canvas, 1) if draws.flip else canvas

    def boxes(
        self, boxes: np.ndarray, draws: PlacementDraws, original: tuple[int, int], size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """(n, 4) xyxy pixels of the original -> ((m, 4) xyxy pixels of the model input, their rows (m,)).

        As in Darknet, size and place of the image are truncated to whole pixels, those of the boxes are not.
        """
        extent, corner = (np.array(pair[::-1]) for pair in placed(draws, size))  # (x, y)
        scale = extent / original[::-1]
        return self._move_boxes(boxes, scale, corner, order=draws.order, flip=draws.flip, size=size)


def placed(draws: PlacementDraws, size: tuple[int, int]) -> tuple[tuple[float, float], tuple[float, float]]:
    """((height, width) of the placed image, (down, right) of its corner) in pixels of an input of `size`.

    Both are fractional. The image may be larger than an input that is not square; its corner is then
    negative.
    """
    height, width = size
    if draws.aspect < 1:
        extent = (float(height), height * draws.aspect)
    else:
        extent = (width / draws.aspect, float(width))
    down, right = (
        share * (whole - part) for share, whole, part in zip(draws.place, size, extent, strict=True)
    )
    return extent, (down, right)


def scaled(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """place_image's bilinear resize: pixel i of n is read at i * N / n of the N source pixels.

    Beyond the source it reads 0, so that the last row and column of an enlarged image fade.
    """
    height, width = image.shape[:2]
    rows, columns = size
    matrix = np.array([[width / columns, 0, 0], [0, height / rows, 0]])
    return cv2.warpAffine(
        image,
        matrix,
        (columns, rows),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
    )


def put(canvas: np.ndarray, image: np.ndarray, corner: tuple[int, int]) -> None:
    """Writes the image into the canvas, clipped, with its top left pixel at `corner` (row, column)."""
    row, column = corner
    height, width = image.shape[:2]
    inside = canvas[max(row, 0) : max(row + height, 0), max(column, 0) : max(column + width, 0)]
    top = max(-row, 0)
    left = max(-column, 0)
    inside[:] = image[top : top + inside.shape[0], left : left + inside.shape[1]]


class CropDraws(NamedTuple):
    # pixels of the original removed (above, below, left, right); negative: added
    edges: tuple[int, int, int, int]
    shade: Shade
    flip: bool
    order: np.ndarray  # (n,) rows of the boxes, shuffled


class DarknetCrop(_DarknetLayout):
    """2016: each edge moves in or out on its own, and the crop is stretched to the input.

    Beyond the image, its outermost pixels are repeated.
    """

    def draw(self, generator: np.random.Generator, size: tuple[int, int], boxes: np.ndarray) -> CropDraws:
        """size: (height, width) of the image. Each edge moves by up to the share `jitter` of the side."""
        largest = [int(side * self.jitter) for side in size for _ in range(2)]
        changes = generator.uniform(-1, 1, 4).tolist()
        above, below, left, right = (
            int(limit * change) for limit, change in zip(largest, changes, strict=True)
        )
        flip = bool(generator.random() < 0.5)
        edges = (above, below, left, right)
        return CropDraws(edges, self._draw_shade(generator), flip, generator.permutation(len(boxes)))

    def image(self, image: np.ndarray, draws: CropDraws, size: tuple[int, int]) -> np.ndarray:
        """(h, w, 3) -> (H, W, 3) uint8 RGB.

        Bilinear with aligned corners: the first and last pixels of the crop are those of the input.
        """
        (top, left), sides = cropped(draws, image.shape[:2])
        down, right = ((side - 1) / max(new - 1, 1) for side, new in zip(sides, size, strict=True))
        matrix = np.array([[right, 0, left], [0, down, top]])
        stretched = cv2.warpAffine(
            image,
            matrix,
            size[::-1],
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        result = shade(stretched, draws.shade)
        return cv2.flip(result, 1) if draws.flip else result

    def boxes(
        self, boxes: np.ndarray, draws: CropDraws, original: tuple[int, int], size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """(n, 4) xyxy pixels of the original -> ((m, 4) xyxy pixels of the model input, their rows (m,))."""
        (top, left), sides = cropped(draws, original)
        scale = np.divide(size, sides)[::-1]
        shift = -scale * [left, top]
        return self._move_boxes(boxes, scale, shift, order=draws.order, flip=draws.flip, size=size)


def cropped(draws: CropDraws, original: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """((row, column) of the crop's corner, its (height, width)) in pixels of the original; at least 1 x 1."""
    above, below, left, right = draws.edges
    return (above, left), (max(1, original[0] - above - below), max(1, original[1] - left - right))
