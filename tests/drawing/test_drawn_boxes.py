"""Drawing: which pixels change, where boxes and texts lie, and which arguments raise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from detectors.drawing.drawn_boxes import (
    READABLE,
    class_colours,
    draw_boxes,
    draw_detections,
    magnification,
    outline,
)
from detectors.structures import Detections

RED = (255, 0, 0)
GREEN = (0, 255, 0)
GREY = 128
LARGE = np.full((500, 600, 3), GREY, np.uint8)  # not enlarged


def test_the_input_image_is_not_modified():
    image = LARGE.copy()
    drawn = draw_boxes(image, np.array([[10.0, 10, 50, 50]]), ["cat"])
    np.testing.assert_array_equal(image, LARGE)
    assert drawn is not image
    assert not np.array_equal(drawn, image)


def test_without_boxes_the_image_is_unchanged():
    np.testing.assert_array_equal(draw_boxes(LARGE, np.zeros((0, 4)), []), LARGE)


@pytest.mark.parametrize(
    ("size", "factor"), [((160, 160), 3), ((100, 250), 2), ((480, 100), 1), ((479, 1), 2), ((2000, 10), 1)]
)
def test_small_images_are_enlarged_by_a_whole_number(size, factor):
    assert magnification(size) == factor
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    drawn = draw_boxes(image, [], [])
    assert max(drawn.shape) >= READABLE
    np.testing.assert_array_equal(drawn[factor // 2 :: factor, factor // 2 :: factor], image)


def test_box_edges_are_drawn_at_the_box():
    """Continuous edges 100..300 are pixels 100 to 299. The line is two pixels wide and may cover one more."""
    drawn = draw_boxes(LARGE, [[100.0, 200, 300, 400]], [""], colours=[RED])
    rows, columns = np.nonzero((drawn == RED).all(-1))
    assert (drawn[200, 100:300] == RED).all() and (drawn[399, 100:300] == RED).all()
    assert (drawn[200:400, 100] == RED).all() and (drawn[200:400, 299] == RED).all()
    assert columns.min() in (99, 100) and columns.max() in (299, 300)
    assert rows.min() in (199, 200) and rows.max() in (399, 400)
    assert (drawn[210:390, 110:290] == GREY).all()


def test_detections_are_drawn_with_class_colour_name_and_score():
    boxes = torch.tensor([[100.0, 100, 200, 200], [300, 300, 400, 400]])
    image_rows = torch.zeros(2, dtype=torch.int64)
    detections = Detections(image_rows, boxes, torch.tensor([0.9, 0.5]), torch.tensor([1, 0]))
    gt_boxes = np.array([[50.0, 250, 150, 350]])
    drawn = draw_detections(LARGE, detections, ("cat", "dog"), gt_boxes=gt_boxes, gt_labels=np.array([1]))
    cat, dog = class_colours(2)
    expected = draw_boxes(
        LARGE,
        boxes.numpy(),
        ["dog 0.90", "cat 0.50"],
        colours=[dog, cat],
        gt_boxes=gt_boxes,
        gt_texts=["dog"],
    )
    np.testing.assert_array_equal(drawn, expected)
    without_detections = draw_detections(LARGE, Detections.concatenate([]), ("cat", "dog"))
    np.testing.assert_array_equal(without_detections, LARGE)


def test_boxes_are_enlarged_with_the_image():
    small = np.full((160, 160, 3), GREY, np.uint8)
    drawn = draw_boxes(small, [[20.0, 40, 60, 100]], [""], colours=[RED])
    assert (drawn[120, 60:180] == RED).all() and (drawn[299, 60:180] == RED).all()
    assert (drawn[120:300, 60] == RED).all() and (drawn[120:300, 179] == RED).all()


def test_the_first_box_is_on_top():
    drawn = draw_boxes(LARGE, [[100.0, 100, 200, 200]] * 2, ["", ""], colours=[RED, GREEN])
    assert not (drawn == GREEN).all(-1).any()


def test_ground_truth_is_dashed_black_and_white_and_below_detections():
    drawn = draw_boxes(LARGE, [], [], gt_boxes=[[100.0, 200, 300, 400]])
    edge = drawn[200, 100:300]
    assert set(np.unique(edge)) == {0, 255}
    assert 0.3 < (edge == 255).mean() < 0.95
    both = draw_boxes(LARGE, [[100.0, 200, 300, 400]], [""], colours=[RED], gt_boxes=[[100.0, 200, 300, 400]])
    np.testing.assert_array_equal(both[200, 110], RED)


def test_texts_lie_on_a_plate_of_the_box_colour_inside_the_image():
    """There is no room above a box in the top left corner: the plate moves into the image."""
    drawn = draw_boxes(
        LARGE,
        [[0.0, 0, 60, 40]],
        ["tvmonitor 0.97"],
        colours=[GREEN],
        gt_boxes=[[500.0, 450, 600, 500]],
        gt_texts=["sheep"],
    )
    plate = drawn[2:10, 62:90].reshape(-1, 3)
    assert (plate == GREEN).all(1).mean() > 0.4
    assert (plate != GREEN).any(1).any()  # ink
    assert (drawn[484:498, 505:540] == 255).all(-1).mean() > 0.4


@pytest.mark.parametrize(
    "box", [[-50, -50, 900, 900], [700, 700, 800, 800], [10, 10, 10, 10], [50, 50, 20, 20]]
)
def test_boxes_outside_the_image_or_without_area_do_not_raise(box):
    drawn = draw_boxes(LARGE, [box], ["odd"], gt_boxes=[box], gt_texts=["odd"])
    assert drawn.shape == LARGE.shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((LARGE[..., 0], [], []), r"uint8 image .*got uint8 \(500, 600\)"),
        ((LARGE / 255, [], []), "got float64"),
        ((LARGE, [[0, 0, 1, 1]], []), "1 boxes, 0 texts"),
    ],
)
def test_wrong_arguments_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        draw_boxes(*arguments)


def test_the_label_of_the_last_of_many_boxes_is_readable():
    """Its plate lies apart from its box, and none lies on it."""
    drawn = draw_boxes(
        LARGE, [[100.0, 100, 104, 104]] * 30, ["thing 0.50"] * 30, colours=[GREEN] * 29 + [RED]
    )
    assert (drawn == RED).all(-1).sum() > 300


def test_the_labels_of_equal_boxes_are_all_readable():
    colours = class_colours(6)
    drawn = draw_boxes(LARGE, [[200.0, 200, 400, 300]] * 6, ["cat 0.90"] * 6, colours=colours)
    plates = [int((drawn == colour).all(-1).sum()) for colour in colours]
    assert min(plates[1:]) > 0.8 * max(plates[1:]) > 300


def test_class_colours_differ_most_between_consecutive_labels():
    colours = class_colours(80).astype(int)
    assert colours.shape == (80, 3)
    distance = np.abs(colours[:, None] - colours[None]).sum(-1) + 999 * np.eye(80)
    assert distance.min() > 0
    assert np.diagonal(distance, 1).min() > 200
    assert class_colours(0).shape == (0, 3)


def test_outlines_are_thin_and_faint():
    drawn = outline(LARGE, [[100.0, 200, 300, 400], [100, 200, 300, 400]], [RED, GREEN])
    faint_red = np.round([0.6 * 255 + 0.4 * GREY, 0.4 * GREY, 0.4 * GREY])
    np.testing.assert_array_equal(drawn[200, 100:300], np.tile(faint_red, (200, 1)))
    assert (drawn[201:399, 101:299] == GREY).all() and (drawn[:200] == GREY).all()
    assert (LARGE == GREY).all()
    np.testing.assert_array_equal(outline(LARGE, np.zeros((0, 4)), np.zeros((0, 3))), LARGE)


def test_boxes_are_drawn_without_enlarging():
    drawn = draw_boxes(
        np.full((100, 100, 3), GREY, np.uint8), [[20.0, 30, 60, 80]], [""], colours=[RED], enlarge=False
    )
    assert drawn.shape == (100, 100, 3)
    assert (drawn[30:80, 20] == RED).all()
