"""Expansion, samplers and boxes of SSD's training, compared with plain loops over the same random numbers."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from detectors.data.augment import ssd_sampling
from detectors.data.augment.ssd_sampling import (
    Expansion,
    draw_expansion,
    draw_window,
    expand_boxes,
    pixels_of,
    project_boxes,
)

RULES = [0.1, 0.3, 0.5, 0.7, 0.9, None]  # min_jaccard_overlap; the last has max_jaccard_overlap 1.0


def iou(a, b) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height)


def window_of(numbers) -> tuple[float, float, float, float]:
    """sampler.cpp, SampleBBox."""
    scale = 0.3 + 0.7 * numbers[0]
    aspect = 0.5 + 1.5 * numbers[1]
    aspect = min(max(aspect, scale * scale), 1 / (scale * scale))
    width = scale * sqrt(aspect)
    height = scale / sqrt(aspect)
    x = numbers[2] * (1 - width)
    y = numbers[3] * (1 - height)
    return x, y, x + width, y + height


def naive_windows(draws, boxes) -> list:
    """GenerateBatchSamples: the whole image, and each sampler's first good window, if any."""
    windows = [(0, 0, 1, 1)]
    for rule, trials in zip(RULES, draws, strict=True):
        for numbers in trials:
            window = window_of(numbers)
            if any(rule is None or iou(window, box) >= rule for box in boxes):
                windows.append(window)
                break
    return windows


def random_boxes(generator: np.random.Generator) -> np.ndarray:
    low = generator.random((generator.integers(0, 6), 2)) * 0.9
    return np.concatenate([low, low + (1 - low) * generator.uniform(0.02, 1, low.shape)], 1)


def test_the_window_is_the_first_good_trial_of_a_sampler():
    generator = np.random.default_rng(0)
    counts = []
    for seed in range(150):
        boxes = random_boxes(generator)
        numbers = np.random.default_rng(seed)
        draws = numbers.random((6, 50, 4))
        choice = numbers.random()
        windows = naive_windows(draws.tolist(), boxes.tolist())
        expected = windows[int(choice * len(windows))]
        assert_allclose(draw_window(np.random.default_rng(seed), boxes), expected, rtol=1e-12, atol=1e-15)
        counts.append(len(windows))
    assert set(counts) >= {1, 3, 4, 5, 6}  # without objects only the whole image


def test_the_window_is_chosen_uniformly():
    """A box of half the image: all samplers have a window, except sometimes the one with IoU .9."""
    boxes = np.array([[0.2, 0.1, 0.8, 0.9]])
    chosen = np.zeros(7)
    expected = np.zeros(7)
    for seed in range(3000):
        windows = ssd_sampling.windows_from(np.random.default_rng(seed).random((6, 50, 4)))
        good = ssd_sampling.window_iou(windows, boxes).max(-1) >= ssd_sampling.MIN_IOU[:, None]
        exists = np.array([True, *good.any(1)])
        expected += exists / exists.sum()
        candidates = [np.array([0, 0, 1, 1.0]), *windows[np.arange(6), good.argmax(1)]]
        window = draw_window(np.random.default_rng(seed), boxes)
        same = [i for i in range(7) if exists[i] and np.array_equal(candidates[i], window)]
        assert len(same) == 1
        chosen[same[0]] += 1
    assert_allclose(chosen / 3000, expected / 3000, atol=0.025)


def test_distribution_of_windows():
    """Scale, aspect ratio and place are uniform, as far as the aspect ratio is not clipped."""
    windows = ssd_sampling.windows_from(np.random.default_rng(4).random((20000, 4)))
    sides = windows[:, 2:] - windows[:, :2]
    scale = np.sqrt(sides.prod(1))
    aspect = sides[:, 0] / sides[:, 1]
    assert_allclose(np.quantile(scale, [0, 0.25, 0.5, 0.75, 1]), [0.3, 0.475, 0.65, 0.825, 1], atol=0.01)
    assert (aspect >= 0.5 - 1e-9).all() and (aspect <= 2 + 1e-9).all()
    assert (windows >= 0).all() and (windows <= 1 + 1e-9).all()
    small = scale < 0.7  # no aspect ratio is clipped there
    quartiles = np.quantile(aspect[small], [0, 0.25, 0.5, 0.75, 1])
    assert_allclose(quartiles, [0.5, 0.875, 1.25, 1.625, 2], atol=0.03)
    place = windows[:, :2] / np.maximum(1 - sides, 1e-9)
    quartiles = np.quantile(place[small], [0.25, 0.5, 0.75], axis=0)
    assert_allclose(quartiles, [[0.25] * 2, [0.5] * 2, [0.75] * 2], atol=0.02)


def test_distribution_of_expansions():
    """Half of the images are expanded, to 1 to 4 times their sides, at uniform places, in whole pixels."""
    generator = np.random.default_rng(5)
    draws = [draw_expansion(generator, (375, 500), largest=4.0, probability=0.5) for _ in range(4000)]
    larger = [draw for draw in draws if draw.size != (375, 500)]
    assert_allclose(len(larger) / 4000, 0.5, atol=0.03)
    assert all(draw.top_left == (0, 0) for draw in draws if draw.size == (375, 500))
    ratio = np.array([draw.size[1] / 500 for draw in larger])
    assert_allclose(np.quantile(ratio, [0, 0.25, 0.5, 0.75, 1]), [1, 1.75, 2.5, 3.25, 4], atol=0.1)
    room = np.array([np.subtract(draw.size, (375, 500)) for draw in larger])
    place = np.array([draw.top_left for draw in larger])
    assert (place >= 0).all() and (place <= room).all()
    big = (room > 50).all(1)
    relative = place[big] / room[big]
    quartiles = np.quantile(relative, [0.25, 0.5, 0.75], axis=0)
    assert_allclose(quartiles, [[0.25] * 2, [0.5] * 2, [0.75] * 2], atol=0.04)
    correlation = np.corrcoef(np.column_stack([ratio[big], relative]).T) - np.eye(3)
    assert np.abs(correlation).max() < 0.08


def test_boxes_on_the_canvas():
    boxes = expand_boxes(np.array([[10.0, 20, 50, 60]]), Expansion((200, 400), (30, 100)))
    assert_allclose(boxes, [[110 / 400, 50 / 200, 150 / 400, 90 / 200]])


def test_which_boxes_are_kept_and_where():
    """Those with their centre inside, borders included, and with some area; clipped."""
    window = np.array([0.25, 0.25, 0.75, 0.75])
    boxes = np.array(
        [
            [0.3, 0.3, 0.5, 0.5],  # inside
            [0.0, 0.3, 0.5, 0.5],  # centre on the border
            [0.0, 0.3, 0.49, 0.5],  # centre just outside
            [0.1, 0.1, 0.9, 0.9],  # larger than the window
            [0.5, 0.7, 0.6, 0.8],  # centre on the lower border
            [0.8, 0.8, 0.9, 0.9],  # outside
            [0.5, 0.3, 0.5, 0.6],  # without area
        ]
    )
    projected, rows = project_boxes(boxes, window)
    assert_array_equal(rows, [0, 1, 3, 4])
    expected = [[0.1, 0.1, 0.5, 0.5], [0, 0.1, 0.5, 0.5], [0, 0, 1, 1], [0.5, 0.9, 0.7, 1]]
    assert_allclose(projected, expected, atol=1e-12)


def test_projection_equals_a_loop():
    generator = np.random.default_rng(6)
    for seed in range(100):
        boxes = random_boxes(generator)
        window = np.array(window_of(np.random.default_rng(seed).random(4)))
        expected = []
        kept = []
        x0, y0, x1, y1 = window
        for row, (xmin, ymin, xmax, ymax) in enumerate(boxes):
            if x0 <= (xmin + xmax) / 2 <= x1 and y0 <= (ymin + ymax) / 2 <= y1:
                left, right = (min(max((x - x0) / (x1 - x0), 0), 1) for x in (xmin, xmax))
                top, bottom = (min(max((y - y0) / (y1 - y0), 0), 1) for y in (ymin, ymax))
                if (right - left) * (bottom - top) > 0:
                    expected.append([left, top, right, bottom])
                    kept.append(row)
        projected, rows = project_boxes(boxes, window)
        assert_array_equal(rows, kept)
        assert_allclose(projected, np.reshape(expected, (-1, 4)), atol=1e-12)


@pytest.mark.parametrize(
    ("window", "size", "pixels"),
    [
        ((0, 0, 1, 1), (333, 500), (0, 0, 333, 500)),
        ((0.1, 0.2, 0.55, 0.9), (101, 203), (20, 20, 70, 91)),  # 20.2, 20.3; 70.7, 91.35
        ((0.4, 0.4, 0.8, 0.8), (1, 1), (0, 0, 1, 1)),
        ((0.9, 0.9, 1, 1), (3, 2), (2, 1, 1, 1)),
    ],
)
def test_windows_are_truncated_to_pixels_as_in_c(window, size, pixels):
    assert pixels_of(np.array(window, dtype=float), size) == pixels
