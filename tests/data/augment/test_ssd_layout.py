"""SSD's augmentation, compared with Caffe's steps on whole images; boxes, compared with the pixels."""

from __future__ import annotations

from dataclasses import asdict

import cv2
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from detectors.data.augment import transforms
from detectors.data.augment.photometric import UNCHANGED
from detectors.data.augment.ssd_layout import INTERPOLATIONS, MEAN_RGB, SSDDraws, SSDLayout
from detectors.data.augment.ssd_sampling import Expansion
from tests.data.augment.test_photometric import caffe

SSD = SSDLayout(32.0, 0.5, 0.5, 18.0, 4.0, colour_last=False)
SMOOTH = (cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)  # their negative weights amplify differences
WHOLE = np.array([0.0, 0, 1, 1])


def picture(size: tuple[int, int], seed: int) -> np.ndarray:
    """A smooth image with noise, like a photograph."""
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    large = cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC).astype(int)
    return np.clip(large + generator.integers(-20, 21, (*size, 3)), 0, 255).astype(np.uint8)


def naive(image: np.ndarray, draws: SSDDraws, size: tuple[int, int]) -> np.ndarray:
    """Distort, paste, crop, resize and mirror whole images.

    The width of `image` must be a multiple of 32: then OpenCV's HSV conversion rounds all pixels alike.
    """
    image = caffe(image, draws.distortion)
    (height, width), (top, left) = draws.expansion
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = MEAN_RGB
    canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    x0, y0, x1, y1 = draws.window
    row = int(y0 * height)
    column = int(x0 * width)
    rows = int((y1 - y0) * height)
    columns = int((x1 - x0) * width)
    crop = np.ascontiguousarray(canvas[row : row + rows, column : column + columns])
    result = cv2.resize(crop, (size[1], size[0]), interpolation=draws.interpolation)
    return result[:, ::-1] if draws.mirror else result


def test_the_whole_augmentation_equals_caffes():
    """200 draws, all interpolations: the same bytes.

    Two exceptions: OpenCV's HSV conversion rounds the last pixels of a row differently, and area_resize.py
    may differ by a level.
    """
    generator = np.random.default_rng(0)
    exact = 0
    differing = []
    for seed in range(200):
        size = int(generator.integers(60, 200)), 32 * int(generator.integers(2, 8))
        image = picture(size, seed)
        low = generator.uniform(0, 0.6, (3, 2)) * size[::-1]
        boxes = np.concatenate([low, low + generator.uniform(0.1, 0.4, (3, 2)) * size[::-1]], 1)
        draws = SSD.draw(np.random.default_rng(seed), size, boxes)
        expected = naive(image, draws, (96, 80)).astype(int)
        result = SSD.image(image, draws, (96, 80)).astype(int)
        no_hsv = draws.distortion.saturation == 1 and draws.distortion.hue == 0
        if no_hsv and draws.interpolation != cv2.INTER_AREA:
            assert_array_equal(result, expected)
            exact += 1
        difference = np.abs(result - expected)
        assert difference.max() <= (5 if draws.interpolation in SMOOTH else 4), (seed, draws)
        differing.append((difference > 0).mean())
    assert exact > 30
    assert np.mean(differing) < 0.01


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("colour_last", [False, True])
def test_colour_changes_do_not_affect_the_canvas(interpolation, colour_last):
    """Two corners of the canvas have the mean colour; the image in its middle is distorted."""
    layout = SSDLayout(32.0, 0.5, 0.5, 18.0, 4.0, colour_last=colour_last)
    image = np.full((50, 64, 3), 100, np.uint8)
    brighter = UNCHANGED._replace(brightness=20.0)
    draws = SSDDraws(brighter, Expansion((200, 192), (70, 60)), WHOLE, interpolation, False)
    result = layout.image(image, draws, (100, 96))
    assert_array_equal(result[:20, :20], np.broadcast_to(MEAN_RGB, (20, 20, 3)))
    assert_array_equal(result[-20:, -20:], np.broadcast_to(MEAN_RGB, (20, 20, 3)))
    assert_array_equal(result[42:55, 36:58], np.full((13, 22, 3), 120))


def test_a_crop_without_the_image():
    window = np.array([0, 0, 0.4, 0.4])
    draws = SSDDraws(UNCHANGED, Expansion((300, 300), (200, 200)), window, cv2.INTER_AREA, True)
    result = SSD.image(picture((50, 60), 0), draws, (20, 30))
    assert_array_equal(result, np.broadcast_to([123, 117, 104], (20, 30, 3)))  # Caffe's mean_value, in RGB


def test_colour_last_differs_little():
    """Distorted averages are close to averages of distorted pixels, but not equal to them."""
    colour_last = SSDLayout(32.0, 0.5, 0.5, 18.0, 4.0, colour_last=True)
    differences = []
    for seed in range(100):
        image = picture((120, 160), seed)
        draws = SSD.draw(np.random.default_rng(seed), (120, 160), np.array([[10.0, 10, 60, 60]]))
        result = colour_last.image(image, draws, (64, 64)).astype(int)
        differences.append(np.abs(result - SSD.image(image, draws, (64, 64))).mean())
    assert 0 < np.mean(differences) < 3


def test_boxes_follow_the_pixels():
    """A red rectangle lies at its box.

    As in Caffe, the crop is truncated to whole pixels of the canvas and its boxes are not: an edge is off by
    up to two pixels of the canvas, on average by less than one.
    """
    augmentation = transforms.ssd_augmentation()
    transform = transforms.build_transform(
        augment=augmentation, size=(240, 240), resize="stretch", train=True
    )
    generator = np.random.default_rng(3)
    errors = []
    for seed in range(300):
        low = generator.integers(30, 90, 2)
        high = low + generator.integers(30, 60, 2)
        image = np.zeros((160, 160, 3), np.uint8)
        image[..., 2] = 60
        image[low[1] : high[1], low[0] : high[0]] = [250, 0, 0]
        result = transform(image, np.array([[*low, *high]], float), np.array([5]), seed)
        if len(result.boxes) and result.boxes.min() > 3 and result.boxes.max() < 237:
            red = result.image[..., 0].astype(int) - np.maximum(result.image[..., 1], result.image[..., 2])
            rows, columns = np.nonzero(red > red.max() / 2)
            rectangle = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            zoom = (result.boxes[0, 2:] - result.boxes[0, :2]) / (high - low)
            errors.append((result.boxes[0] - rectangle) / np.maximum(np.tile(zoom, 2), 1))
    assert len(errors) > 60
    assert np.abs(errors).max() < 2.1
    assert np.abs(np.mean(errors, 0)).max() < 1


def test_distribution_of_draws():
    """Half are mirrored, all interpolations are equally frequent; no correlations."""
    box = np.array([[20.0, 20, 60, 60]])
    draws = [SSD.draw(np.random.default_rng(seed), (100, 100), box) for seed in range(2000)]
    assert_allclose(np.mean([draw.mirror for draw in draws]), 0.5, atol=0.04)
    shares = [sum(draw.interpolation == kind for draw in draws) / 2000 for kind in INTERPOLATIONS]
    assert_allclose(shares, 0.2, atol=0.03)
    numbers = [
        [d.mirror, d.interpolation, d.distortion.brightness, d.expansion.size[0], d.window[0], d.window[2]]
        for d in draws
    ]
    correlation = np.corrcoef(np.transpose(numbers)) - np.eye(6)
    # the edges of a window are correlated, and windows depend on how small the canvas makes the object
    correlation[3:, 3:] = 0
    assert np.abs(correlation).max() < 0.08


@pytest.mark.parametrize("augment", ["ssd", "darknet", "darknet_2016", "course"])
@pytest.mark.parametrize("size", [(1, 1), (1, 900), (700, 1), (2, 3), (5, 4), (333, 1000)])
def test_no_image_and_no_box_crashes_the_augmentation(augment, size):
    """Boxes on the borders, outside, without area, inside out, of a hundredth of a pixel."""
    height, width = size
    boxes = np.array(
        [
            [0, 0, width, height],
            [0, 0, width / 2, height / 2],
            [width - 0.01, height - 0.01, width, height],
            [-5, -5, -1, -1],
            [width, height, width + 9, height + 9],
            [width / 2, 0, width / 2, height],
            [width, height, 0, 0],
            [-1e6, -1e6, 1e6, 1e6],
        ]
    )
    augmentation = transforms.AUGMENTATIONS[augment]()
    transform = transforms.build_transform(
        augment=augmentation, size=(48, 64), resize=augmentation.resize or "stretch", train=True
    )
    for seed in range(25):
        other_size = (64, 40) if seed % 2 else None
        rows, columns = other_size or (48, 64)
        result = transform(np.full((*size, 3), 200, np.uint8), boxes, np.arange(8), seed, other_size)
        assert result.image.shape == (rows, columns, 3) and result.image.dtype == np.uint8
        assert set(result.kept) <= {0, 1, 2, 7} and len(set(result.kept)) == len(result.kept)
        assert_array_equal(result.labels, result.kept)
        assert np.isfinite(result.boxes).all() and (result.boxes >= 0).all()
        assert (result.boxes <= [columns, rows, columns, rows]).all()
        assert (result.boxes[:, 2:] > result.boxes[:, :2]).all()


@pytest.mark.parametrize("augment", ["ssd", "darknet", "darknet_2016"])
def test_the_input_size_does_not_change_the_draws(augment):
    """Multi-scale training: boxes relative to the input stay the same."""
    transform = transforms.build_transform(
        augment=transforms.AUGMENTATIONS[augment](), size=(96, 96), resize="stretch", train=True
    )
    image = picture((90, 128), 0)
    boxes = np.array([[10.0, 10, 60, 60], [50, 20, 120, 80]])
    for seed in range(20):
        small = transform(image, boxes, np.zeros(2), seed)
        large = transform(image, boxes, np.zeros(2), seed, (192, 192))
        assert_array_equal(small.kept, large.kept)
        assert_allclose(small.boxes * 2, large.boxes, atol=1e-4)


def test_the_builder_passes_its_settings_on():
    settings = {
        "brightness": 1.0,
        "contrast": 0.2,
        "saturation": 0.3,
        "hue": 4.0,
        "expand": 5.0,
        "colour_last": True,
    }
    assert asdict(transforms.ssd_augmentation(**settings).layout) == settings
    assert transforms.ssd_augmentation().layout == SSD


@pytest.mark.parametrize(
    "settings", [{"expand": 0.5}, {"brightness": -1}, {"contrast": 1.5}, {"saturation": 2}, {"hue": 100}]
)
def test_settings_out_of_range_raise(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"{name}=.*must be from"):
        transforms.ssd_augmentation(**settings)
