"""k-means with 1 - IoU and the search for SSD's sizes: against naive loops, exhaustive search and invariances."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from detectors.commands.cluster.kmeans import Shapes, best_iou, kmeans, shapes_of, size_search, size_start


def naive_iou(a, b) -> float:
    """Two boxes (width, height) on one centre, as two boxes with corners."""
    (left, top, right, bottom), (l2, t2, r2, b2) = ((-w / 2, -h / 2, w / 2, h / 2) for w, h in (a, b))
    inter = max(0, min(right, r2) - max(left, l2)) * max(0, min(bottom, b2) - max(top, t2))
    return inter / ((right - left) * (bottom - top) + (r2 - l2) * (b2 - t2) - inter)


def naive_mean_iou(wh, anchors) -> float:
    total = 0.0
    for box in wh:
        best = 0.0
        for anchor in anchors:
            best = max(best, naive_iou(box, anchor))
        total += best
    return total / len(wh)


@pytest.fixture
def wh() -> np.ndarray:
    """Three clouds of whole sizes, so that some shapes occur more than once."""
    random = np.random.default_rng(0)
    clouds = [(20, 30), (60, 60), (200, 90)]
    return np.concatenate([np.round(np.array(c) * np.exp(random.normal(0, 0.3, (150, 2)))) for c in clouds])


def test_best_iou_is_that_of_corner_boxes(wh):
    anchors = np.array([(10.0, 50.0), (70.0, 30.0), (200.0, 201.0)])
    assert_allclose(
        best_iou(wh, anchors), [max(naive_iou(box, a) for a in anchors) for box in wh], rtol=1e-12
    )
    assert_allclose(shapes_of(wh).mean_iou(anchors), naive_mean_iou(wh, anchors), rtol=1e-12)


def test_the_mean_iou_is_that_of_its_anchors(wh):
    found = kmeans(shapes_of(wh), 4)
    assert_allclose(found.mean_iou, naive_mean_iou(wh, found.anchors), rtol=1e-12)
    assert (np.diff(found.anchors.prod(1)) > 0).all()


def test_one_anchor_is_the_best_there_is():
    """Against every pair of a width and a height that occur: the mean IoU of one anchor is greatest at such a pair."""
    wh = np.random.default_rng(1).lognormal(3, 0.6, (40, 2))
    best = max(naive_mean_iou(wh, [(w, h)]) for w in wh[:, 0] for h in wh[:, 1])
    assert_allclose(kmeans(shapes_of(wh), 1, restarts=10).mean_iou, best, rtol=1e-3)


def test_better_than_the_mean_of_each_cluster(wh):
    """K-means' own centre, from the same starts."""
    shapes, best = shapes_of(wh), 0.0
    for seed in range(5):
        anchors = wh[np.random.default_rng(seed).choice(len(wh), 3, replace=False)]
        for _ in range(50):
            mine = np.array([np.argmax([naive_iou(box, a) for a in anchors]) for box in wh[::3]])
            anchors = np.array(
                [wh[::3][mine == n].mean(0) if (mine == n).any() else anchors[n] for n in range(3)]
            )
        best = max(best, shapes.mean_iou(anchors))
    assert kmeans(shapes, 3).mean_iou > best


def test_the_order_of_the_boxes_does_not_matter(wh):
    shuffled = np.random.default_rng(2).permutation(wh)
    assert_array_equal(kmeans(shapes_of(wh), 3).anchors, kmeans(shapes_of(shuffled), 3).anchors)
    sampled = [kmeans(shapes_of(boxes).sample(100, 0), 3).anchors for boxes in (wh, shuffled)]
    assert_array_equal(*sampled)


def test_the_unit_does_not_matter(wh):
    small, large = kmeans(shapes_of(wh), 3), kmeans(shapes_of(wh * 8), 3)
    assert_allclose(large.anchors, small.anchors * 8, rtol=1e-12)
    assert large.mean_iou == pytest.approx(small.mean_iou, rel=1e-12)


def test_as_many_anchors_as_shapes_fit_exactly():
    wh = np.array([(10, 20), (20, 10), (30, 30), (30, 30), (5, 5), (300, 20)])
    found = kmeans(shapes_of(wh), 5)
    assert found.mean_iou == 1
    assert sorted(map(tuple, found.anchors)) == sorted(set(map(tuple, wh.astype(float))))
    for seed in range(4):  # IoU 1, and yet two shapes
        nearly = np.array([(10.0, 20.0), (np.nextafter(10.0, 11), 20.0)])
        assert_array_equal(kmeans(shapes_of(nearly), 2, restarts=1, seed=seed).anchors, nearly)


def test_more_restarts_never_worsen_and_seeds_repeat(wh):
    shapes = shapes_of(wh)
    values = [kmeans(shapes, 5, restarts=n, seed=3).mean_iou for n in range(1, 7)]
    assert (np.diff(values) >= 0).all()
    assert values[-1] > values[0]
    assert_array_equal(kmeans(shapes, 5, seed=3).anchors, kmeans(shapes, 5, seed=3).anchors)
    starts = {tuple(kmeans(shapes, 5, restarts=1, seed=seed).anchors.ravel()) for seed in range(6)}
    assert len(starts) > 1


def test_a_sample_holds_boxes_that_are_there(wh):
    shapes = shapes_of(wh)
    sample = shapes.sample(100, seed=1)
    assert sample.counts.sum() == 100
    of = {tuple(shape): count for shape, count in zip(shapes.wh, shapes.counts, strict=True)}
    assert all(0 < count <= of[tuple(shape)] for shape, count in zip(sample.wh, sample.counts, strict=True))
    assert shapes.sample(len(wh), seed=1) is shapes
    often = Shapes(np.array([(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)]), np.array([9997.0, 2.0, 1.0]))
    assert often.sample(1000, seed=0).counts[0] > 990


@pytest.mark.parametrize("k", [0, -1, 4])
def test_k_must_be_possible(k):
    with pytest.raises(ValueError, match=f"k={k}: must be 1 or more, and at most 3"):
        kmeans(shapes_of(np.array([(1, 2), (2, 1), (1, 1), (1, 1)])), k)


def test_no_boxes_and_no_sides():
    with pytest.raises(ValueError, match="no boxes to cluster"):
        shapes_of(np.zeros((0, 2)))
    with pytest.raises(ValueError, match="2 of 3 boxes have a side"):
        shapes_of(np.array([(1, 1), (0, 3), (np.nan, 1)]))
    with pytest.raises(ValueError, match="restarts=0"):
        kmeans(shapes_of(np.ones((1, 2))), 1, restarts=0)


def squares(sizes) -> np.ndarray:
    return np.array([(size, size) for size in sizes], dtype=float)


def test_no_size_could_be_moved_alone_and_all_is_near_the_best():
    """Two sizes of squares: against one pixel more or less of each, and every pair up to 40."""
    wh = np.random.default_rng(4).integers(4, 40, (60, 2)).astype(float)
    (a, b), value = size_search(shapes_of(wh), [10, 20], squares)
    pairs = {(x, y): naive_mean_iou(wh, squares((x, y))) for x in range(4, 40) for y in range(x + 1, 40)}
    assert_allclose(value, pairs[a, b], rtol=1e-12)
    assert max(pairs[x, y] for x, y in ((a - 1, b), (a + 1, b), (a, b - 1), (a, b + 1))) < value + 1e-6
    assert value > 0.98 * max(pairs.values())


def test_sizes_rise_and_never_worsen(wh):
    shapes = shapes_of(wh)
    for start in ([30, 60, 111, 162], [1, 2, 3, 4], [100, 101, 102, 103]):
        sizes, value = size_search(shapes, start, squares)
        assert (np.diff(sizes) > 0).all() and sizes[0] >= 1 and all(isinstance(size, int) for size in sizes)
        assert value >= shapes.mean_iou(squares(start))


def test_the_start_splits_the_boxes_evenly():
    wh = squares(range(1, 101))
    assert_allclose(size_start(shapes_of(wh), 4), [12, 37, 62, 87], atol=1)
    assert size_start(Shapes(np.array([(7.0, 7.0)]), np.array([50.0])), 4) == sorted(
        set(size_start(shapes_of(wh[6:7]), 4))
    )
