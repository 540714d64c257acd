"""Darknet's augmentation of a classifier's images, from random draws to the model's input.

A random crop at a random scale, turned and with another aspect ratio, mirrored, with HSV changes. Follows
random_augment_args, rotate_crop_image and load_image_augment_paths of src/image.c and src/data.c, commit
f6afaab. Images are uint8: the result is rounded to whole levels, where Darknet keeps fractions.
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


@dataclass(frozen=True)
class ClassifierCrop:
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
        shade_draws = draw_shade(
            generator, hue=self.hue, saturation=self.saturation, exposure=self.exposure
        )
        return ClassifierDraws(aspect, side, angle, place, shade_draws, flip)

    def image(self, image: np.ndarray, draws: ClassifierDraws, size: tuple[int, int]) -> np.ndarray:
        """(h, w, 3) -> (H, W, 3) uint8 RGB. Beyond the image there is black."""
        crop = cv2.warpAffine(
            image,
            crop_matrix(image.shape[:2], draws, size),
            size[::-1],
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
        )
        result = shade(crop, draws.shade)
        return cv2.flip(result, 1) if draws.flip else result

    def boxes(
        self, boxes: np.ndarray, draws: ClassifierDraws, original: tuple[int, int], size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """A classifier has no use for boxes: none is left."""
        return np.zeros((0, 4)), np.zeros(0, np.int64)


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
