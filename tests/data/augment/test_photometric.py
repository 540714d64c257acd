"""Colours against plain arithmetic: Caffe's steps on whole levels, Darknet's against its own page without rounding."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from detectors.commands.verify import darknet_augment
from detectors.darknet.framing import to_unit
from detectors.data.augment.photometric import (
    UNCHANGED,
    Distortion,
    Shade,
    distort,
    draw_distortion,
    draw_shade,
    shade,
)

SSD = {"brightness": 32.0, "contrast": 0.5, "saturation": 0.5, "hue": 18.0, "probability": 0.5}
DARKNET = {"hue": 0.1, "saturation": 1.5, "exposure": 1.5}


def colours(seed: int = 0, side: int = 64) -> np.ndarray:
    """Random ones, and greys, black, white and pure colours."""
    image = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    image[0] = np.arange(side)[:, None] * 4
    image[1, :8] = [
        [0, 0, 0],
        [255, 255, 255],
        [255, 0, 0],
        [0, 255, 0],
        [0, 0, 255],
        [255, 255, 0],
        [0, 255, 255],
        [255, 0, 255],
    ]
    return image


def converted(values: np.ndarray, factor: float, shift: float) -> np.ndarray:
    """OpenCV's convertTo for uint8, in its own precision."""
    return np.clip(
        np.rint(values.astype(np.float32) * np.float32(factor) + np.float32(shift)), 0, 255
    ).astype(np.uint8)


def caffe(image: np.ndarray, drawn: Distortion) -> np.ndarray:
    """im_transforms.cpp, one step after the other on the whole image."""

    def brightness(image):
        return converted(image, 1, drawn.brightness) if abs(drawn.brightness) > 0 else image

    def contrast(image):
        return converted(image, drawn.contrast, 0) if abs(drawn.contrast - 1) > 1e-3 else image

    def saturation(image):
        if abs(drawn.saturation - 1) <= 1e-3:
            return image
        hue, strength, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
        return cv2.cvtColor(
            cv2.merge([hue, converted(strength, drawn.saturation, 0), value]), cv2.COLOR_HSV2RGB
        )

    def hue(image):
        if abs(drawn.hue) == 0:
            return image
        turn, strength, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
        return cv2.cvtColor(cv2.merge([converted(turn, 1, drawn.hue), strength, value]), cv2.COLOR_HSV2RGB)

    steps = (
        [brightness, saturation, hue, contrast]
        if drawn.contrast_last
        else [brightness, contrast, saturation, hue]
    )
    for step in steps:
        image = step(image)
    return image


@pytest.mark.parametrize("contrast_last", [False, True])
@pytest.mark.parametrize(
    "values",
    [
        (20.3, 1, 1, 0),
        (-31.7, 1, 1, 0),
        (0, 0.5, 1, 0),
        (0, 1.5, 1, 0),
        (0, 1.0009, 1, 0),
        (0, 1, 1.0009, 0),  # left out: not even to HSV and back
        (0, 1, 0.5, 0),
        (0, 1, 1.5, 0),
        (0, 1, 1, 18),
        (0, 1, 1, -17.6),
        (0, 1, 1, 0.3),  # to HSV and back, though no hue changes
        (31, 1.4, 0.6, -12.2),
        (-25.4, 0.7, 1.45, 9.9),
    ],
)
def test_each_step_has_caffes_bytes(values, contrast_last):
    image = colours()
    before = image.copy()
    drawn = Distortion(*values, contrast_last)
    assert_array_equal(distort(image, drawn), caffe(image, drawn))
    assert_array_equal(image, before)  # the decoded image may lie in a cache


def test_all_draws_have_caffes_bytes():
    generator = np.random.default_rng(1)
    for seed in range(200):
        drawn = draw_distortion(generator, **SSD)
        image = colours(seed, 32)
        assert_array_equal(distort(image, drawn), caffe(image, drawn))


def test_a_part_may_be_distorted_alone():
    """All steps are pointwise; but OpenCV rounds the last pixels on the way from HSV otherwise."""
    image, drawn = colours(), Distortion(11.2, 1.3, 0.7, 12, True)
    part, whole = distort(image[5:40, 7:33], drawn).astype(int), distort(image, drawn)[5:40, 7:33].astype(int)
    assert np.abs(part - whole).max() <= 3  # contrast enlarges it
    assert (part != whole).mean() < 0.02
    no_hsv = drawn._replace(saturation=1.0, hue=0.0)
    assert_array_equal(distort(image[5:40, 7:33], no_hsv), distort(image, no_hsv)[5:40, 7:33])


@pytest.mark.parametrize("size", [(4, 1), (1, 4), (1, 1), (3, 1), (2, 2)])
def test_images_of_a_few_pixels_keep_the_bytes(size):
    """OpenCV cannot tell a channel of 4 x 1 pixels from the four numbers of a colour."""
    image, drawn = (
        colours()[1:5, :4].reshape(-1, 3)[-size[0] * size[1] :].reshape(*size, 3),
        Distortion(-9.0, 1.3, 0.7, 12.0, False),
    )
    assert_array_equal(distort(image, drawn), caffe(image, drawn))


def test_hue_is_cut_below_and_wraps_above():
    """Red has the hue 0: -10 leaves it. Magenta-red at 179 goes on to 4, that is red with a little green."""
    assert_array_equal(
        distort(np.array([[[255, 0, 0]]], np.uint8), UNCHANGED._replace(hue=-10.0)), [[[255, 0, 0]]]
    )
    assert_array_equal(
        distort(np.array([[[255, 0, 8]]], np.uint8), UNCHANGED._replace(hue=5.0)), [[[255, 34, 0]]]
    )


def test_how_often_and_how_much():
    """Each step with .5, uniform in its range, either order with .5, no step correlated with another."""
    generator = np.random.default_rng(2)
    draws = np.array([draw_distortion(generator, **SSD) for _ in range(4000)])
    neutral = np.array([0, 1, 1, 0])
    limits = np.array([32, 0.5, 0.5, 18])
    steps = draws[:, :4] - neutral
    assert_allclose((steps != 0).mean(0), 0.5, atol=0.03)
    assert_allclose(draws[:, 4].mean(), 0.5, atol=0.03)
    for values, limit in zip(steps.T, limits, strict=True):
        drawn = values[values != 0] / limit
        assert np.abs(drawn).max() <= 1
        assert_allclose(np.quantile(drawn, [0.1, 0.25, 0.5, 0.75, 0.9]), [-0.8, -0.5, 0, 0.5, 0.8], atol=0.09)
    both = np.concatenate([steps, steps != 0, draws[:, 4:]], 1)
    correlation = np.corrcoef(both.T) - np.eye(9)
    assert np.abs(correlation).max() < 0.06


@pytest.mark.parametrize(
    "drawn", [(0.0, 1.0, 1.0), (0.0937, 1.5, 0.7), (-0.0937, 0.6, 1.4), (0.05, 3.0, 2.0), (-0.02, 1 / 1.5, 1)]
)
def test_shade_is_darknets_but_for_the_rounding(drawn):
    """distort_image in fractions; half a level is the rounding itself. (A hue that comes to exactly one turn is magenta in Darknet, whose
    comparison lets it pass, and red here.)"""
    image, (hue, saturation, exposure) = colours(), drawn
    expected = (
        darknet_augment.darknet_distort(
            to_unit(image), hue=hue, saturation=saturation, exposure=exposure
        ).transpose(1, 2, 0)
        * 255
    )
    assert_allclose(shade(image, Shade(*drawn)).astype(float), expected, atol=0.505)


def test_shades_drawn():
    """rand_scale(1.5): uniform from 1 to 1.5, or one through that."""
    generator = np.random.default_rng(3)
    draws = np.array([draw_shade(generator, **DARKNET) for _ in range(4000)])
    assert_allclose(
        np.quantile(draws[:, 0], [0, 0.25, 0.5, 0.75, 1]), [-0.1, -0.05, 0, 0.05, 0.1], atol=0.008
    )
    for factors in draws[:, 1:].T:
        assert_allclose((factors > 1).mean(), 0.5, atol=0.03)
        for part in (factors[factors > 1], 1 / factors[factors < 1]):
            assert_allclose(
                np.quantile(part, [0, 0.25, 0.5, 0.75, 1]), [1, 1.125, 1.25, 1.375, 1.5], atol=0.02
            )
    assert np.abs(np.corrcoef(draws.T) - np.eye(3)).max() < 0.06
