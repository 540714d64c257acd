"""SSD's augmentation, from random draws to the model's input.

Colours, expansion, one of seven crops, one of five interpolations, mirror. Caffe applies them to whole
images, one after the other. Here all random numbers are drawn first, and then only those pixels of the
original are changed that the crop shows. The result has the same bytes
(tests/data/augment/test_ssd_layout.py), because colours change pixel by pixel. One thing is left out: Caffe
passes its images on as JPEGs (quality 95) from distortion to expansion, crop and resize.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from detectors.data.augment.area_resize import resize_on_canvas
from detectors.data.augment.photometric import Distortion, distort, draw_distortion
from detectors.data.augment.ssd_sampling import (
    Expansion,
    draw_expansion,
    draw_window,
    expand_boxes,
    pixels_of,
    project_boxes,
)

MEAN_RGB = (123, 117, 104)  # the mean that Caffe subtracts: the canvas becomes 0
WIDE = 4.5  # canvas area over image area from which on cv2.INTER_AREA is slower than area_resize.py
INTERPOLATIONS = (cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_NEAREST, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)


class SSDDraws(NamedTuple):
    distortion: Distortion
    expansion: Expansion
    window: np.ndarray  # (4,) relative to the expanded image
    interpolation: int  # one of INTERPOLATIONS
    mirror: bool


@dataclass(frozen=True)
class SSDLayout:
    """A Layout (see albumentations_steps.py)."""

    brightness: float  # levels
    contrast: float  # factor from 1 - x to 1 + x
    saturation: float  # factor from 1 - x to 1 + x
    hue: float  # of 180
    expand: float  # largest canvas, in sides of the image
    colour_last: bool  # colours after the resize: faster, but not Caffe's order

    def draw(self, generator: np.random.Generator, size: tuple[int, int], boxes: np.ndarray) -> SSDDraws:
        """size: (height, width) of the image; boxes: (n, 4) xyxy in its pixels."""
        distortion = draw_distortion(
            generator,
            brightness=self.brightness,
            contrast=self.contrast,
            saturation=self.saturation,
            hue=self.hue,
            probability=0.5,
        )
        expansion = draw_expansion(generator, size, largest=self.expand, probability=0.5)
        window = draw_window(generator, expand_boxes(boxes, expansion))
        choice, mirror = generator.random(2).tolist()
        interpolation = INTERPOLATIONS[int(choice * len(INTERPOLATIONS))]
        return SSDDraws(distortion, expansion, window, interpolation, mirror < 0.5)

    def image(self, image: np.ndarray, draws: SSDDraws, size: tuple[int, int]) -> np.ndarray:
        """(h, w, 3) -> (H, W, 3) uint8 RGB; size: (height, width) of the model input."""
        crop = Crop.of(draws)
        visible = crop.visible(image)
        borders = crop.borders(visible)
        if not visible.size:
            result = np.full((*size, 3), MEAN_RGB, dtype=np.uint8)
        elif draws.interpolation == cv2.INTER_NEAREST or self.colour_last:
            result = _resize_then_distort(visible, borders, size, draws)
        else:
            result = _resize(distort(visible, draws.distortion), borders, size, draws.interpolation)
        return cv2.flip(result, 1) if draws.mirror else result

    def boxes(
        self, boxes: np.ndarray, draws: SSDDraws, original: tuple[int, int], size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """(n, 4) xyxy pixels of the original -> ((m, 4) xyxy pixels of the model input, their rows (m,))."""
        boxes, rows = project_boxes(expand_boxes(boxes, draws.expansion), draws.window)
        if draws.mirror:
            boxes = np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], 1)
        return boxes * np.tile(size[::-1], 2), rows


class Crop(NamedTuple):
    """The crop in pixels of the original image. It may extend beyond the image on all sides."""

    top: int
    left: int
    height: int
    width: int

    @classmethod
    def of(cls, draws: SSDDraws) -> Crop:
        top, left, height, width = pixels_of(draws.window, draws.expansion.size)
        return cls(top - draws.expansion.top_left[0], left - draws.expansion.top_left[1], height, width)

    def visible(self, image: np.ndarray) -> np.ndarray:
        """The part of the image inside the crop; a view."""
        rows = slice(max(self.top, 0), max(self.top + self.height, 0))
        columns = slice(max(self.left, 0), max(self.left + self.width, 0))
        return image[rows, columns]

    def borders(self, visible: np.ndarray) -> tuple[int, int, int, int]:
        """Pixels of canvas above, below, left and right of the visible part."""
        above = max(-self.top, 0)
        before = max(-self.left, 0)
        below = self.height - above - visible.shape[0]
        after = self.width - before - visible.shape[1]
        return above, below, before, after


def _add_borders(image: np.ndarray, borders: tuple[int, int, int, int]) -> np.ndarray:
    return cv2.copyMakeBorder(image, *borders, cv2.BORDER_CONSTANT, value=MEAN_RGB) if any(borders) else image


def _resize(
    visible: np.ndarray, borders: tuple[int, int, int, int], size: tuple[int, int], interpolation: int
) -> np.ndarray:
    """The visible part with its borders (above, below, left, right) -> (H, W, 3)."""
    height = visible.shape[0] + sum(borders[:2])
    width = visible.shape[1] + sum(borders[2:])
    wide = height * width > WIDE * visible.shape[0] * visible.shape[1]
    shrunk = height >= size[0] and width >= size[1]
    if interpolation == cv2.INTER_AREA and wide and shrunk:
        return resize_on_canvas(visible, borders, size, MEAN_RGB)
    return cv2.resize(_add_borders(visible, borders), size[::-1], interpolation=interpolation)


def _resize_then_distort(
    visible: np.ndarray, borders: tuple[int, int, int, int], size: tuple[int, int], draws: SSDDraws
) -> np.ndarray:
    """Distorts after the resize, only the pixels that show the image.

    For cv2.INTER_NEAREST the order makes no difference, because it copies whole pixels.
    """
    result = _resize(visible, borders, size, draws.interpolation)
    above, below, left, right = borders
    height, width = visible.shape[:2]
    rows = _showing_image(size[0], above, height, height + above + below)
    columns = _showing_image(size[1], left, width, width + left + right)
    if result[rows, columns].size:
        result[rows, columns] = distort(result[rows, columns], draws.distortion)
    return result


def _showing_image(size: int, before: int, extent: int, whole: int) -> slice:
    """The rows (or columns) of a result of `size` that cv2.INTER_NEAREST copies from the image.

    The image is the `extent` rows after the first `before` of `whole`.
    """
    # in OpenCV's own order of operations: the last bit of a quotient decides at whole numbers
    source = np.floor(np.arange(size) * (1 / (size / whole)))
    return slice(*np.searchsorted(source, [before, before + extent]).tolist())
