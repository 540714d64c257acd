"""Darknet's placement and crop jitter against its own page (weights/darknet_augment.py), recorded numbers and loops."""

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
from detectors.data.augment.fitting import GREY
from detectors.data.augment.photometric import Shade
from tests.data.augment.test_ssd_layout import picture

SETTINGS = {"jitter": 0.3, "hue": 0.1, "saturation": 1.5, "exposure": 1.5, "max_boxes": 30}
UNSHADED = Shade(0.0, 1.0, 1.0)
ROUNDING = 0.52  # half a level, and what float32 makes of the places


def relative(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """xyxy pixels -> Darknet's labels: centre and sides as shares."""
    height, width = size
    shares = boxes / [width, height, width, height]
    return np.concatenate([(shares[:, :2] + shares[:, 2:]) / 2, shares[:, 2:] - shares[:, :2]], 1)


def absolute(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    return np.concatenate([labels[:, :2] - labels[:, 2:] / 2, labels[:, :2] + labels[:, 2:] / 2], 1) * [
        width,
        height,
        width,
        height,
    ]


def some_boxes(size: tuple[int, int], count: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    low = generator.random((count, 2)) * 0.9
    return np.concatenate([low, low + (1 - low) * generator.uniform(0.05, 1, low.shape)], 1) * np.tile(
        size[::-1], 2
    )


@pytest.mark.parametrize("original", [(40, 60), (120, 90), (300, 31)])
@pytest.mark.parametrize("size", [(96, 96), (64, 128), (150, 70)])
@pytest.mark.parametrize("flip", [False, True])
def test_placement_is_darknets_but_for_the_rounding(original, size, flip):
    """place_image on grey (its .5 is 127.5, ours 127), enlarged and shrunk, into square inputs and others."""
    layout, image = DarknetPlacement(**SETTINGS), picture(original, 0)
    for seed in range(4):
        draws = layout.draw(np.random.default_rng(seed), original, np.zeros((0, 4)))._replace(
            shade=UNSHADED, flip=flip
        )
        extent, corner = placed(draws, size)
        expected = darknet_augment.place(to_unit(image), size, extent, corner).transpose(1, 2, 0) * 255
        expected = expected[:, ::-1] if flip else expected
        assert_allclose(layout.image(image, draws, size).astype(float), expected, atol=ROUNDING)


def test_the_extent_is_load_data_detections():
    """new_ar < 1: nh = h, nw = nh * new_ar; else nw = w, nh = nw / new_ar; dx from 0 to w - nw."""
    draws = PlacementDraws(0.75, (0.5, 0.25), UNSHADED, False, np.zeros(0, int))
    assert placed(draws, (400, 480)) == ((400.0, 300.0), (0.0, 45.0))
    assert placed(draws._replace(aspect=1.25), (400, 480)) == ((384.0, 480.0), (8.0, 0.0))
    assert placed(draws._replace(aspect=1.0), (400, 480)) == (
        (480.0, 480.0),
        (-40.0, 0.0),
    )  # larger than the input: cut on both sides


@pytest.mark.parametrize("flip", [False, True])
def test_boxes_are_correct_boxes(flip):
    """Placement and crop; in the drawn order, thin ones dropped."""
    size, original = (96, 128), (70, 110)
    boxes = np.concatenate(
        [some_boxes(original, 12, 1), [[0, 0, 0.05, 70], [10, 10, 10.2, 40], [30, 20, 50, 20.01]]]
    )
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(len(boxes))
        draws = (
            DarknetPlacement(**SETTINGS)
            .draw(np.random.default_rng(seed), original, boxes)
            ._replace(flip=flip, order=order)
        )
        (nh, nw), (dy, dx) = placed(draws, size)
        geometry = {"shift": (-dx / 128, -dy / 96), "scale": (nw / 128, nh / 96), "flip": flip}
        _same_boxes(
            DarknetPlacement(**SETTINGS).boxes(boxes, draws, original, size),
            boxes,
            order,
            original,
            size,
            geometry,
        )
        crop = (
            DarknetCrop(**SETTINGS)
            .draw(np.random.default_rng(seed), original, boxes)
            ._replace(flip=flip, order=order)
        )
        top, bottom, left, right = crop.edges
        sx, sy = (110 - left - right) / 110, (70 - top - bottom) / 70
        geometry = {"shift": (left / 110 / sx, top / 70 / sy), "scale": (1 / sx, 1 / sy), "flip": flip}
        _same_boxes(
            DarknetCrop(**SETTINGS).boxes(boxes, crop, original, size), boxes, order, original, size, geometry
        )


def _same_boxes(found, boxes, order, original, size, geometry):
    expected = darknet_augment.correct_boxes(relative(boxes, original)[order], **geometry)
    wide = (expected[:, 2:] >= 0.001).all(1)
    assert 5 < wide.sum() < len(boxes)
    assert_array_equal(found[1], order[wide])
    assert_allclose(found[0], absolute(expected[wide], size), atol=2e-4)


def test_thirty_boxes_at_most_before_the_thin_ones_go():
    """The list is cut in its shuffled order; what is then too thin is not replaced."""
    boxes = some_boxes((100, 100), 40, 2)
    boxes[::2, 2] = boxes[::2, 0]
    layout = DarknetPlacement(**SETTINGS)
    draws = layout.draw(np.random.default_rng(0), (100, 100), boxes)
    assert_array_equal(np.sort(draws.order), np.arange(40))
    rows = layout.boxes(boxes, draws, (100, 100), (64, 64))[1]
    assert_array_equal(rows, [row for row in draws.order[:30] if row % 2])


@pytest.mark.data
def test_recorded_placements_and_boxes(shared):
    """What Darknet itself computed; its images in fractions, ours in levels."""
    folder = shared / "oracles/darknet"
    cases, arrays = json.loads((folder / "ops.json").read_text()), np.load(folder / "ops.npz")
    seen = []
    for name, case in cases.items():
        if case["op"] == "place":
            levels = np.rint(arrays[f"{name}/input"].transpose(1, 2, 0) * 255).astype(np.uint8)
            canvas = np.full((case["h"], case["w"], 3), GREY, np.uint8)
            put(
                canvas, scaled(levels, (int(case["nh"]), int(case["nw"]))), (int(case["dy"]), int(case["dx"]))
            )
            assert_allclose(
                canvas.astype(float), arrays[f"{name}/output"].transpose(1, 2, 0) * 255, atol=1.05
            )  # levels in, levels out
            seen.append("place")
    assert seen


@pytest.mark.data
def test_the_rounding_on_photographs(shared):
    worst = 0.0
    for path in sorted((shared / "data/voc2012-animals").rglob("*.jpg"))[:4]:
        image = cv2.imread(str(path))[..., ::-1]
        for rows, columns in ((300, 237), (173, 416), (608, 500)):
            expected = (
                darknet_augment.place(to_unit(image), (rows, columns), (rows, columns), (0, 0)).transpose(
                    1, 2, 0
                )
                * 255
            )
            worst = max(worst, np.abs(scaled(image, (rows, columns)) - expected).max())
    assert worst < ROUNDING


@pytest.mark.parametrize("flip", [False, True])
def test_the_crop_of_2016_equals_crop_and_resize(flip):
    """crop_image repeats the outermost pixels; resize_image aligns the corners."""
    layout, image = DarknetCrop(**SETTINGS), picture((70, 110), 3)
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
    layout, draws = (
        DarknetPlacement(**SETTINGS),
        PlacementDraws(2.0, (0.5, 0.5), Shade(0.05, 1.4, 1.5), False, np.zeros(0, int)),
    )
    result = layout.image(np.full((30, 60, 3), 100, np.uint8), draws, (64, 64))
    assert_array_equal(result[:15], np.full((15, 64, 3), np.rint(GREY * 1.5)))
    assert_array_equal(result[20:40, 5:50], np.full((20, 45, 3), 150))


def test_what_is_drawn():
    """Aspect from (w +- .3 w) / (h +- .3 h); places, flips, edges uniform; nothing correlated."""
    boxes = np.zeros((3, 4))
    draws = [
        DarknetPlacement(**SETTINGS).draw(np.random.default_rng(seed), (300, 400), boxes)
        for seed in range(2000)
    ]
    numbers = np.array([[d.aspect, *d.place, *d.shade, d.flip, d.order[0]] for d in draws])
    assert (
        400 / 300 * 0.7 / 1.3 < numbers[:, 0].min() < 0.8
        and 2.2 < numbers[:, 0].max() < 400 / 300 * 1.3 / 0.7
    )
    assert_allclose(
        np.quantile(numbers[:, 1:3], [0, 0.25, 0.5, 0.75, 1], axis=0).T,
        [[0, 0.25, 0.5, 0.75, 1]] * 2,
        atol=0.04,
    )
    assert_allclose(numbers[:, 6].mean(), 0.5, atol=0.04)
    assert np.abs(np.corrcoef(numbers.T) - np.eye(8)).max() < 0.08
    crops = [
        DarknetCrop(**SETTINGS).draw(np.random.default_rng(seed), (300, 400), boxes) for seed in range(2000)
    ]
    edges = np.array([d.edges for d in crops])
    assert_allclose(
        np.quantile(edges, [0, 0.25, 0.5, 0.75, 1], axis=0).T,
        [[-90, -45, 0, 45, 90]] * 2 + [[-120, -60, 0, 60, 120]] * 2,
        atol=8,
    )
    assert np.abs(np.corrcoef(edges.T) - np.eye(4)).max() < 0.08


@pytest.mark.parametrize("augment", ["darknet", "darknet_2016"])
def test_boxes_follow_the_pixels(augment):
    """A red rectangle on black, found again: within the pixels that Darknet's cutting to whole numbers and aligned corners cost."""
    transform = transforms.build_transform(
        augment=transforms.AUGMENTATIONS[augment](), size=(160, 160), resize="stretch", train=True
    )
    generator, errors = np.random.default_rng(0), []
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
def test_bad_settings_are_refused(augment, settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"{name}=.*must be from"):
        transforms.AUGMENTATIONS[augment](**settings)
