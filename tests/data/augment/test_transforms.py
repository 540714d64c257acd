"""Resizing and augmentation: exact maps, boxes that follow the pixels, a result that the seed alone decides."""

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
        ((333, 500), (300, 300), (199, 300), (50, 0)),  # 199.8: down
        ((500, 375), (300, 500), (300, 225), (0, 137)),
        ((100, 100), (416, 416), (416, 416), (0, 0)),
        ((1, 5000), (416, 416), (1, 416), (207, 0)),
    ],
)
def test_letterbox_rounds_as_darknet(size_original, size, resized, top_left):
    """new_w = w, new_h = (im.h * w) / im.w in integers, image at ((w - new_w) / 2, (h - new_h) / 2)."""
    assert letterbox(size_original, size) == (resized, top_left)


def test_stretch_takes_the_whole_input():
    assert stretch((30, 50), (64, 96)) == ((64, 96), (0, 0))


@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
@pytest.mark.parametrize("size_original", [(48, 100), (100, 48), (333, 500), (64, 96), (7, 5)])
def test_evaluation_maps_boxes_exactly(resize, size_original):
    """Law: x_input = x_original * scale + shift, and back; difficult little boxes are all there."""
    height, width = size_original
    boxes = np.array([[0, 0, width, height], [1.5, 2, 4.25, 5], [0, 0, 0.5, 0.5]])
    result = transform("light", (64, 96), resize, train=False)(
        noise(size_original), boxes, np.array([3, 1, 0]), seed=5
    )
    scale, shift = np.tile(result.scale_xy, 2), np.tile(result.shift_xy, 2)
    assert_allclose(result.boxes, boxes * scale + shift, atol=1e-5)
    assert_allclose((result.boxes - shift) / scale, boxes, atol=1e-4)
    assert (
        result.boxes.dtype == np.float32
        and result.image.shape == (64, 96, 3)
        and result.image.dtype == np.uint8
    )
    assert_array_equal(result.labels, [3, 1, 0])
    assert_array_equal(result.kept, [0, 1, 2])
    fit = (letterbox if resize == "letterbox" else stretch)(size_original, (64, 96))
    assert result.scale_xy == (fit.size[1] / width, fit.size[0] / height)


def test_letterbox_leaves_grey_bars_and_an_unresized_image_alone():
    image = noise((64, 32))
    result = transform("none", (64, 64))(image, np.zeros((0, 4)), np.zeros(0), seed=0).image
    assert_array_equal(result[:, 16:48], image)
    assert (result[:, :16] == GREY).all() and (result[:, 48:] == GREY).all()


@pytest.mark.parametrize(("resize", "size_original"), [("letterbox", (120, 160)), ("stretch", (100, 60))])
def test_augmented_boxes_follow_the_pixels(resize, size_original):
    """A white rectangle on black, found again by its pixels: its edges are where the box says, on average to a hundredth of a pixel."""
    light = transform("light", (160, 160), resize)
    light.colour = None  # geometry alone
    generator, errors, mirrored = np.random.default_rng(0), [], 0
    for seed in range(120):
        low = generator.integers(5, 30, 2)
        high = low + generator.integers(10, 25, 2)
        image = np.zeros((*size_original, 3), dtype=np.uint8)
        image[low[1] : high[1], low[0] : high[0], 0] = 255  # red; grey filling has blue in it as well
        result = light(image, np.array([[*low, *high]], dtype=float), np.array([2]), seed)
        red = result.image[..., 0].astype(float) - result.image[..., 2]
        rows, columns = np.nonzero(red > 127)
        if len(result.boxes) and len(rows) and result.boxes.min() > 1 and result.boxes.max() < 159:
            errors.append(result.boxes[0] - [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            mirrored += columns.mean() > 80
    assert len(errors) > 90
    assert (
        np.abs(errors).max() < 1.1
    )  # a pixel counts from half of its light on; stretched rows are almost three pixels high
    assert_allclose(np.mean(errors, 0), 0, atol=0.12)
    assert 0.2 < mirrored / len(errors) < 0.8


@pytest.mark.parametrize("augment", ["none", "light", "ssd", "darknet", "darknet_2016", "course"])
def test_the_seed_alone_decides(augment):
    """Two objects, used in different orders, agree; another seed gives another image."""
    image, boxes, labels = noise((80, 60)), np.array([[5.0, 5, 40, 50], [20, 30, 59, 79]]), np.array([0, 1])
    first, second = transform(augment), transform(augment)
    forwards = [first(image, boxes, labels, seed) for seed in range(6)]
    backwards = [second(image, boxes, labels, seed) for seed in reversed(range(6))][::-1]
    for ours, theirs in zip(forwards, backwards, strict=True):
        for left, right in zip(ours, theirs, strict=True):
            assert_array_equal(left, right)
    images = {sample.image.tobytes() for sample in forwards}
    assert len(images) == (1 if augment == "none" else 6)
    pickled = pickle.loads(pickle.dumps(first))(image, boxes, labels, 3)  # workers may be started by pickling
    assert_array_equal(pickled.image, forwards[3].image)


def test_draws_of_different_transforms_are_independent():
    """Compose.set_random_seed would give mirror, zoom and brightness the same numbers; then place and brightness correlate at .36."""
    light = transform("light", (64, 64))
    image = np.full((64, 64, 3), 100, dtype=np.uint8)
    draws = []
    for seed in range(300):
        result = light(image, np.array([[22.0, 22, 32, 42]]), np.array([0]), seed)
        (xmin, ymin, xmax, ymax), brightness = result.boxes[0], result.image[30:34, 30:34].mean()
        draws.append((xmax - xmin, ymax - ymin, xmin + xmax, ymin + ymax, brightness))
    assert (np.std(draws, 0) > [0.5, 1, 5, 5, 3]).all()
    correlation = np.corrcoef(np.transpose(draws)) - np.eye(5)
    assert np.abs(correlation).max() < 0.2


def test_any_box_is_survived():
    """Outside, across the border, without area, inside out, one pixel: clipped or dropped, never a crash."""
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
            assert (
                (result.boxes >= 0).all() and (result.boxes <= 64).all() and np.isfinite(result.boxes).all()
            )
            assert (result.boxes[:, 2:] - result.boxes[:, :2] >= 1).all()


def test_no_boxes_at_all():
    for augment in ("none", "light", "ssd", "darknet", "darknet_2016", "course"):
        result = transform(augment)(noise((60, 60)), np.zeros((0, 4)), np.zeros(0, dtype=np.int64), 1)
        assert result.boxes.shape == (0, 4) and result.labels.shape == (0,)


def test_a_truth_goes_with_its_centre():
    """A red dot marks the centre of a box along the border: the truth is kept where the dot is still seen."""
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
        seen = red.sum() / 255
        if seen > 18:
            assert len(result.kept) == 1
        if seen < 8:
            assert len(result.kept) == 0
        kept.append(len(result.kept))
    assert 0.3 < np.mean(kept) < 0.95


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="resize='crop': choose one of letterbox, stretch"):
        transform(resize="crop")
    with pytest.raises(ValueError, match=r"size=\(0, 64\)"):
        transform(size=(0, 64))
