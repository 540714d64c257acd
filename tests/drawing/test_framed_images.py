"""Whole images: fitted, captioned, in a grid."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.drawing.framed_images import CAPTION, captioned, fit_image, image_grid


def test_a_grid_is_laid_out_row_by_row():
    images = [np.full((10 + n, 20, 3), 50 + n, np.uint8) for n in range(5)]
    grid = image_grid(images, 3, gap=2)
    assert grid.shape == (14 + 2 + 14, 3 * 20 + 2 * 2, 3)
    for n, (y, x) in enumerate([(0, 0), (0, 22), (0, 44), (16, 0), (16, 22)]):
        np.testing.assert_array_equal(grid[y : y + 10 + n, x : x + 20], images[n])
    assert (grid[:, 20:22] == 0).all() and (grid[16:, 44:] == 0).all()
    assert image_grid(images[:1], 4).shape == (10, 20, 3)


def test_a_grid_of_no_images_raises():
    with pytest.raises(ValueError, match="0 images"):
        image_grid([], 2)


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [((160, 160), 400, (400, 400)), ((300, 400), 200, (150, 200)), ((5, 1000), 100, (1, 100))],
)
def test_fit_image_resizes_the_longer_side(size, side, expected):
    image = np.full((*size, 3), 90, np.uint8)
    image[:, size[1] // 2 :] = 200
    fitted, factor = fit_image(image, side)
    assert fitted.shape == (*expected, 3)
    assert factor == side / max(size)
    half = round(size[1] // 2 * factor)
    assert (fitted[:, : half - 3] == 90).all() and (fitted[:, half + 3 :] == 200).all()


def test_a_caption_is_above_the_image_and_keeps_its_end():
    image = np.full((50, 120, 3), 128, np.uint8)
    short = captioned(image, "epoch 3")
    long = captioned(image, 40 * "a" + "epoch 3")
    longer = captioned(image, 90 * "a" + "epoch 3")
    assert short.shape == (50 + CAPTION, 120, 3)
    np.testing.assert_array_equal(short[CAPTION:], image)
    assert (short[:CAPTION] > 128).any() and not (short[:CAPTION, 80:] > 0).any()
    np.testing.assert_array_equal(long, longer)
    assert (long[:CAPTION, 80:] > 128).any()
