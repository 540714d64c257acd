"""Mosaic and mixup, compared with plain loops over pixels and boxes, and how often they happen."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from detectors.data.augment.mixing import Mixing, mixup, mosaic
from detectors.data.augment.transforms import TransformedSample

HEIGHT = 30
WIDTH = 40


def random_sample(seed: int, count: int = 12) -> TransformedSample:
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 1, (count, 2, 2)) * (WIDTH, HEIGHT)
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1).astype(np.float32)
    image = random.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    labels = random.integers(0, 5, count)
    return TransformedSample(image, boxes, labels, np.arange(count), (0.5, 0.5), (0.0, 0.0))


def naive_mosaic(samples: list[TransformedSample], x: int, y: int) -> tuple[np.ndarray, list[tuple]]:
    """(image, (xmin, ymin, xmax, ymax, label) of each box), pixel by pixel and box by box."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    boxes = []
    for i in range(HEIGHT):
        for j in range(WIDTH):
            image[i, j] = samples[(i >= y) * 2 + (j >= x)].image[i, j]
    for quadrant, part in enumerate(samples):
        left, right = (0, x) if quadrant % 2 == 0 else (x, WIDTH)
        top, bottom = (0, y) if quadrant < 2 else (y, HEIGHT)
        for box, label in zip(part.boxes.tolist(), part.labels.tolist(), strict=True):
            centre_x = (box[0] + box[2]) / 2
            centre_y = (box[1] + box[3]) / 2
            inside = left <= centre_x < right and top <= centre_y < bottom
            clipped = (max(box[0], left), max(box[1], top), min(box[2], right), min(box[3], bottom))
            if inside and clipped[2] - clipped[0] >= 1 and clipped[3] - clipped[1] >= 1:
                boxes.append((*clipped, label))
    return image, boxes


@pytest.mark.parametrize("cut", [(0.2, 0.8), (0.5, 0.5), (0.613, 0.377)])
def test_mosaic_equals_plain_loops(cut):
    samples = [random_sample(seed) for seed in range(4)]
    result = mosaic(samples, cut)
    image, boxes = naive_mosaic(samples, round(cut[0] * WIDTH), round(cut[1] * HEIGHT))
    assert_array_equal(result.image, image)
    assert_allclose(np.column_stack([result.boxes, result.labels]), np.array(boxes), rtol=1e-6)
    assert 4 < len(boxes) < 48 and result.boxes.dtype == np.float32
    for seed, sample in enumerate(samples):  # not modified
        assert_array_equal(sample.image, random_sample(seed).image)


def test_mosaic_with_and_without_boxes():
    empty = [random_sample(seed, count=0) for seed in range(4)]
    result = mosaic(empty, (0.5, 0.5))
    assert result.boxes.shape == (0, 4) and result.labels.shape == result.kept.shape == (0,)
    whole = empty[3]._replace(
        boxes=np.float32([[0, 0, 40, 30], [20, 15, 21, 16], [19.9, 15, 20.9, 20]]),
        labels=np.array([1, 2, 3]),
        kept=np.arange(3),
    )
    result = mosaic([*empty[:3], whole], (0.5, 0.5))
    # the third is .9 pixels wide there
    assert_array_equal(result.boxes, [[20, 15, 40, 30], [20, 15, 21, 16]])
    assert result.labels.tolist() == [1, 2] and result.kept.tolist() == [0, 1]


def test_mixup_is_the_weighted_mean():
    first = random_sample(0)
    second = random_sample(1)
    result = mixup(first, second, 0.3)
    for index in np.ndindex(first.image.shape):
        mean = 0.3 * int(first.image[index]) + 0.7 * int(second.image[index])
        assert abs(int(result.image[index]) - mean) <= 0.501  # rounded
    assert_array_equal(mixup(first, second, 1.0).image, first.image)
    assert_array_equal(mixup(first, second, 0.0).image, second.image)
    assert_array_equal(result.boxes, np.concatenate([first.boxes, second.boxes]))
    assert result.labels.tolist() == [*first.labels.tolist(), *second.labels.tolist()]


def test_how_often_and_from_which_images():
    """2,000 draws: mosaic with .3, mixup with .6, independently.

    The cut is uniform, the weight Beta(1.5, 1.5) (variance 1/16).
    """
    black = random_sample(0)._replace(image=np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    white = black._replace(image=np.full((HEIGHT, WIDTH, 3), 255, np.uint8))
    requests = []  # of each draw: the numbers of the other images
    cuts = []
    weights = []
    for seed in range(2000):
        parts: list[int] = []

        def other(part: int, parts: list[int] = parts) -> TransformedSample:
            parts.append(part)
            return white

        result = Mixing(0.3, 0.6)(black, other, np.random.default_rng(seed))
        requests.append(tuple(parts))
        if parts == [4]:
            weights.append(1 - result.image[0, 0, 0] / 255)
        elif parts == [1, 2, 3]:
            cuts.append(((result.image[0, :, 0] == 0).mean(), (result.image[:, 0, 0] == 0).mean()))
    shares = {parts: requests.count(parts) / 2000 for parts in set(requests)}
    assert shares.keys() == {(), (1, 2, 3), (4,), (1, 2, 3, 4)}
    for parts, expected in {(): 0.28, (1, 2, 3): 0.12, (4,): 0.42, (1, 2, 3, 4): 0.18}.items():
        assert abs(shares[parts] - expected) < 0.04
    assert abs(np.mean(weights) - 0.5) < 0.04 and abs(np.var(weights) - 1 / 16) < 0.01
    assert_allclose([np.min(cuts), np.max(cuts)], [0.2, 0.8], atol=0.03)
    assert_allclose(np.mean(cuts, 0), 0.5, atol=0.05)


def test_without_probabilities_the_sample_is_returned_as_it_is():
    sample = random_sample(0)
    other = lambda _: pytest.fail("requests another image")  # noqa: E731
    assert Mixing()(sample, other, np.random.default_rng(0)) is sample
