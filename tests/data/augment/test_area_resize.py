"""Area resize of an image on a canvas, compared with cv2.resize of the whole canvas and with plain loops."""

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
        canvas_size = (height + sum(borders[:2]), width + sum(borders[2:]))
        size = tuple(int(generator.integers(1, side + 1)) for side in canvas_size)
        image = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        canvas = cv2.copyMakeBorder(image, *borders, cv2.BORDER_CONSTANT, value=COLOUR)
        expected = cv2.resize(canvas, size[::-1], interpolation=cv2.INTER_AREA).astype(int)
        result = resize_on_canvas(image, tuple(borders), size, COLOUR)
        assert_allclose(result, expected, rtol=0, atol=1, err_msg=f"{borders} {size}")


def test_equals_plain_loops_over_fractions_of_pixels():
    image = np.random.default_rng(1).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    canvas = np.empty((11, 9, 3))
    canvas[:] = COLOUR
    canvas[4:9, 3:7] = image
    result = resize_on_canvas(image, (4, 2, 3, 2), (4, 2), COLOUR)
    for i in range(4):
        for j in range(2):
            total = weight = 0.0
            for y in range(11):
                for x in range(9):
                    down = max(0.0, min(y + 1, (i + 1) * 11 / 4) - max(y, i * 11 / 4))
                    across = max(0.0, min(x + 1, (j + 1) * 9 / 2) - max(x, j * 9 / 2))
                    total = total + down * across * canvas[y, x]
                    weight = weight + down * across
            assert_allclose(result[i, j], total / weight, atol=0.5 + 1e-3)


@pytest.mark.parametrize("size", [(480, 640), (2000, 3000)])
def test_large_sums_keep_their_precision(size):
    """White stays white to the last row; float32 sums over six million pixels are too coarse for that."""
    white = np.full((*size, 3), 255, dtype=np.uint8)
    assert resize_on_canvas(white, (0, 0, 0, 0), (300, 300), COLOUR).min() == 255
