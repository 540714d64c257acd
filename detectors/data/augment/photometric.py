"""Colour changes of SSD's Caffe (distort) and of Darknet (shade), on uint8 images.

Both are pointwise: a pixel's new colour does not depend on where it lies. So a part of an image can be
changed alone, and pixels that are cropped off need no change at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np


class Distortion(NamedTuple):
    """SSD's colour distortion. A step that is not applied has its neutral value."""

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
    """Brightness and hue from -x to x, contrast and saturation from 1 - x to 1 + x.

    Each step is applied with `probability`; contrast comes last with probability .5. Follows ApplyDistort in
    Caffe's im_transforms.cpp, without its shuffling of channels, which all of SSD's scripts switch off.
    """
    amounts = generator.uniform(-1, 1, 4)
    chosen = generator.random(5) < [probability] * 4 + [0.5]
    change = np.where(chosen[:4], amounts * [brightness, contrast, saturation, hue], 0).tolist()
    return Distortion(change[0], 1 + change[1], 1 + change[2], change[3], bool(chosen[4]))


def distort(image: np.ndarray, distortion: Distortion) -> np.ndarray:
    """(h, w, 3) uint8 RGB -> the same shape and type.

    As in Caffe, which works on 8-bit images, every step ends in whole levels from 0 to 255.
    """
    brightness, contrast, saturation, hue, contrast_last = distortion
    image = _add(image, brightness)
    if not contrast_last:
        image = _multiply(image, contrast)
    if _is_applied(saturation):
        image = _change_hsv_channel(image, 1, lambda channel: _multiply(channel, saturation))
    if hue != 0:
        image = _change_hsv_channel(image, 0, lambda channel: _add(channel, hue))
    return _multiply(image, contrast) if contrast_last else image


def _add(image: np.ndarray, shift: float) -> np.ndarray:
    """convertTo(1, shift). Rounding `shift` first gives the same sums, except for exact halves."""
    whole = int(np.rint(shift))
    if whole == 0:
        return image
    operation = cv2.add if whole > 0 else cv2.subtract
    # four equal numbers: OpenCV takes them for a second image if the first has 4 x 1 pixels
    scalar = (abs(whole),) * 4  # OpenCV's types know no scalars
    return operation(image, scalar, dtype=cv2.CV_8U)  # type: ignore[call-overload]


def _multiply(image: np.ndarray, factor: float) -> np.ndarray:
    """convertTo(factor, 0): in float32, halves rounded to even, clipped to 0..255."""
    return cv2.convertScaleAbs(image, alpha=factor) if _is_applied(factor) else image


def _is_applied(factor: float) -> bool:
    """Caffe skips factors within .001 of 1."""
    return abs(factor - 1) > 1e-3


def _change_hsv_channel(
    image: np.ndarray, channel: int, change: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """The image with one channel of its 8-bit HSV changed: hue (0, from 0 to 180) or saturation (1).

    A hue below 0 is clipped, one above 180 wraps: that is what saturating arithmetic and OpenCV's conversion
    back make of them. The conversion to HSV and back alone changes colours by up to some levels. On the way
    back all pixels are one row: OpenCV rounds the last few pixels of a row, which do not fill a vector,
    differently from the rest, by up to one level.
    """
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    cv2.insertChannel(change(cv2.extractChannel(hsv, channel)), hsv, channel)
    return cv2.cvtColor(hsv.reshape(1, -1, 3), cv2.COLOR_HSV2RGB).reshape(hsv.shape)


class Shade(NamedTuple):
    """Darknet's colour change."""

    hue: float  # turns, added
    saturation: float  # factor
    exposure: float  # factor of the value


def draw_shade(generator: np.random.Generator, *, hue: float, saturation: float, exposure: float) -> Shade:
    """Hue from -x to x; saturation and exposure from 1 to x, or the inverse of that with probability .5.

    Follows Darknet's random_distort_image and rand_scale.
    """
    turn, *amounts = generator.random(3)
    inverted = generator.random(2) < 0.5
    factors = [1 + amount * (most - 1) for amount, most in zip(amounts, (saturation, exposure), strict=True)]
    factors = [
        1 / factor if invert else factor for factor, invert in zip(factors, inverted.tolist(), strict=True)
    ]
    return Shade((2 * float(turn) - 1) * hue, float(factors[0]), float(factors[1]))


def shade(image: np.ndarray, amount: Shade) -> np.ndarray:
    """(h, w, 3) uint8 RGB -> the same shape and type: Darknet's distort_image.

    Hue wraps. Saturation and value may exceed 1 until the conversion back, then everything is clipped to
    0..1. Computed in float32 as in Darknet, but the result is rounded to whole levels, where Darknet keeps
    fractions.
    """
    matrix = np.array(
        [[1, 0, 0, 360 * (amount.hue % 1)], [0, amount.saturation, 0, 0], [0, 0, amount.exposure, 0]],
        dtype=np.float32,
    )
    # OpenCV wraps a hue of 360 and more, but gives wrong colours for one below 0
    hsv = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2HSV)  # degrees, 0 to 1, levels
    hsv = cv2.transform(hsv, matrix)
    rgb = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=hsv)
    if amount.saturation > 1:  # convertScaleAbs would make negative colours positive
        rgb = np.maximum(rgb, 0, out=rgb)
    return cv2.convertScaleAbs(rgb)
