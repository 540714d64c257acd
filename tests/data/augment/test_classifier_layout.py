"""Augmentations of classifiers against loops over pixels that follow Darknet's C, line by line."""

from __future__ import annotations

from math import cos, floor, pi, sin

import numpy as np
import pytest

from detectors.config.build import build
from detectors.data.augment.classifier_layout import ClassifierCrop, ClassifierDraws, SmallTurn, TurnDraws
from detectors.data.augment.fitting import crop, resize
from detectors.data.augment.photometric import Shade

PLAIN = Shade(0.0, 1.0, 1.0)
DARKNET = ClassifierCrop(128, 448, 7.0, 0.75, 0.1, 0.75, 0.75)


def bilinear(image: np.ndarray, x: float, y: float) -> np.ndarray:
    """bilinear_interpolate of src/image.c; 0 outside, as its get_pixel_extend."""
    ix, iy = floor(x), floor(y)
    dx, dy = x - ix, y - iy

    def pixel(column: int, row: int) -> np.ndarray:
        inside = 0 <= column < image.shape[1] and 0 <= row < image.shape[0]
        return image[row, column].astype(float) if inside else np.zeros(3)

    return (
        (1 - dy) * (1 - dx) * pixel(ix, iy)
        + dy * (1 - dx) * pixel(ix, iy + 1)
        + (1 - dy) * dx * pixel(ix + 1, iy)
        + dy * dx * pixel(ix + 1, iy + 1)
    )


def darknets_crop(image: np.ndarray, draws: ClassifierDraws, side: int) -> np.ndarray:
    """random_augment_args with these draws, and rotate_crop_image."""
    height, width = image.shape[:2]
    aspect = draws.aspect
    shorter = int(height if height < width * aspect else width * aspect)
    s = draws.side / shorter
    dx = draws.place[0] * (width * s / aspect - side) / 2
    dy = draws.place[1] * (height * s - side) / 2
    rad = draws.angle
    out = np.zeros((side, side, 3))
    for y in range(side):
        for x in range(side):
            u = (x - side / 2) / s * aspect + dx / s * aspect
            v = (y - side / 2) / s + dy / s
            out[y, x] = bilinear(
                image, cos(rad) * u - sin(rad) * v + width / 2, sin(rad) * u + cos(rad) * v + height / 2
            )
    return out


@pytest.mark.parametrize(
    ("aspect", "side", "angle", "place"),
    [(1.0, 24, 0.0, (0.0, 0.0)), (0.8, 30, 0.1, (0.5, -1.0)), (1.3, 17, -0.12, (-0.7, 0.4))],
)
def test_the_crop_is_darknets(aspect, side, angle, place):
    image = np.random.default_rng(0).integers(0, 256, (21, 29, 3), np.uint8)
    draws = ClassifierDraws(aspect, side, angle, place, PLAIN, False)
    ours = DARKNET.image(image, draws, (20, 20)).astype(float)
    # OpenCV samples at 1/32 of a pixel; the noise changes by up to 255 from pixel to pixel.
    np.testing.assert_allclose(ours, darknets_crop(image, draws, 20), atol=2 * 255 / 32)
    np.testing.assert_array_equal(
        DARKNET.image(image, draws._replace(flip=True), (20, 20)), ours[:, ::-1].astype(np.uint8)
    )


def test_draws_have_darknets_ranges():
    generator = np.random.default_rng(0)
    draws = [DARKNET.draw(generator, (300, 400), np.zeros((0, 4))) for _ in range(2000)]
    sides = [one.side for one in draws]
    assert (min(sides), max(sides)) == (128, 448)
    for values in ([one.aspect for one in draws], [one.shade.saturation for one in draws]):
        assert 0.75 <= min(values) < 0.76 and 1.32 < max(values) <= 1 / 0.75
        assert 0.45 < np.mean(np.array(values) < 1) < 0.55
    angles = np.array([one.angle for one in draws]) * 180 / pi
    assert -7 <= angles.min() < -6.9 and 6.9 < angles.max() <= 7
    assert 0.45 < np.mean([one.flip for one in draws]) < 0.55


def test_a_small_turn_moves_pixels_where_it_says():
    image = np.zeros((28, 28, 3), np.uint8)
    image[10, 6] = 255
    layout = SmallTurn(10.0, 0.1, 0.1, 0.0)
    moved = layout.image(image, TurnDraws(0.0, (3 / 28, -2 / 28), 1.0, False), (28, 28))
    assert np.argwhere(moved[..., 0] > 128).tolist() == [[8, 9]]
    turned = layout.image(image, TurnDraws(pi / 2, (0.0, 0.0), 1.0, False), (28, 28))
    assert np.argwhere(turned[..., 0] > 128).tolist() == [[21, 10]]
    still = layout.image(image, TurnDraws(0.0, (0.0, 0.0), 1.0, True), (28, 28))
    np.testing.assert_array_equal(still, image[:, ::-1])


@pytest.mark.parametrize(("size", "place"), [((20, 40), (0, 10)), ((41, 20), (10, 0)), ((20, 20), (0, 0))])
def test_evaluation_sees_the_middle(size, place):
    """center_crop_image takes (w - m) / 2 columns off the left, where m is the shorter side."""
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    top, left = place
    found = resize(image, crop(size, (20, 20)), (20, 20))
    np.testing.assert_array_equal(found, image[top : top + 20, left : left + 20])


@pytest.mark.parametrize("setting", [{"min_crop": 0}, {"max_crop": 100}, {"angle": 200.0}, {"aspect": 0.0}])
def test_settings_out_of_range_are_refused(setting):
    target = "detectors.data.augment.classifier_augmentations.darknet_classifier_augmentation"
    with pytest.raises(ValueError, match=next(iter(setting))):
        build({"_target_": target, **setting})
