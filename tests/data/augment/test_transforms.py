"""Resizing and augmentation: exact maps, boxes follow the pixels, results depend on the seed alone."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from detectors.data.augment import transforms
from detectors.data.augment.fitting import GREY, letterbox, stretch
from detectors.data.augment.transforms import build_transform


def noise(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def transform(
    augment: str = "light", size: tuple[int, int] = (64, 64), resize: str = "letterbox", train: bool = True
):
    return build_transform(augment=transforms.AUGMENTATIONS[augment](), size=size, resize=resize, train=train)


@pytest.mark.parametrize(
    ("size_original", "size", "resized", "top_left"),
    [
        ((480, 640), (416, 416), (312, 416), (52, 0)),
        ((640, 480), (416, 416), (416, 312), (0, 52)),
        ((333, 500), (416, 416), (277, 416), (69, 0)),  # 333 * 416 / 500 = 277.06; (416 - 277) / 2 = 69.5
        ((333, 500), (300, 300), (199, 300), (50, 0)),  # 199.8, rounded down
        ((500, 375), (300, 500), (300, 225), (0, 137)),
        ((100, 100), (416, 416), (416, 416), (0, 0)),
        ((1, 5000), (416, 416), (1, 416), (207, 0)),
    ],
)
def test_letterbox_rounds_like_darknet(size_original, size, resized, top_left):
    """new_w = w, new_h = (im.h * w) / im.w in integers, image at ((w - new_w) / 2, (h - new_h) / 2)."""
    assert letterbox(size_original, size) == (resized, top_left)


def test_stretch_fills_the_whole_input():
    assert stretch((30, 50), (64, 96)) == ((64, 96), (0, 0))


@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
@pytest.mark.parametrize("size_original", [(48, 100), (100, 48), (333, 500), (64, 96), (7, 5)])
def test_evaluation_maps_boxes_exactly(resize, size_original):
    """Law: x_input = x_original * scale + shift, and back. No box is dropped, however small."""
    height, width = size_original
    boxes = np.array([[0, 0, width, height], [1.5, 2, 4.25, 5], [0, 0, 0.5, 0.5]])
    evaluation = transform("light", (64, 96), resize, train=False)
    result = evaluation(noise(size_original), boxes, np.array([3, 1, 0]), seed=5)
    scale = np.tile(result.scale_xy, 2)
    shift = np.tile(result.shift_xy, 2)
    assert_allclose(result.boxes, boxes * scale + shift, atol=1e-5)
    assert_allclose((result.boxes - shift) / scale, boxes, atol=1e-4)
    assert result.boxes.dtype == np.float32
    assert result.image.shape == (64, 96, 3) and result.image.dtype == np.uint8
    assert_array_equal(result.labels, [3, 1, 0])
    assert_array_equal(result.kept, [0, 1, 2])
    fit = (letterbox if resize == "letterbox" else stretch)(size_original, (64, 96))
    assert result.scale_xy == (fit.size[1] / width, fit.size[0] / height)


def test_letterbox_adds_grey_bars_to_an_image_that_fits():
    image = noise((64, 32))
    result = transform("none", (64, 64))(image, np.zeros((0, 4)), np.zeros(0), seed=0).image
    assert_array_equal(result[:, 16:48], image)
    assert (result[:, :16] == GREY).all() and (result[:, 48:] == GREY).all()


@pytest.mark.parametrize(("resize", "size_original"), [("letterbox", (120, 160)), ("stretch", (100, 60))])
def test_augmented_boxes_follow_the_pixels(resize, size_original):
    """A red rectangle on black lies at its box, on average within .12 pixels."""
    light = transform("light", (160, 160), resize)
    light.colour = None  # geometry only
    generator = np.random.default_rng(0)
    errors = []
    mirrored = 0
    for seed in range(120):
        low = generator.integers(5, 30, 2)
        high = low + generator.integers(10, 25, 2)
        image = np.zeros((*size_original, 3), dtype=np.uint8)
        image[low[1] : high[1], low[0] : high[0], 0] = 255  # red; the grey fill has as much blue as red
        result = light(image, np.array([[*low, *high]], dtype=float), np.array([2]), seed)
        red = result.image[..., 0].astype(float) - result.image[..., 2]
        rows, columns = np.nonzero(red > 127)
        if len(result.boxes) and len(rows) and result.boxes.min() > 1 and result.boxes.max() < 159:
            errors.append(result.boxes[0] - [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            mirrored += columns.mean() > 80
    assert len(errors) > 90
    # a pixel counts if it is at least half covered; stretched rows are almost three pixels high
    assert np.abs(errors).max() < 1.1
    assert_allclose(np.mean(errors, 0), 0, atol=0.12)
    assert 0.2 < mirrored / len(errors) < 0.8


@pytest.mark.parametrize("augment", ["none", "light", "ssd", "darknet", "darknet_2016", "course"])
def test_results_depend_on_the_seed_alone(augment):
    """Two transforms agree if seeds come in different orders; another seed gives another image."""
    image = noise((80, 60))
    boxes = np.array([[5.0, 5, 40, 50], [20, 30, 59, 79]])
    labels = np.array([0, 1])
    first = transform(augment)
    second = transform(augment)
    forwards = [first(image, boxes, labels, seed) for seed in range(6)]
    backwards = [second(image, boxes, labels, seed) for seed in reversed(range(6))][::-1]
    for one, other in zip(forwards, backwards, strict=True):
        for value, other_value in zip(one, other, strict=True):
            assert_array_equal(value, other_value)
    images = {sample.image.tobytes() for sample in forwards}
    assert len(images) == (1 if augment == "none" else 6)
    unpickled = pickle.loads(pickle.dumps(first))  # as in spawned workers
    assert_array_equal(unpickled(image, boxes, labels, 3).image, forwards[3].image)


def test_draws_of_different_transforms_are_independent():
    """Compose.set_random_seed would give mirror, zoom and brightness the same numbers.

    Place and brightness would then have a correlation of .36.
    """
    light = transform("light", (64, 64))
    image = np.full((64, 64, 3), 100, dtype=np.uint8)
    draws = []
    for seed in range(300):
        result = light(image, np.array([[22.0, 22, 32, 42]]), np.array([0]), seed)
        xmin, ymin, xmax, ymax = result.boxes[0]
        brightness = result.image[30:34, 30:34].mean()
        draws.append((xmax - xmin, ymax - ymin, xmin + xmax, ymin + ymax, brightness))
    assert (np.std(draws, 0) > [0.5, 1, 5, 5, 3]).all()
    correlation = np.corrcoef(np.transpose(draws)) - np.eye(5)
    assert np.abs(correlation).max() < 0.2


def test_no_box_crashes_the_augmentation():
    """Outside, across the border, without area, inside out, one pixel: clipped or dropped."""
    boxes = np.array(
        [
            [-50, -50, -10, -10],
            [-20, 10, 30, 90],
            [5, 5, 5, 20],
            [40, 40, 30, 30],
            [0, 0, 60, 60],
            [30, 30, 31, 31.0],
            [70, 10, 90, 20],
        ]
    )
    for augment in ("none", "light"):
        for seed in range(20):
            result = transform(augment)(noise((60, 60)), boxes, np.arange(7), seed)
            assert set(result.kept) <= {1, 4, 5} and 4 in result.kept
            assert_array_equal(result.labels, result.kept)
            assert (result.boxes >= 0).all() and (result.boxes <= 64).all()
            assert np.isfinite(result.boxes).all()
            assert (result.boxes[:, 2:] - result.boxes[:, :2] >= 1).all()


def test_images_without_boxes():
    for augment in ("none", "light", "ssd", "darknet", "darknet_2016", "course"):
        result = transform(augment)(noise((60, 60)), np.zeros((0, 4)), np.zeros(0, dtype=np.int64), 1)
        assert result.boxes.shape == (0, 4) and result.labels.shape == (0,)


def test_a_box_is_kept_while_its_centre_is_inside():
    """A red dot marks the centre of a box along the border; the box is kept as long as the dot is visible."""
    light = transform("light", (100, 100))
    light.colour = None
    kept = []
    for seed in range(200):
        box = np.array([[0, 20, 14, 80.0], [20, 0, 80, 10]][seed % 2])
        centre = (box[:2] + box[2:]) / 2
        image = np.zeros((100, 100, 3), dtype=np.uint8)
        x, y = centre.astype(int)
        image[y - 2 : y + 3, x - 2 : x + 3, 0] = 255
        result = light(image, box[None], np.array([0]), seed)
        red = result.image[..., 0].astype(float) - result.image[..., 2]
        visible = red.sum() / 255  # pixels of the dot's 25
        if visible > 18:
            assert len(result.kept) == 1
        if visible < 8:
            assert len(result.kept) == 0
        kept.append(len(result.kept))
    assert 0.3 < np.mean(kept) < 0.95


def test_bad_settings_raise():
    with pytest.raises(ValueError, match="resize='squeeze': choose one of letterbox, stretch"):
        transform(resize="squeeze")
    with pytest.raises(ValueError, match=r"size=\(0, 64\)"):
        transform(size=(0, 64))
