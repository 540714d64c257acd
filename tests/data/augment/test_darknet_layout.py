"""Darknet's placement and crop jitter, compared with an unrounded version, recorded numbers and loops."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from detectors.commands.verify import darknet_augment
from detectors.darknet.framing import darknet_resize, to_unit
from detectors.data.augment import transforms
from detectors.data.augment.darknet_layout import (
    CropDraws,
    DarknetCrop,
    DarknetPlacement,
    PlacementDraws,
    cropped,
    placed,
    put,
    scaled,
)
from detectors.data.augment.photometric import Shade
from tests.data.augment.test_ssd_layout import picture

GREY = 127  # written out: a test that imports the constant cannot see it change
SETTINGS = {"jitter": 0.3, "hue": 0.1, "saturation": 1.5, "exposure": 1.5, "max_boxes": 30}
UNSHADED = Shade(0.0, 1.0, 1.0)
ROUNDING = 0.52  # levels: half a level, and the float32 error of the sampling positions


def relative(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """xyxy pixels -> Darknet's labels: centre and sides relative to the image."""
    height, width = size
    boxes = boxes / [width, height, width, height]
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)


def absolute(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The inverse of relative()."""
    height, width = size
    corners = np.concatenate([labels[:, :2] - labels[:, 2:] / 2, labels[:, :2] + labels[:, 2:] / 2], 1)
    return corners * [width, height, width, height]


def random_boxes(size: tuple[int, int], count: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    low = generator.random((count, 2)) * 0.9
    high = low + (1 - low) * generator.uniform(0.05, 1, low.shape)
    return np.concatenate([low, high], 1) * np.tile(size[::-1], 2)


@pytest.mark.parametrize("original", [(40, 60), (120, 90), (300, 31)])
@pytest.mark.parametrize("size", [(96, 96), (64, 128), (150, 70)])
@pytest.mark.parametrize("flip", [False, True])
def test_placement_equals_darknets_within_rounding(original, size, flip):
    """place_image on grey (its .5 is 127.5, ours 127): enlarged and shrunk, into square and other inputs."""
    layout = DarknetPlacement(**SETTINGS)
    image = picture(original, 0)
    for seed in range(4):
        draws = layout.draw(np.random.default_rng(seed), original, np.zeros((0, 4)))
        draws = draws._replace(shade=UNSHADED, flip=flip)
        extent, corner = placed(draws, size)
        expected = darknet_augment.place(to_unit(image), size, extent, corner).transpose(1, 2, 0) * 255
        expected = expected[:, ::-1] if flip else expected
        assert_allclose(layout.image(image, draws, size).astype(float), expected, atol=ROUNDING)


def test_the_extent_is_that_of_load_data_detection():
    """new_ar < 1: nh = h, nw = nh * new_ar; else nw = w, nh = nw / new_ar; dx from 0 to w - nw."""
    draws = PlacementDraws(0.75, (0.5, 0.25), UNSHADED, False, np.zeros(0, int))
    assert placed(draws, (400, 480)) == ((400.0, 300.0), (0.0, 45.0))
    assert placed(draws._replace(aspect=1.25), (400, 480)) == ((384.0, 480.0), (8.0, 0.0))
    # larger than the input: cropped on both sides
    assert placed(draws._replace(aspect=1.0), (400, 480)) == ((480.0, 480.0), (-40.0, 0.0))


ORIGINAL = (70, 110)  # (height, width)
INPUT = (96, 128)


def boxes_with_thin_ones() -> np.ndarray:
    thin = [[0, 0, 0.05, 70], [10, 10, 10.2, 40], [30, 20, 50, 20.01]]
    return np.concatenate([random_boxes(ORIGINAL, 12, 1), thin])


@pytest.mark.parametrize("flip", [False, True])
def test_placed_boxes_equal_darknets_correct_boxes(flip):
    """In the drawn order, without the thin ones."""
    layout = DarknetPlacement(**SETTINGS)
    boxes = boxes_with_thin_ones()
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(len(boxes))
        draws = layout.draw(np.random.default_rng(seed), ORIGINAL, boxes)._replace(flip=flip, order=order)
        (nh, nw), (dy, dx) = placed(draws, INPUT)
        shift = (-dx / 128, -dy / 96)
        scale = (nw / 128, nh / 96)
        assert_equal_correct_boxes(layout, boxes, draws, shift=shift, scale=scale)


@pytest.mark.parametrize("flip", [False, True])
def test_cropped_boxes_equal_darknets_correct_boxes(flip):
    layout = DarknetCrop(**SETTINGS)
    boxes = boxes_with_thin_ones()
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(len(boxes))
        draws = layout.draw(np.random.default_rng(seed), ORIGINAL, boxes)._replace(flip=flip, order=order)
        top, bottom, left, right = draws.edges
        sx = (110 - left - right) / 110
        sy = (70 - top - bottom) / 70
        shift = (left / 110 / sx, top / 70 / sy)
        assert_equal_correct_boxes(layout, boxes, draws, shift=shift, scale=(1 / sx, 1 / sy))


def assert_equal_correct_boxes(layout, boxes, draws, *, shift, scale):
    labels = relative(boxes, ORIGINAL)[draws.order]
    expected = darknet_augment.correct_boxes(labels, shift=shift, scale=scale, flip=draws.flip)
    wide = (expected[:, 2:] >= 0.001).all(1)
    assert 5 < wide.sum() < len(boxes)
    result, rows = layout.boxes(boxes, draws, ORIGINAL, INPUT)
    assert_array_equal(rows, draws.order[wide])
    assert_allclose(result, absolute(expected[wide], INPUT), atol=2e-4)


def test_at_most_max_boxes_count_and_dropped_ones_are_not_replaced():
    """The shuffled list is cut to 30 boxes first; the thin ones are dropped after that."""
    boxes = random_boxes((100, 100), 40, 2)
    boxes[::2, 2] = boxes[::2, 0]
    layout = DarknetPlacement(**SETTINGS)
    draws = layout.draw(np.random.default_rng(0), (100, 100), boxes)
    assert_array_equal(np.sort(draws.order), np.arange(40))
    rows = layout.boxes(boxes, draws, (100, 100), (64, 64))[1]
    assert_array_equal(rows, [row for row in draws.order[:30] if row % 2])


@pytest.mark.data
def test_recorded_placements(shared):
    """Darknet's own results. Its images are fractions, ours are levels, before and after."""
    folder = shared / "oracles/darknet"
    cases = json.loads((folder / "ops.json").read_text())
    arrays = np.load(folder / "ops.npz")
    placements = {name: case for name, case in cases.items() if case["op"] == "place"}
    assert placements
    for name, case in placements.items():
        image = np.rint(arrays[f"{name}/input"].transpose(1, 2, 0) * 255).astype(np.uint8)
        canvas = np.full((case["h"], case["w"], 3), GREY, np.uint8)
        resized = scaled(image, (int(case["nh"]), int(case["nw"])))
        put(canvas, resized, (int(case["dy"]), int(case["dx"])))
        expected = arrays[f"{name}/output"].transpose(1, 2, 0) * 255
        assert_allclose(canvas.astype(float), expected, atol=1.05)


@pytest.mark.data
def test_the_rounding_error_on_photographs(shared):
    """Placement differs from Darknet's by no more than the rounding to whole levels."""
    worst = 0.0
    photographs = sorted((shared / "data/voc2012-animals").rglob("*.jpg"))[:4]
    assert len(photographs) == 4
    for path in photographs:
        image = cv2.imread(str(path))[..., ::-1]
        for size in ((300, 237), (173, 416), (608, 500)):
            expected = darknet_augment.place(to_unit(image), size, size, (0, 0)).transpose(1, 2, 0) * 255
            worst = max(worst, np.abs(scaled(image, size) - expected).max())
    assert worst < ROUNDING


@pytest.mark.parametrize("flip", [False, True])
def test_the_crop_of_2016_equals_darknets_crop_and_resize(flip):
    """crop_image repeats the outermost pixels; resize_image aligns the corners."""
    layout = DarknetCrop(**SETTINGS)
    image = picture((70, 110), 3)
    for edges in [(0, 0, 0, 0), (5, -7, 20, 3), (-21, 8, -30, -33), (21, 21, 33, 33)]:
        above, below, left, right = edges
        rows = np.clip(np.arange(above, 70 - below), 0, 69)
        columns = np.clip(np.arange(left, 110 - right), 0, 109)
        expected = darknet_resize(to_unit(image[rows][:, columns]), (96, 64)).transpose(1, 2, 0) * 255
        expected = expected[:, ::-1] if flip else expected
        draws = CropDraws(edges, UNSHADED, flip, np.zeros(0, int))
        assert cropped(draws, (70, 110)) == ((above, left), (len(rows), len(columns)))
        assert_allclose(layout.image(image, draws, (96, 64)).astype(float), expected, atol=ROUNDING)


def test_grey_is_shaded_with_the_image():
    layout = DarknetPlacement(**SETTINGS)
    draws = PlacementDraws(2.0, (0.5, 0.5), Shade(0.05, 1.4, 1.5), False, np.zeros(0, int))
    result = layout.image(np.full((30, 60, 3), 100, np.uint8), draws, (64, 64))
    assert_array_equal(result[:15], np.full((15, 64, 3), np.rint(GREY * 1.5)))
    assert_array_equal(result[20:40, 5:50], np.full((20, 45, 3), 150))


QUARTILES = [0, 0.25, 0.5, 0.75, 1]


def test_distribution_of_placements():
    """Aspect from (w +- .3 w) / (h +- .3 h); places and flips uniform; no correlations."""
    layout = DarknetPlacement(**SETTINGS)
    draws = [layout.draw(np.random.default_rng(seed), (300, 400), np.zeros((3, 4))) for seed in range(2000)]
    numbers = np.array([[d.aspect, *d.place, *d.shade, d.flip, d.order[0]] for d in draws])
    aspects = numbers[:, 0]
    assert 400 / 300 * 0.7 / 1.3 < aspects.min() < 0.8
    assert 2.2 < aspects.max() < 400 / 300 * 1.3 / 0.7
    assert_allclose(np.quantile(numbers[:, 1:3], QUARTILES, axis=0).T, [QUARTILES] * 2, atol=0.04)
    assert_allclose(numbers[:, 6].mean(), 0.5, atol=0.04)
    assert np.abs(np.corrcoef(numbers.T) - np.eye(8)).max() < 0.08


def test_distribution_of_crops():
    """Edges uniform up to .3 of the side; no correlations."""
    layout = DarknetCrop(**SETTINGS)
    draws = [layout.draw(np.random.default_rng(seed), (300, 400), np.zeros((3, 4))) for seed in range(2000)]
    edges = np.array([d.edges for d in draws])
    expected = [[-90, -45, 0, 45, 90]] * 2 + [[-120, -60, 0, 60, 120]] * 2
    assert_allclose(np.quantile(edges, QUARTILES, axis=0).T, expected, atol=8)
    assert np.abs(np.corrcoef(edges.T) - np.eye(4)).max() < 0.08


@pytest.mark.parametrize("augment", ["darknet", "darknet_2016"])
def test_boxes_follow_the_pixels(augment):
    """A red rectangle on black lies at its box, within the error of truncation and of aligned corners."""
    transform = transforms.build_transform(
        augment=transforms.AUGMENTATIONS[augment](), size=(160, 160), resize="stretch", train=True
    )
    generator = np.random.default_rng(0)
    errors = []
    for seed in range(200):
        low = generator.integers(30, 60, 2)
        high = low + generator.integers(20, 40, 2)
        image = np.zeros((120, 140, 3), np.uint8)
        image[low[1] : high[1], low[0] : high[0]] = [250, 0, 0]
        result = transform(image, np.array([[*low, *high]], float), np.array([2]), seed)
        strong = result.image.max(-1).astype(int) - result.image.min(-1)
        rows, columns = np.nonzero(strong > strong.max() / 2)
        errors.append(result.boxes[0] - [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    assert np.abs(errors).max() < 2.6
    assert np.abs(np.mean(errors, 0)).max() < 1


@pytest.mark.parametrize("augment", ["darknet", "darknet_2016"])
@pytest.mark.parametrize(
    "settings", [{"jitter": 0.5}, {"hue": -0.1}, {"saturation": 0.5}, {"exposure": 0.9}, {"max_boxes": 0}]
)
def test_settings_out_of_range_raise(augment, settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"{name}=.*must be from"):
        transforms.AUGMENTATIONS[augment](**settings)
