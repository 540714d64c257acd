"""The mean over areas of an image on a canvas, against cv2.resize of the whole canvas and a double loop."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.testing import assert_allclose

from detectors.data.augment.area_resize import resize_on_canvas

COLOUR = (123, 117, 104)


def test_equals_opencv_within_a_level():
    """Images of 1 to 300 pixels, borders on some sides or none, sizes down to one pixel."""
    generator = np.random.default_rng(0)
    for _ in range(120):
        height, width = generator.integers(1, 300, 2)
        borders = (generator.integers(0, 600, 4) * (generator.random(4) < 0.7)).tolist()
        size = [
            int(generator.integers(1, side + 1))
            for side in (height + sum(borders[:2]), width + sum(borders[2:]))
        ]
        image = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        canvas = cv2.copyMakeBorder(image, *borders, cv2.BORDER_CONSTANT, value=COLOUR)
        expected = cv2.resize(canvas, size[::-1], interpolation=cv2.INTER_AREA).astype(int)
        assert_allclose(
            resize_on_canvas(image, tuple(borders), tuple(size), COLOUR),
            expected,
            rtol=0,
            atol=1,
            err_msg=f"{borders} {size}",
        )


def test_a_double_loop_over_fractions_of_pixels():
    image = np.random.default_rng(1).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    canvas = np.empty((11, 9, 3))
    canvas[:] = COLOUR
    canvas[4:9, 3:7] = image
    found = resize_on_canvas(image, (4, 2, 3, 2), (4, 2), COLOUR)
    for i in range(4):
        for j in range(2):
            total = weight = 0.0
            for y in range(11):
                for x in range(9):
                    down = max(0.0, min(y + 1, (i + 1) * 11 / 4) - max(y, i * 11 / 4))
                    across = max(0.0, min(x + 1, (j + 1) * 9 / 2) - max(x, j * 9 / 2))
                    total, weight = total + down * across * canvas[y, x], weight + down * across
            assert_allclose(found[i, j], total / weight, atol=0.5 + 1e-3)


@pytest.mark.parametrize("size", [(480, 640), (2000, 3000)])
def test_large_sums_lose_nothing(size):
    """White stays white, to the last row: as float32, a sum over six million pixels could not tell one more."""
    found = resize_on_canvas(np.full((*size, 3), 255, dtype=np.uint8), (0, 0, 0, 0), (300, 300), COLOUR)
    assert found.min() == 255
