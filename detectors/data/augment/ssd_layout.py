"""SSD's augmentation from draws to the model's input: colours, expansion, one of seven crops, one of five interpolations, mirror.

Caffe does them one after the other on whole images. Here all draws come first; then only those pixels of the original are touched that the
crop will show. The result has the same bytes (tests/data/test_ssd_layout.py), because colours are changed pixel by pixel. One thing is
left out: Caffe hands its images on as JPEGs (quality 95) from distortion to expansion, crop and resize.
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

MEAN_RGB = (123, 117, 104)  # what Caffe subtracts; on the canvas it becomes 0
WIDE = 4.5  # times the image: from such a canvas on, cv2.INTER_AREA is slower than data/area_resize.py
INTERPOLATIONS = (cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_NEAREST, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)


class SSDDraws(NamedTuple):
    distortion: Distortion
    expansion: Expansion
    window: np.ndarray  # (4,) relative to the expanded image
    interpolation: int  # one of INTERPOLATIONS
    mirror: bool


@dataclass(frozen=True)
class SSDLayout:
    """A Layout (data/transforms.py)."""

    brightness: float  # levels
    contrast: float  # factor from 1 - x to 1 + x
    saturation: float  # the same
    hue: float  # of 180
    expand: float  # largest canvas, in sides of the image
    colour_last: bool  # after the resize: quicker, not Caffe's order

    def draw(self, generator: np.random.Generator, size: tuple[int, int], boxes: np.ndarray) -> SSDDraws:
        """size: (height, width) of the image; boxes: (n, 4) xyxy in its pixels."""
        colours = {
            "brightness": self.brightness,
            "contrast": self.contrast,
            "saturation": self.saturation,
            "hue": self.hue,
        }
        distortion = draw_distortion(generator, **colours, probability=0.5)
        expansion = draw_expansion(generator, size, largest=self.expand, probability=0.5)
        window = draw_window(generator, expand_boxes(boxes, expansion))
        interpolation, mirror = generator.random(2).tolist()
        return SSDDraws(
            distortion,
            expansion,
            window,
            INTERPOLATIONS[int(interpolation * len(INTERPOLATIONS))],
            mirror < 0.5,
        )

    def image(self, image: np.ndarray, draws: SSDDraws, size: tuple[int, int]) -> np.ndarray:
        """(h, w, 3) -> (H, W, 3) uint8 RGB; size: (height, width) of the model's input."""
        crop = Crop.of(draws)
        seen = crop.seen(image)
        borders = crop.borders(seen)
        if not seen.size:
            result = np.full((*size, 3), MEAN_RGB, dtype=np.uint8)
        elif draws.interpolation == cv2.INTER_NEAREST or self.colour_last:
            result = _coloured_last(seen, borders, size, draws)
        else:
            result = _resized(distort(seen, draws.distortion), borders, size, draws.interpolation)
        return cv2.flip(result, 1) if draws.mirror else result

    def boxes(
        self, boxes: np.ndarray, draws: SSDDraws, original: tuple[int, int], size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """(n, 4) xyxy in pixels of the original -> ((m, 4) in pixels of the model's input, their rows (m,))."""
        boxes, rows = project_boxes(expand_boxes(boxes, draws.expansion), draws.window)
        if draws.mirror:
            boxes = np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], 1)
        return boxes * np.tile(size[::-1], 2), rows


class Crop(NamedTuple):
    """Pixels of the original; it may reach out of it on all sides."""

    top: int
    left: int
    height: int
    width: int

    @classmethod
    def of(cls, draws: SSDDraws) -> Crop:
        top, left, height, width = pixels_of(draws.window, draws.expansion.size)
        return cls(top - draws.expansion.top_left[0], left - draws.expansion.top_left[1], height, width)

    def seen(self, image: np.ndarray) -> np.ndarray:
        """The part of the image that it shows."""
        rows, columns = (
            slice(max(low, 0), max(low + n, 0))
            for low, n in ((self.top, self.height), (self.left, self.width))
        )
        return image[rows, columns]

    def borders(self, seen: np.ndarray) -> tuple[int, int, int, int]:
        """Pixels of the canvas above, below, left and right of that part."""
        above, before = max(-self.top, 0), max(-self.left, 0)
        return above, self.height - above - seen.shape[0], before, self.width - before - seen.shape[1]


def _bordered(image: np.ndarray, borders: tuple[int, int, int, int]) -> np.ndarray:
    return cv2.copyMakeBorder(image, *borders, cv2.BORDER_CONSTANT, value=MEAN_RGB) if any(borders) else image


def _resized(
    seen: np.ndarray, borders: tuple[int, int, int, int], size: tuple[int, int], interpolation: int
) -> np.ndarray:
    height, width = seen.shape[0] + sum(borders[:2]), seen.shape[1] + sum(borders[2:])
    wide = height * width > WIDE * seen.shape[0] * seen.shape[1] and height >= size[0] and width >= size[1]
    if interpolation == cv2.INTER_AREA and wide:
        return resize_on_canvas(seen, borders, size, MEAN_RGB)
    return cv2.resize(_bordered(seen, borders), size[::-1], interpolation=interpolation)


def _coloured_last(
    seen: np.ndarray, borders: tuple[int, int, int, int], size: tuple[int, int], draws: SSDDraws
) -> np.ndarray:
    """Colours after the resize, on those pixels that show the image. cv2.INTER_NEAREST moves whole pixels: nothing changes by it."""
    result = _resized(seen, borders, size, draws.interpolation)
    shown = tuple(
        _showing(n, before, extent, extent + before + after)
        for n, before, extent, after in zip(size, borders[::2], seen.shape[:2], borders[1::2], strict=True)
    )
    if result[shown].size:
        result[shown] = distort(result[shown], draws.distortion)
    return result


def _showing(size: int, before: int, extent: int, whole: int) -> slice:
    """Which of `size` rows (or columns) cv2.INTER_NEAREST takes from the `extent` rows after the first `before` of `whole`."""
    taken = np.floor(
        np.arange(size) * (1 / (size / whole))
    )  # in OpenCV's own order: a quotient's last bit decides at whole numbers
    return slice(*np.searchsorted(taken, [before, before + extent]).tolist())
