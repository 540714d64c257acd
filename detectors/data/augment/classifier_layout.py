"""Augmentations of a classifier's images, from random draws to the model's input.

ClassifierCrop is Darknet's: a random crop at a random scale, turned and with another aspect ratio, mirrored,
with HSV changes. It follows random_augment_args, rotate_crop_image and load_image_augment_paths of
src/image.c and src/data.c, commit f6afaab. SmallTurn is for digits and other small images. Images are uint8:
the result is rounded to whole levels, where Darknet keeps fractions.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, radians, sin
from typing import NamedTuple

import cv2
import numpy as np

from detectors.data.augment.photometric import Shade, draw_shade, shade


class ClassifierDraws(NamedTuple):
    aspect: float  # of the crop: its columns reach this many times farther in the image than its rows
    side: int  # pixels to which the shorter side of the image is scaled
    angle: float  # radians
    place: tuple[float, float]  # (right, down), -1 to 1 between the crops at both ends
    shade: Shade
    flip: bool


class _WithoutBoxes:
    def boxes(
        self, boxes: np.ndarray, draws: NamedTuple, original: tuple[int, int], size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """A classifier has no use for boxes: none is left."""
        return np.zeros((0, 4)), np.zeros(0, np.int64)


@dataclass(frozen=True)
class ClassifierCrop(_WithoutBoxes):
    """The settings of a cfg's [net] section."""

    min_crop: int  # pixels to which the shorter side is scaled, at least
    max_crop: int  # and at most
    angle: float  # degrees, to either side
    aspect: float  # from 1 to this factor, or the inverse
    hue: float  # turns
    saturation: float  # from 1 to this factor, or the inverse
    exposure: float  # the same for V of HSV

    def draw(
        self, generator: np.random.Generator, size: tuple[int, int], boxes: np.ndarray
    ) -> ClassifierDraws:
        factor = 1 + float(generator.random()) * (self.aspect - 1)
        aspect = 1 / factor if generator.random() < 0.5 else factor
        side = int(generator.integers(self.min_crop, self.max_crop + 1))
        angle = radians(self.angle * float(generator.uniform(-1, 1)))
        place = tuple(generator.uniform(-1, 1, 2).tolist())
        flip = bool(generator.random() < 0.5)
        shade_draws = draw_shade(generator, hue=self.hue, saturation=self.saturation, exposure=self.exposure)
        return ClassifierDraws(aspect, side, angle, place, shade_draws, flip)

    def image(self, image: np.ndarray, draws: ClassifierDraws, size: tuple[int, int]) -> np.ndarray:
        """(h, w, 3) -> (H, W, 3) uint8 RGB. Beyond the image there is black."""
        result = shade(_warped(image, crop_matrix(image.shape[:2], draws, size), size), draws.shade)
        return cv2.flip(result, 1) if draws.flip else result


def crop_matrix(original: tuple[int, int], draws: ClassifierDraws, size: tuple[int, int]) -> np.ndarray:
    """(2, 3): from a pixel (x, y) of the crop to its place in the image. Sizes are (height, width)."""
    height, width = original
    rows, columns = size
    scale = draws.side / int(min(height, width * draws.aspect))  # `min` is an int in Darknet
    along = draws.aspect / scale  # image columns per column of the crop
    right = draws.place[0] * (width * scale / draws.aspect - columns) / 2
    down = draws.place[1] * (height * scale - rows) / 2
    x, y = right - columns / 2, down - rows / 2
    turn = np.array([[cos(draws.angle), -sin(draws.angle)], [sin(draws.angle), cos(draws.angle)]])
    linear = turn @ np.diag([along, 1 / scale])
    shift = linear @ [x, y] + [width / 2, height / 2]
    return np.concatenate([linear, shift[:, None]], axis=1)


class TurnDraws(NamedTuple):
    angle: float  # radians
    shift: tuple[float, float]  # (right, down), shares of the sides
    zoom: float  # factor
    flip: bool


@dataclass(frozen=True)
class SmallTurn(_WithoutBoxes):
    """The image, stretched to the input, is turned and zoomed around its centre, shifted and mirrored."""

    angle: float  # degrees, to either side
    shift: float  # share of the side, in either direction
    zoom: float  # factors from 1 - zoom to 1 + zoom
    flip: float  # probability

    def draw(self, generator: np.random.Generator, size: tuple[int, int], boxes: np.ndarray) -> TurnDraws:
        angle, right, down, zoom = generator.uniform(-1, 1, 4).tolist()
        flip = bool(generator.random() < self.flip)
        return TurnDraws(
            radians(self.angle * angle), (self.shift * right, self.shift * down), 1 + self.zoom * zoom, flip
        )

    def image(self, image: np.ndarray, draws: TurnDraws, size: tuple[int, int]) -> np.ndarray:
        """(h, w, 3) -> (H, W, 3) uint8 RGB. Beyond the image there is black."""
        result = _warped(image, turn_matrix(image.shape[:2], draws, size), size)
        return cv2.flip(result, 1) if draws.flip else result


def turn_matrix(original: tuple[int, int], draws: TurnDraws, size: tuple[int, int]) -> np.ndarray:
    """(2, 3): from a pixel (x, y) of the input to its place in the image, in pixels' centres."""
    wh, input_wh = np.array(original[::-1], float), np.array(size[::-1], float)
    turn = np.array([[cos(draws.angle), -sin(draws.angle)], [sin(draws.angle), cos(draws.angle)]])
    linear = np.diag(wh / input_wh) @ turn / draws.zoom
    centre = (input_wh - 1) / 2 + np.array(draws.shift) * input_wh  # where the image's centre goes
    return np.concatenate([linear, ((wh - 1) / 2 - linear @ centre)[:, None]], axis=1)


def _warped(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.warpAffine(
        image,
        matrix,
        size[::-1],
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
    )
