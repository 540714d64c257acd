"""Mosaic and mixup against plain loops over pixels and boxes, and how often they happen."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from detectors.data.augment.mixing import Mixing, mixup, mosaic
from detectors.data.augment.transforms import TransformedSample

HEIGHT, WIDTH = 30, 40


def sample(seed: int, boxes: int = 12) -> TransformedSample:
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 1, (boxes, 2, 2)) * (WIDTH, HEIGHT)
    boxes_xyxy = np.concatenate([corners.min(1), corners.max(1)], 1).astype(np.float32)
    image = random.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return TransformedSample(
        image, boxes_xyxy, random.integers(0, 5, boxes), np.arange(boxes), (0.5, 0.5), (0.0, 0.0)
    )


def naive_mosaic(samples: list[TransformedSample], x: int, y: int) -> tuple[np.ndarray, list[tuple]]:
    """Pixel by pixel, box by box."""
    image, truths = np.zeros((HEIGHT, WIDTH, 3), np.uint8), []
    for i in range(HEIGHT):
        for j in range(WIDTH):
            image[i, j] = samples[(i >= y) * 2 + (j >= x)].image[i, j]
    for quadrant, part in enumerate(samples):
        left, right = (0, x) if quadrant % 2 == 0 else (x, WIDTH)
        top, bottom = (0, y) if quadrant < 2 else (y, HEIGHT)
        for box, label in zip(part.boxes.tolist(), part.labels.tolist(), strict=True):
            centre_x, centre_y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
            cut = (max(box[0], left), max(box[1], top), min(box[2], right), min(box[3], bottom))
            if (
                left <= centre_x < right
                and top <= centre_y < bottom
                and cut[2] - cut[0] >= 1
                and cut[3] - cut[1] >= 1
            ):
                truths.append((*cut, label))
    return image, truths


@pytest.mark.parametrize("cut", [(0.2, 0.8), (0.5, 0.5), (0.613, 0.377)])
def test_mosaic_equals_plain_loops(cut):
    samples = [sample(seed) for seed in range(4)]
    result = mosaic(samples, cut)
    image, truths = naive_mosaic(samples, round(cut[0] * WIDTH), round(cut[1] * HEIGHT))
    assert_array_equal(result.image, image)
    assert_allclose(np.column_stack([result.boxes, result.labels]), np.array(truths), rtol=1e-6)
    assert 4 < len(truths) < 48 and result.boxes.dtype == np.float32
    assert [sample.image.tobytes() for sample in samples] == [
        sample(seed).image.tobytes() for seed in range(4)
    ]  # untouched


def test_mosaic_with_and_without_truths():
    empty = [sample(seed, boxes=0) for seed in range(4)]
    result = mosaic(empty, (0.5, 0.5))
    assert result.boxes.shape == (0, 4) and result.labels.shape == result.kept.shape == (0,)
    whole = empty[3]._replace(
        boxes=np.float32([[0, 0, 40, 30], [20, 15, 21, 16], [19.9, 15, 20.9, 20]]),
        labels=np.array([1, 2, 3]),
        kept=np.arange(3),
    )
    result = mosaic([*empty[:3], whole], (0.5, 0.5))
    assert_array_equal(
        result.boxes, [[20, 15, 40, 30], [20, 15, 21, 16]]
    )  # the third is .9 pixels wide there
    assert result.labels.tolist() == [1, 2] and result.kept.tolist() == [0, 1]


def test_mixup_is_the_weighted_mean():
    first, second = sample(0), sample(1)
    result = mixup(first, second, 0.3)
    for place in np.ndindex(first.image.shape):
        assert (
            abs(int(result.image[place]) - (0.3 * int(first.image[place]) + 0.7 * int(second.image[place])))
            <= 0.501
        )  # rounded
    assert_array_equal(mixup(first, second, 1.0).image, first.image)
    assert_array_equal(mixup(first, second, 0.0).image, second.image)
    assert_array_equal(result.boxes, np.concatenate([first.boxes, second.boxes]))
    assert result.labels.tolist() == [*first.labels.tolist(), *second.labels.tolist()]


def test_how_often_and_from_which_images():
    """2,000 draws: mosaic in .3 of them, mixup in .6, independently; the cut is uniform, the weight Beta(1.5, 1.5) (variance 1/16)."""
    asked, cuts, weights = [], [], []
    black, white = (
        sample(0)._replace(image=np.full((HEIGHT, WIDTH, 3), value, np.uint8)) for value in (0, 255)
    )
    for seed in range(2000):
        parts: list[int] = []
        result = Mixing(0.3, 0.6)(
            black, lambda part, parts=parts: parts.append(part) or white, np.random.default_rng(seed)
        )
        asked.append(tuple(parts))
        if parts == [4]:
            weights.append(1 - result.image[0, 0, 0] / 255)
        elif parts == [1, 2, 3]:
            cuts.append(((result.image[0, :, 0] == 0).mean(), (result.image[:, 0, 0] == 0).mean()))
    counts = {parts: asked.count(parts) / 2000 for parts in set(asked)}
    assert counts.keys() == {(), (1, 2, 3), (4,), (1, 2, 3, 4)}
    for parts, share in {(): 0.28, (1, 2, 3): 0.12, (4,): 0.42, (1, 2, 3, 4): 0.18}.items():
        assert abs(counts[parts] - share) < 0.04
    assert abs(np.mean(weights) - 0.5) < 0.04 and abs(np.var(weights) - 1 / 16) < 0.01
    assert_allclose([np.min(cuts), np.max(cuts)], [0.2, 0.8], atol=0.03)
    assert_allclose(np.mean(cuts, 0), 0.5, atol=0.05)


def test_without_probabilities_nothing_is_touched():
    one = sample(0)
    assert Mixing()(one, lambda _: pytest.fail("asked for another image"), np.random.default_rng(0)) is one
