"""Expansion, samplers and boxes of SSD's training, against loops that are fed the same numbers."""

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
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height)


def window_of(numbers) -> tuple[float, float, float, float]:
    """sampler.cpp, SampleBBox."""
    scale = 0.3 + 0.7 * numbers[0]
    aspect = 0.5 + 1.5 * numbers[1]
    aspect = min(max(aspect, scale * scale), 1 / (scale * scale))
    width, height = scale * sqrt(aspect), scale / sqrt(aspect)
    x, y = numbers[2] * (1 - width), numbers[3] * (1 - height)
    return x, y, x + width, y + height


def found_by_loops(draws, boxes) -> list:
    """GenerateBatchSamples: the whole image, then what each of the six samplers finds first, if anything."""
    found = [(0, 0, 1, 1)]
    for rule, trials in zip(RULES, draws, strict=True):
        for numbers in trials:
            window = window_of(numbers)
            if any(rule is None or iou(window, box) >= rule for box in boxes):
                found.append(window)
                break
    return found


def some_boxes(generator: np.random.Generator) -> np.ndarray:
    low = generator.random((generator.integers(0, 6), 2)) * 0.9
    return np.concatenate([low, low + (1 - low) * generator.uniform(0.02, 1, low.shape)], 1)


def test_the_first_satisfying_trial_of_each_sampler():
    generator, counts = np.random.default_rng(0), []
    for seed in range(150):
        boxes = some_boxes(generator)
        numbers = np.random.default_rng(seed)
        draws, choice = numbers.random((6, 50, 4)), numbers.random()
        found = found_by_loops(draws.tolist(), boxes.tolist())
        expected = found[int(choice * len(found))]
        assert_allclose(draw_window(np.random.default_rng(seed), boxes), expected, rtol=1e-12, atol=1e-15)
        counts.append(len(found))
    assert set(counts) >= {1, 3, 4, 5, 6}  # without objects the whole image alone


def test_what_is_found_is_picked_uniformly():
    """A box of half the image: windows of all samplers exist, but not always one of .9."""
    boxes, picked, expected = np.array([[0.2, 0.1, 0.8, 0.9]]), np.zeros(7), np.zeros(7)
    for seed in range(3000):
        numbers = np.random.default_rng(seed)
        draws = numbers.random((6, 50, 4))
        good = (
            ssd_sampling.window_iou(ssd_sampling.windows_from(draws), boxes).max(-1)
            >= ssd_sampling.MIN_IOU[:, None]
        )
        exists = np.array([True, *good.any(1)])
        expected += exists / exists.sum()
        window = draw_window(np.random.default_rng(seed), boxes)
        finds = [np.array([0, 0, 1, 1.0]), *ssd_sampling.windows_from(draws)[np.arange(6), good.argmax(1)]]
        same = [i for i in range(7) if exists[i] and np.array_equal(finds[i], window)]
        assert len(same) == 1
        picked[same[0]] += 1
    assert_allclose(picked / 3000, expected / 3000, atol=0.025)


def test_shapes_of_windows():
    windows = ssd_sampling.windows_from(np.random.default_rng(4).random((20000, 4)))
    sides = windows[:, 2:] - windows[:, :2]
    scale, aspect = np.sqrt(sides.prod(1)), sides[:, 0] / sides[:, 1]
    assert_allclose(np.quantile(scale, [0, 0.25, 0.5, 0.75, 1]), [0.3, 0.475, 0.65, 0.825, 1], atol=0.01)
    assert (
        (aspect >= 0.5 - 1e-9).all()
        and (aspect <= 2 + 1e-9).all()
        and (windows >= 0).all()
        and (windows <= 1 + 1e-9).all()
    )
    small = scale < 0.7  # there no aspect is cut
    assert_allclose(
        np.quantile(aspect[small], [0, 0.25, 0.5, 0.75, 1]), [0.5, 0.875, 1.25, 1.625, 2], atol=0.03
    )
    place = windows[:, :2] / np.maximum(1 - sides, 1e-9)
    assert_allclose(
        np.quantile(place[small], [0.25, 0.5, 0.75], axis=0), [[0.25] * 2, [0.5] * 2, [0.75] * 2], atol=0.02
    )


def test_expansion():
    """Half of the images; sides of 1 to 4 times, cut to whole pixels; places uniform, cut too."""
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
    assert_allclose(
        np.quantile(place[big] / room[big], [0.25, 0.5, 0.75], axis=0),
        [[0.25] * 2, [0.5] * 2, [0.75] * 2],
        atol=0.04,
    )
    assert (
        np.abs(np.corrcoef(np.column_stack([ratio[big], place[big] / room[big]]).T) - np.eye(3)).max() < 0.08
    )


def test_boxes_on_the_canvas():
    boxes = expand_boxes(np.array([[10.0, 20, 50, 60]]), Expansion((200, 400), (30, 100)))
    assert_allclose(boxes, [[110 / 400, 50 / 200, 150 / 400, 90 / 200]])


def test_which_boxes_stay_and_where():
    """Centre inside, borders included; cut; some area."""
    window = np.array([0.25, 0.25, 0.75, 0.75])
    boxes = np.array(
        [
            [0.3, 0.3, 0.5, 0.5],  # inside
            [0.0, 0.3, 0.5, 0.5],  # its centre on the border
            [0.0, 0.3, 0.49, 0.5],  # its centre just outside
            [0.1, 0.1, 0.9, 0.9],  # all around
            [0.5, 0.7, 0.6, 0.8],  # centre on the lower border
            [0.8, 0.8, 0.9, 0.9],  # outside
        ]
    )
    projected, rows = project_boxes(boxes, window)
    assert_array_equal(rows, [0, 1, 3, 4])
    assert_allclose(
        projected, [[0.1, 0.1, 0.5, 0.5], [0, 0.1, 0.5, 0.5], [0, 0, 1, 1], [0.5, 0.9, 0.7, 1]], atol=1e-12
    )


def test_projection_equals_a_loop():
    generator = np.random.default_rng(6)
    for seed in range(100):
        boxes, window = some_boxes(generator), np.array(window_of(np.random.default_rng(seed).random(4)))
        expected, kept = [], []
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
def test_pixels_are_cut_as_c_does(window, size, pixels):
    assert pixels_of(np.array(window, dtype=float), size) == pixels
