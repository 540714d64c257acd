"""Darknet's augmentation against loops over pixels and boxes.

tests/commands/verify/test_command.py compares it with recorded numbers.
"""

from __future__ import annotations

import colorsys
from math import floor

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from detectors.commands.verify.darknet_augment import CLASS_ONLY, correct_boxes, darknet_distort, place


def pixel(image: np.ndarray, c: int, y: int, x: int) -> float:
    """0 outside of the image."""
    return image[c, y, x] if 0 <= y < image.shape[1] and 0 <= x < image.shape[2] else 0.0


@pytest.mark.parametrize("size", [(7.9, 11.2), (3.1, 4.0), (20.0, 20.0)])
@pytest.mark.parametrize("corner", [(0.0, 0.0), (2.7, -3.6), (-5.2, 4.9), (30.0, 1.0)])
def test_place_equals_a_loop(size, corner):
    image = np.random.default_rng(0).random((2, 5, 6), dtype=np.float32)
    expected = np.full((2, 9, 10), 0.5)
    rows = int(size[0])
    columns = int(size[1])
    for c in range(2):
        for i in range(rows):
            for j in range(columns):
                y = i / rows * 5
                x = j / columns * 6
                top = floor(y)
                left = floor(x)
                value = 0.0
                for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
                    vertical = y - top if a else 1 - y + top
                    horizontal = x - left if b else 1 - x + left
                    value += vertical * horizontal * pixel(image, c, top + a, left + b)
                row = i + int(corner[0])
                column = j + int(corner[1])
                if 0 <= row < 9 and 0 <= column < 10:
                    expected[c, row, column] = value
    assert_allclose(place(image, (9, 10), size, corner), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("hue", "saturation", "exposure"), [(0.0, 1.0, 1.0), (0.1, 1.5, 0.7), (-0.1, 0.6, 1.4), (0.05, 3.0, 2.0)]
)
def test_distort_equals_colorsys(hue, saturation, exposure):
    """Random pixels, and a grey, a black and two saturated ones."""
    image = np.random.default_rng(1).random((3, 4, 5), dtype=np.float32)
    image[:, 0, 0] = 0.4
    image[:, 0, 1] = 0
    image[:, 0, 2] = (1, 0, 0)
    image[:, 0, 3] = (0.2, 0.9, 0.9)
    distorted = darknet_distort(image, hue=hue, saturation=saturation, exposure=exposure)
    for y in range(4):
        for x in range(5):
            h, s, v = colorsys.rgb_to_hsv(*image[:, y, x].astype(float))
            s *= saturation
            v *= exposure
            f = (h + hue) % 1 * 6
            low = v * (1 - s)
            fall = v * (1 - s * (f % 1))
            rise = v * (1 - s * (1 - f % 1))
            wheel = [
                (v, rise, low),
                (fall, v, low),
                (low, v, rise),
                (low, fall, v),
                (rise, low, v),
                (v, low, fall),
            ]
            assert_allclose(distorted[:, y, x], np.clip(wheel[int(f) % 6], 0, 1), atol=2e-6)


@pytest.mark.parametrize("flip", [False, True])
def test_boxes_are_moved_mirrored_and_clipped(flip):
    labels = np.array(
        [[0.5, 0.5, 0.4, 0.2], [0.1, 0.9, 0.3, 0.3], [0, 0, 0.1, 0.1], [0, 0.5, 0.2, 0.2]], np.float32
    )
    corrected = correct_boxes(labels, shift=(0.25, -0.125), scale=(1.5, 0.5), flip=flip)
    for label, box in zip(labels, corrected, strict=True):
        x, y, w, h = (float(value) for value in label)
        if x == y == 0:
            assert_array_equal(box, CLASS_ONLY)
            continue
        left, right = ((x + side * w / 2) * 1.5 - 0.25 for side in (-1, 1))
        top, bottom = ((y + side * h / 2) * 0.5 + 0.125 for side in (-1, 1))
        if flip:
            left, right = 1 - right, 1 - left
        left, right, top, bottom = (min(max(edge, 0), 1) for edge in (left, right, top, bottom))
        assert_allclose(box, [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top], atol=1e-6)
