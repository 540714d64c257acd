"""Colours as SSD's Caffe (distort) and Darknet (shade) vary them, on uint8 images. Both are pointwise: a pixel's colour becomes another one
wherever it lies, so that a part of an image may be distorted alone, and what is cut off need not be distorted at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

HSV, RGB = (cv2.COLOR_RGB2HSV, cv2.COLOR_HSV2RGB)


class Distortion(NamedTuple):
    """SSD's. A value that does nothing stands for a step that was not drawn."""

    brightness: float  # levels, added
    contrast: float  # factor
    saturation: float  # factor
    hue: float  # added; 180 is a whole turn
    contrast_last: bool  # after saturation and hue instead of before


UNCHANGED = Distortion(0.0, 1.0, 1.0, 0.0, False)


def draw_distortion(
    generator: np.random.Generator,
    *,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
    probability: float,
) -> Distortion:
    """Brightness and hue from -x to x, contrast and saturation from 1 - x to 1 + x; each with `probability`, either order with .5.

    Caffe's im_transforms.cpp, ApplyDistort; its shuffling of channels has the probability 0 in all of SSD's scripts.
    """
    amounts, chosen = generator.uniform(-1, 1, 4), generator.random(5) < [probability] * 4 + [0.5]
    change = np.where(chosen[:4], amounts * [brightness, contrast, saturation, hue], 0).tolist()
    return Distortion(change[0], 1 + change[1], 1 + change[2], change[3], bool(chosen[4]))


def distort(image: np.ndarray, distortion: Distortion) -> np.ndarray:
    """(h, w, 3) uint8 RGB -> the same. Every step ends in whole levels from 0 to 255, as in Caffe, which works on 8-bit images."""
    brightness, contrast, saturation, hue, contrast_last = distortion
    image = _raised(image, brightness)
    if not contrast_last:
        image = _multiplied(image, contrast)
    image = _in_hsv(
        image, 1, lambda channel: _multiplied(channel, saturation), changes=_multiplies(saturation)
    )
    image = _in_hsv(image, 0, lambda channel: _raised(channel, hue), changes=hue != 0)
    return _multiplied(image, contrast) if contrast_last else image


def _raised(image: np.ndarray, shift: float) -> np.ndarray:
    """convertTo(1, shift): a sum of a whole number and `shift`, rounded, is the sum with `shift` rounded (but for exact halves)."""
    whole = int(np.rint(shift))
    if whole == 0:
        return image
    operation = cv2.add if whole > 0 else cv2.subtract
    return operation(
        image, (abs(whole),) * 4, dtype=cv2.CV_8U
    )  # four alike: OpenCV takes them for an image beside one of 4 x 1 pixels


def _multiplied(image: np.ndarray, factor: float) -> np.ndarray:
    """convertTo(factor, 0): in float32, halves to the even number, cut to 0..255."""
    return cv2.convertScaleAbs(image, alpha=factor) if _multiplies(factor) else image


def _multiplies(factor: float) -> bool:
    """Caffe leaves out what is within .001 of 1."""
    return abs(factor - 1) > 1e-3


def _in_hsv(
    image: np.ndarray, channel: int, change: Callable[[np.ndarray], np.ndarray], *, changes: bool
) -> np.ndarray:
    """A channel of the image's 8-bit HSV changed: hue (0, from 0 to 180) or saturation (1).

    A hue below 0 is cut, one above 180 goes on around the circle: that is what saturating arithmetic and OpenCV's way back make of them.
    `changes` False leaves out the way there and back, which alone moves colours by up to some levels. The way back takes all pixels as one
    row: OpenCV rounds the last few pixels of a row, which do not fill a vector, otherwise than the rest, by up to one level.
    """
    if not changes:
        return image
    hsv = cv2.cvtColor(image, HSV)
    cv2.insertChannel(change(cv2.extractChannel(hsv, channel)), hsv, channel)
    return cv2.cvtColor(hsv.reshape(1, -1, 3), RGB).reshape(hsv.shape)


class Shade(NamedTuple):
    """Darknet's."""

    hue: float  # turns, added
    saturation: float  # factor
    exposure: float  # factor of the value


def draw_shade(generator: np.random.Generator, *, hue: float, saturation: float, exposure: float) -> Shade:
    """Hue from -x to x; saturation and exposure from 1 to x, or with probability .5 one through that (random_distort_image, rand_scale)."""
    turn, *amounts = generator.random(3)
    inverted = generator.random(2) < 0.5
    factors = [1 + amount * (most - 1) for amount, most in zip(amounts, (saturation, exposure), strict=True)]
    factors = [
        1 / factor if invert else factor for factor, invert in zip(factors, inverted.tolist(), strict=True)
    ]
    return Shade((2 * float(turn) - 1) * hue, float(factors[0]), float(factors[1]))


def shade(image: np.ndarray, drawn: Shade) -> np.ndarray:
    """(h, w, 3) uint8 RGB -> the same: distort_image. Hue wraps, saturation and value may exceed 1 until the way back, then all is cut to
    0..1. In float32 as Darknet does it; but the result is rounded to whole levels, where Darknet keeps fractions.
    """
    matrix = np.array(
        [[1, 0, 0, 360 * (drawn.hue % 1)], [0, drawn.saturation, 0, 0], [0, 0, drawn.exposure, 0]],
        dtype=np.float32,
    )
    # a hue of 360 and more wraps in OpenCV, one below 0 gives wrong colours
    hsv = cv2.transform(cv2.cvtColor(image.astype(np.float32), HSV), matrix)  # degrees, 0 to 1, levels
    rgb = cv2.cvtColor(hsv, RGB, dst=hsv)
    return cv2.convertScaleAbs(
        np.maximum(rgb, 0, out=rgb) if drawn.saturation > 1 else rgb
    )  # saturations above 1 bring negative colours
