"""Objects that an ideal detector sees through tiles are found once each, with their whole boxes."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.commands.predict.merging import Boxes, merge_views
from detectors.commands.predict.views import View, ViewPlan

SIZE = (600, 900)


def seen(objects: np.ndarray, labels: np.ndarray, plan: ViewPlan) -> list[Boxes]:
    """What a detector without faults says of each view: the visible part of each object."""
    parts = []
    for number, view in enumerate(plan.views(SIZE, [(416, 416)])):
        x0, y0, x1, y1 = view.window
        boxes = np.concatenate(
            [np.maximum(objects[:, :2], (x0, y0)), np.minimum(objects[:, 2:], (x1, y1))], 1
        )
        rows = (boxes[:, 2:] - boxes[:, :2] > 4).all(1)
        whole = (boxes[rows] == objects[rows]).all(1)
        scores = np.where(whole, 0.8, 0.9).astype(np.float32)  # a part may have the better score
        cut = view.cut_sides(boxes[rows], SIZE)
        parts.append(Boxes(boxes[rows], scores, labels[rows], cut, np.full(rows.sum(), number)))
    return parts


def scattered(seed: int, count: int, sides: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes that do not overlap, and their labels."""
    rng = np.random.default_rng(seed)
    boxes: list[np.ndarray] = []
    for _ in range(20 * count):
        wh = rng.uniform(*sides, 2)
        low = rng.uniform(0, (SIZE[1], SIZE[0]) - wh)
        box = np.array([*low, *(low + wh)], np.float32)
        apart = [(box[2:] + 9 < other[:2]).any() or (other[2:] + 9 < box[:2]).any() for other in boxes]
        if all(apart) and len(boxes) < count:
            boxes.append(box)
    return np.stack(boxes), rng.integers(0, 3, len(boxes))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("sides", [(15, 40), (40, 150), (150, 400)])
def test_every_object_is_found_once_and_whole(seed, overlap, whole, sides):
    """Smaller than the overlap, larger than it, and larger than a tile: then its parts are joined."""
    objects, labels = scattered(seed, 12, sides)
    merged = merge_views(seen(objects, labels, ViewPlan(160, overlap, whole)), 0.45)
    order = np.lexsort(merged.boxes.T)
    expected = np.lexsort(objects.T)
    np.testing.assert_allclose(merged.boxes[order], objects[expected], atol=2.01)
    np.testing.assert_array_equal(merged.labels[order], labels[expected])
    assert (np.diff(merged.scores) <= 0).all()


def boxes_of(*rows: tuple) -> Boxes:
    """From (box, score, label, cut sides as letters of ltrb, view)."""
    return Boxes(
        np.array([row[0] for row in rows], np.float32),
        np.array([row[1] for row in rows], np.float32),
        np.array([row[2] for row in rows]),
        np.array([[side in row[3] for side in "ltrb"] for row in rows]),
        np.array([row[4] for row in rows]),
    )


def merged(*rows: tuple) -> list[list[float]]:
    return merge_views([boxes_of(*rows)], 0.45).boxes.tolist()


def test_a_part_gives_way_to_the_whole_even_with_a_better_score():
    assert merged(([0, 0, 50, 40], 0.9, 0, "r", 1), ([0, 0, 100, 40], 0.4, 0, "", 2)) == [[0, 0, 100, 40]]


def test_a_part_of_another_class_stays():
    rows = ([0, 0, 50, 40], 0.9, 0, "r", 1), ([0, 0, 100, 40], 0.4, 1, "", 2)
    assert merged(*rows) == [[0, 0, 50, 40], [0, 0, 100, 40]]


def test_a_box_in_another_is_the_same_object_only_in_another_view():
    inner, outer = [30, 10, 60, 40], [0, 0, 100, 60]
    assert merged((outer, 0.9, 0, "", 1), (inner, 0.8, 0, "", 1)) == [outer, inner]
    assert merged((outer, 0.9, 0, "", 1), (inner, 0.8, 0, "", 2)) == [outer]
    assert merged((outer, 0.8, 0, "", 1), (inner, 0.9, 0, "", 2)) == [inner]


def test_boxes_of_two_views_that_share_three_tenths_of_the_smaller_are_one_object():
    """Two views say where an object ends in different ways; in one view such boxes are two objects."""
    left, right, other = [0, 0, 100, 60], [68, 0, 168, 60], [72, 0, 172, 60]
    assert merged((left, 0.9, 0, "", 1), (right, 0.8, 0, "", 2)) == [left]
    assert merged((left, 0.9, 0, "", 1), (right, 0.8, 0, "", 1)) == [left, right]
    assert merged((left, 0.9, 0, "", 1), (right, 0.8, 1, "", 2)) == [left, right]
    assert merged((left, 0.9, 0, "", 1), (other, 0.8, 0, "", 2)) == [left, other]


def test_parts_that_do_not_continue_each_other_stay_apart():
    """Cut at the same side, or at heights that do not fit, or too far from each other."""
    left = ([50, 0, 100, 40], 0.9, 0, "r", 1)
    for other in (
        ([50, 60, 100, 90], 0.8, 0, "r", 1),
        ([90, 30, 150, 90], 0.8, 0, "l", 2),
        ([120, 0, 150, 40], 0.8, 0, "l", 2),
    ):
        assert merged(left, other) == [left[0], other[0]]
    assert merged(left, ([90, 2, 150, 41], 0.8, 0, "l", 2)) == [[50, 0, 150, 41]]


def test_an_object_that_no_view_saw_whole_is_kept_once():
    """The larger of two parts that lie in each other, with the better score."""
    found = merge_views([boxes_of(([0, 0, 90, 40], 0.5, 0, "b", 1), ([0, 0, 80, 40], 0.7, 0, "b", 2))], 0.45)
    assert found.boxes.tolist() == [[0, 0, 90, 40]]


def test_nothing_and_boxes_without_area():
    empty = seen(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), ViewPlan(160))
    assert len(merge_views(empty, 0.45).scores) == 0
    point = [5, 5, 5, 5]
    assert len(merged((point, 0.9, 0, "", 1), (point, 0.8, 0, "", 2), (point, 0.7, 0, "l", 3))) >= 1


def test_mirrors_suppress_as_one_image_does():
    """Views of the whole image: plain suppression by IoU within a view, and the better box across."""
    rows = ([0, 0, 50, 50], 0.9, 0, "", 0), ([2, 0, 52, 50], 0.8, 0, "", 1), ([60, 0, 99, 50], 0.7, 0, "", 1)
    assert merged(*rows) == [rows[0][0], rows[2][0]]
    assert (
        View((0, 0, 100, 100), (96, 96), True).cut_sides(np.array([[0, 0, 100, 100]]), (100, 100)).sum() == 0
    )
