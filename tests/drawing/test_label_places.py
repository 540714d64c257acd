"""Where labels go: none covers another, all lie within the picture, and the first box chooses first."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.drawing.label_places import label_places


def disjoint(one: tuple, other: tuple) -> bool:
    """Two labels (x, y, width, height)."""
    apart_x = one[0] + one[2] <= other[0] or other[0] + other[2] <= one[0]
    return apart_x or one[1] + one[3] <= other[1] or other[1] + other[3] <= one[1]


@pytest.mark.parametrize("count", [1, 2, 25, 120])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_label_covers_another(seed, count):
    """Crowded boxes on a small canvas: every label lies within it and apart from all others."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 250, (count, 2))
    corners = [(x, y, min(x + w, 299), min(y + h, 249)) for x, y, w, h in np.hstack([low, low // 3]).tolist()]
    sizes = [(int(width), 14) for width in rng.integers(20, 80, count)]
    places = label_places(corners, sizes, (300, 250), [n % 5 == 4 for n in range(count)])
    labels = [(p.x, p.y, *wh) for p, wh in zip(places, sizes, strict=True) if p is not None]
    assert all(x >= 0 and y >= 0 and x + w <= 300 and y + h <= 250 for x, y, w, h in labels)
    assert all(disjoint(labels[n], labels[m]) for n in range(len(labels)) for m in range(n))
    if count <= 25:
        assert None not in places
    covered = sum(width * height for _, _, width, height in labels)
    assert None not in places or covered > 0.5 * 300 * 250


def test_the_first_box_chooses_its_label_first():
    """Four equal boxes: above left, above right, below left, below right; the text of none is on another."""
    places = label_places([(100, 100, 199, 199)] * 4, [(40, 10)] * 4, (600, 500), [False] * 4)
    assert places == [(100, 90, True), (160, 90, True), (100, 199, True), (160, 199, True)]
    assert label_places([(100, 100, 199, 199)], [(40, 10)], (600, 500), [True]) == [(100, 199, True)]
    assert label_places([(0, 0, 50, 50)], [(40, 10)], (600, 500), [False]) == [(0, 0, True)]
    assert label_places([(0, 0, 50, 50)] * 2, [(0, 0), (40, 10)], (600, 500), [False] * 2)[0] is None


def test_a_label_without_room_at_its_box_goes_to_the_nearest_free_place():
    places = label_places([(100, 100, 103, 103)] * 30, [(40, 10)] * 30, (600, 500), [False] * 30)
    far = [place for place in places if not place.beside]
    assert len(far) > 10
    assert all(abs(place.x - 80) < 120 and abs(place.y - 100) < 120 for place in far)


def test_where_no_room_is_left_the_weakest_have_no_label():
    places = label_places([(0, 0, 9, 9)] * 9, [(20, 10)] * 9, (40, 20), [False] * 9)
    assert [place is None for place in places] == [False] * 4 + [True] * 5
