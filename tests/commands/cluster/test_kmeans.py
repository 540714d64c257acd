"""k-means with 1 - IoU and the search for SSD's sizes: naive loops, exhaustive search, invariances."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from detectors.commands.cluster.kmeans import Shapes, best_iou, kmeans, shapes_of, size_search, size_start


def naive_iou(a, b) -> float:
    """IoU of two shapes (width, height), as boxes with corners and the same centre."""
    a_left, a_top, a_right, a_bottom = -a[0] / 2, -a[1] / 2, a[0] / 2, a[1] / 2
    b_left, b_top, b_right, b_bottom = -b[0] / 2, -b[1] / 2, b[0] / 2, b[1] / 2
    width = min(a_right, b_right) - max(a_left, b_left)
    height = min(a_bottom, b_bottom) - max(a_top, b_top)
    overlap = max(0, width) * max(0, height)
    a_area = (a_right - a_left) * (a_bottom - a_top)
    b_area = (b_right - b_left) * (b_bottom - b_top)
    return overlap / (a_area + b_area - overlap)


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
    """Three clusters of shapes in whole pixels, so that some shapes occur more than once."""
    random = np.random.default_rng(0)
    centres = np.array([(20, 30), (60, 60), (200, 90)])
    return np.concatenate([np.round(centre * np.exp(random.normal(0, 0.3, (150, 2)))) for centre in centres])


def test_best_iou_equals_naive_loops(wh):
    anchors = np.array([(10.0, 50.0), (70.0, 30.0), (200.0, 201.0)])
    expected = [max(naive_iou(box, anchor) for anchor in anchors) for box in wh]
    assert_allclose(best_iou(wh, anchors), expected, rtol=1e-12)
    assert_allclose(shapes_of(wh).mean_iou(anchors), naive_mean_iou(wh, anchors), rtol=1e-12)


def naive_kmeans(wh, counts, k, random) -> list[tuple[float, float]]:
    """One start of kmeans, with a loop over shapes and anchors for everything."""
    shapes = [tuple(shape) for shape in wh.tolist()]
    weights = np.array(counts)
    chosen: list[int] = []
    while len(chosen) < k:
        chosen.append(int(random.choice(len(shapes), p=weights / weights.sum())))
        nearest = [max(naive_iou(shape, shapes[n]) for n in chosen) for shape in shapes]
        weights = np.array([c * max(1 - iou, 1e-12) for c, iou in zip(counts, nearest, strict=True)])
        weights[chosen] = 0
    anchors = [shapes[n] for n in chosen]
    previous = 0.0
    while True:
        ious = [[naive_iou(shape, anchor) for anchor in anchors] for shape in shapes]
        owners = [row.index(max(row)) for row in ious]
        mean = sum(c * max(row) for c, row in zip(counts, ious, strict=True)) / sum(counts)
        if mean - previous < 1e-6:
            return anchors
        previous = mean
        for n, anchor in enumerate(anchors):
            own = [(shape, c) for shape, c, owner in zip(shapes, counts, owners, strict=True) if owner == n]
            moved = naive_median_shape(anchor, own)
            if naive_sum(own, moved) > naive_sum(own, anchor) + 1e-12:
                anchors[n] = moved


def naive_sum(own, anchor) -> float:
    return sum(c * naive_iou(shape, anchor) for shape, c in own)


def naive_median_shape(anchor, own) -> tuple[float, float]:
    """The median of each side, weighted with |dIoU / dside| at the anchor, as kmeans.py's docstring says."""
    moved = list(anchor)
    for side, other in ((0, 1), (1, 0)):
        slopes = []
        for shape, c in own:
            overlap = min(shape[0], anchor[0]) * min(shape[1], anchor[1])
            union = shape[0] * shape[1] + anchor[0] * anchor[1] - overlap
            far = shape[other] if anchor[side] < shape[side] else anchor[other]
            slope = min(shape[other], anchor[other]) * shape[side] * far / union**2
            slopes.append((shape[side], c * slope))
        slopes.sort(key=lambda pair: pair[0])
        half = sum(weight for _, weight in slopes) / 2
        for value, weight in slopes:
            half -= weight
            if half <= 0:
                moved[side] = value
                break
    return tuple(moved)


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("seed", range(3))
def test_a_search_equals_naive_loops(seed, k):
    """60 shapes, some of several boxes; the same random numbers choose the start."""
    random = np.random.default_rng(seed)
    wh = random.lognormal(3, 0.7, (60, 2))
    shapes = shapes_of(np.repeat(wh, random.integers(1, 4, 60), axis=0))
    counts = shapes.counts.tolist()
    expected = naive_kmeans(shapes.wh, counts, k, np.random.default_rng([seed, k, 0]))
    expected.sort(key=lambda shape: shape[0] * shape[1])
    assert_allclose(kmeans(shapes, k, restarts=1, seed=seed).anchors, expected, rtol=1e-12)


def test_the_returned_mean_iou_is_that_of_the_anchors(wh):
    clustering = kmeans(shapes_of(wh), 4)
    assert_allclose(clustering.mean_iou, naive_mean_iou(wh, clustering.anchors), rtol=1e-12)
    assert (np.diff(clustering.anchors.prod(1)) > 0).all()


def test_a_single_anchor_is_optimal():
    """The optimum is a pair of a width and a height that occur, so all pairs are tried."""
    wh = np.random.default_rng(1).lognormal(3, 0.6, (40, 2))
    best = max(naive_mean_iou(wh, [(w, h)]) for w in wh[:, 0] for h in wh[:, 1])
    assert_allclose(kmeans(shapes_of(wh), 1, restarts=10).mean_iou, best, rtol=1e-3)


def test_better_than_plain_kmeans(wh):
    """Plain k-means moves each anchor to the mean of its boxes."""
    shapes = shapes_of(wh)
    best = 0.0
    some = wh[::3]
    for seed in range(5):
        anchors = wh[np.random.default_rng(seed).choice(len(wh), 3, replace=False)]
        for _ in range(50):
            assigned = np.array([np.argmax([naive_iou(box, anchor) for anchor in anchors]) for box in some])
            for n in range(3):
                if (assigned == n).any():
                    anchors[n] = some[assigned == n].mean(0)
        best = max(best, shapes.mean_iou(anchors))
    assert kmeans(shapes, 3).mean_iou > best


def test_the_order_of_the_boxes_does_not_matter(wh):
    shuffled = np.random.default_rng(2).permutation(wh)
    assert_array_equal(kmeans(shapes_of(wh), 3).anchors, kmeans(shapes_of(shuffled), 3).anchors)
    anchors_of_samples = [kmeans(shapes_of(boxes).sample(100, 0), 3).anchors for boxes in (wh, shuffled)]
    assert_array_equal(*anchors_of_samples)


def test_the_unit_does_not_matter(wh):
    small = kmeans(shapes_of(wh), 3)
    large = kmeans(shapes_of(wh * 8), 3)
    assert_allclose(large.anchors, small.anchors * 8, rtol=1e-12)
    assert large.mean_iou == pytest.approx(small.mean_iou, rel=1e-12)


def test_as_many_anchors_as_shapes_fit_exactly():
    wh = np.array([(10, 20), (20, 10), (30, 30), (30, 30), (5, 5), (300, 20)])
    clustering = kmeans(shapes_of(wh), 5)
    assert clustering.mean_iou == 1
    assert sorted(map(tuple, clustering.anchors)) == sorted(set(map(tuple, wh.astype(float))))


@pytest.mark.parametrize("seed", range(4))
def test_shapes_that_differ_by_rounding_are_distinct(seed):
    """Their IoU is 1."""
    wh = np.array([(10.0, 20.0), (np.nextafter(10.0, 11), 20.0)])
    assert_array_equal(kmeans(shapes_of(wh), 2, restarts=1, seed=seed).anchors, wh)


def test_more_restarts_are_never_worse_and_seeds_are_reproducible(wh):
    shapes = shapes_of(wh)
    values = [kmeans(shapes, 5, restarts=n, seed=3).mean_iou for n in range(1, 7)]
    assert (np.diff(values) >= 0).all()
    assert values[-1] > values[0]
    assert_array_equal(kmeans(shapes, 5, seed=3).anchors, kmeans(shapes, 5, seed=3).anchors)
    starts = {tuple(kmeans(shapes, 5, restarts=1, seed=seed).anchors.ravel()) for seed in range(6)}
    assert len(starts) > 1


def test_a_sample_is_a_subset_of_the_boxes(wh):
    shapes = shapes_of(wh)
    sample = shapes.sample(100, seed=1)
    assert sample.counts.sum() == 100
    available = {tuple(shape): count for shape, count in zip(shapes.wh, shapes.counts, strict=True)}
    for shape, count in zip(sample.wh, sample.counts, strict=True):
        assert 0 < count <= available[tuple(shape)]
    assert shapes.sample(len(wh), seed=1) is shapes


def test_a_sample_has_frequent_shapes_more_often():
    shapes = Shapes(np.array([(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)]), np.array([9997.0, 2.0, 1.0]))
    assert shapes.sample(1000, seed=0).counts[0] > 990


@pytest.mark.parametrize("k", [0, -1, 4])
def test_k_out_of_range(k):
    with pytest.raises(ValueError, match=f"k={k}: must be 1 or more, and at most 3"):
        kmeans(shapes_of(np.array([(1, 2), (2, 1), (1, 1), (1, 1)])), k)


def test_invalid_input():
    with pytest.raises(ValueError, match="no boxes to cluster"):
        shapes_of(np.zeros((0, 2)))
    with pytest.raises(ValueError, match="2 of 3 boxes have a side"):
        shapes_of(np.array([(1, 1), (0, 3), (np.nan, 1)]))
    with pytest.raises(ValueError, match="restarts=0"):
        kmeans(shapes_of(np.ones((1, 2))), 1, restarts=0)


def squares(sizes) -> np.ndarray:
    return np.array([(size, size) for size in sizes], dtype=float)


def test_size_search_ends_at_a_good_local_maximum():
    """Two sizes of squares: no step of one pixel helps, and the mean IoU is within 2 % of the best pair's."""
    wh = np.random.default_rng(4).integers(4, 40, (60, 2)).astype(float)
    (a, b), value = size_search(shapes_of(wh), [10, 20], squares)
    pairs = {(x, y): naive_mean_iou(wh, squares((x, y))) for x in range(4, 40) for y in range(x + 1, 40)}
    assert_allclose(value, pairs[a, b], rtol=1e-12)
    assert max(pairs[x, y] for x, y in ((a - 1, b), (a + 1, b), (a, b - 1), (a, b + 1))) < value + 1e-6
    assert value > 0.98 * max(pairs.values())


def test_sizes_ascend_and_are_not_worse_than_the_start(wh):
    shapes = shapes_of(wh)
    for start in ([30, 60, 111, 162], [1, 2, 3, 4], [100, 101, 102, 103]):
        sizes, value = size_search(shapes, start, squares)
        assert (np.diff(sizes) > 0).all()
        assert sizes[0] >= 1
        assert all(isinstance(size, int) for size in sizes)
        assert value >= shapes.mean_iou(squares(start))


def test_the_start_splits_the_boxes_evenly():
    wh = squares(range(1, 101))
    assert_allclose(size_start(shapes_of(wh), 4), [12, 37, 62, 87], atol=1)


def test_the_start_is_distinct_for_a_single_shape():
    """Whether it occurs once or many times."""
    once = size_start(shapes_of(np.array([(7.0, 7.0)])), 4)
    many_times = size_start(Shapes(np.array([(7.0, 7.0)]), np.array([50.0])), 4)
    assert many_times == once == sorted(set(once))
