"""Tiles cover an image, boxes find back from tile and mirror, and cut boxes are known."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from detectors.commands.predict.views import CUT_MARGIN, WHOLE, View, ViewPlan

SIZE = (416, 416)


@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("size", [(1000, 1000), (320, 321), (100, 2000), (3000, 4000), (641, 640)])
def test_tiles_cover_every_pixel_and_overlap_enough(size, overlap):
    height, width = size
    tile = 320
    first, *tiles = ViewPlan(tile, overlap).windows(size)
    assert first == (0, 0, width, height)
    assert all(x1 - x0 == min(tile, width) and y1 - y0 == min(tile, height) for x0, y0, x1, y1 in tiles)
    for low, high, length in ((0, 2, width), (1, 3, height)):
        spans = sorted({(t[low], t[high]) for t in tiles})
        assert spans[0][0] == 0 and spans[-1][1] == length
        shared = [end - start for (_, end), (start, _) in pairwise(spans)]
        assert all(pixels >= round(overlap * tile) - 1 for pixels in shared)
        if len(spans) > 1:  # one tile fewer could not do it
            assert (len(spans) - 1) * tile * (1 - overlap) < length - overlap * tile + 1
    assert len(set(tiles)) == len(tiles)


def test_a_small_image_has_no_tiles_and_the_whole_can_be_left_out():
    assert ViewPlan(320).windows((320, 200)) == [(0, 0, 200, 320)]
    assert (0, 0, 400, 320) not in ViewPlan(320, whole=False).windows((320, 400))
    assert WHOLE.windows((9, 9000)) == [(0, 0, 9000, 9)]


def test_sizes_and_mirrors():
    plan = ViewPlan(augment=("flip", "scales"))
    assert plan.sizes((416, 224)) == [(416, 224), (320, 160), (512, 288)]
    assert plan.sizes((32, 32)) == [(32, 32)]  # nothing smaller, and 40 is nearest to 32
    views = list(plan.views((50, 60), plan.sizes(SIZE)))
    assert len(views) == 6 and len(set(views)) == 6
    assert [view.mirrored for view in views[:2]] == [False, True]


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_box_in_a_view_is_where_its_pixels_are(mirrored):
    image = np.zeros((200, 300, 3), np.uint8)
    image[60:80, 130:170] = 255  # y 60 to 80, x 130 to 170
    view = View((100, 50, 260, 180), SIZE, mirrored)
    rows, columns = np.nonzero(view.pixels(image)[..., 0])
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_array_equal(view.to_image(np.array([seen], np.float32)), [[130, 60, 170, 80]])
    assert view.pixels(image).flags["C_CONTIGUOUS"]


def test_only_inner_borders_cut():
    view = View((0, 100, 100, 200), SIZE)  # at the left edge of an image of 400 x 300
    boxes = np.array(
        [[0, 120, 50, 150], [10, 100, 50, 150], [10, 120, 100, 150], [10, 120, 50, 200], [10, 120, 50, 150]],
        np.float32,
    )
    expected = np.zeros((5, 4), bool)
    expected[1, 1] = expected[2, 2] = expected[3, 3] = True
    np.testing.assert_array_equal(view.cut_sides(boxes, (300, 400)), expected)
    near = boxes[2:3] - [0, 0, 0.9 * 100 * CUT_MARGIN, 0]
    assert view.cut_sides(near, (300, 400))[0, 2]
    assert not view.cut_sides(near - [0, 0, 1, 0], (300, 400))[0, 2]


def test_a_box_that_ends_within_a_twentieth_of_the_side_counts_as_cut():
    """A network misses the end of what goes on beyond its view by some pixels."""
    view = View((100, 0, 300, 200), SIZE)
    boxes = np.array([[109.0, 50, 150, 80], [111, 50, 150, 80], [200, 50, 291, 80]])
    assert view.cut_sides(boxes, (200, 400)).any(1).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tile": 31}, "tile=31: must be 32 or more"),
        ({"overlap": 0.95}, "overlap=0.95: must be from 0 to 0.9"),
        ({"augment": ("flip", "rotate")}, "augment='rotate': choose from flip, scales"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        ViewPlan(**settings)
