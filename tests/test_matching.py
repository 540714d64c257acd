"""Both matchers against plain loops; recordings of the originals are in test_losses.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from detectors.anchors import YoloAnchors
from detectors.coders import YoloBoxCoder
from detectors.matching import (
    MultiBoxMatcher,
    ResponsibleCellMatcher,
    best_anchors,
    comes_first,
    greedy_bipartite,
    lowest_labels,
    owns,
)
from detectors.structures import BACKGROUND, AnchorGrid, Level
from detectors.targets import TargetEncoder
from tests import oracles


@pytest.mark.parametrize("seed", range(5))
def test_responsible_cell_equals_loops(seed):
    grid = YoloAnchors([(1.0, 1.5), (3.0, 2.0), (5.0, 6.0)], 16)((96, 128))
    targets = oracles.random_targets(
        torch.Generator().manual_seed(seed), batch=3, most=20, classes=3, size=grid.size
    )
    matched = ResponsibleCellMatcher()(targets, grid).matched
    for b, owner in enumerate(oracles.responsible_cell(targets, grid)):
        expected = torch.full((grid.num_anchors,), BACKGROUND)
        for anchor, box in owner.items():
            expected[anchor] = box
        assert_close(matched[b], expected)


def test_the_later_box_wins_and_both_stay_assigned():
    grid = YoloAnchors([(1.0, 1.0)], 32)((64, 64))
    matches = ResponsibleCellMatcher()(oracles.pad_targets([[[0.0, 0, 20, 20], [4, 4, 24, 24]]]), grid)
    assert matches.assigned.tolist() == [[0, 0]]
    assert matches.matched.tolist() == [[1, -1, -1, -1]]


def test_a_centre_on_the_far_edge_stays_inside():
    grid = YoloAnchors([(1.0, 1.0)], 32)((64, 64))
    matches = ResponsibleCellMatcher()(oracles.pad_targets([[[60.0, 60, 68, 68]]]), grid)
    assert matches.assigned.tolist() == [[3]]


@pytest.mark.parametrize(
    ("bipartite", "naive_match"), [("greedy", oracles.multibox_match), ("last", oracles.last_box_match)]
)
@pytest.mark.parametrize("seed", range(5))
def test_multibox_equals_loops(seed, bipartite, naive_match):
    grid = oracles.small_ssd_grid((96, 128))
    targets = oracles.random_targets(
        torch.Generator().manual_seed(seed), batch=3, most=12, classes=3, size=grid.size
    )
    matched = MultiBoxMatcher(bipartite=bipartite)(targets, grid).matched
    for b in range(3):
        expected = torch.full((grid.num_anchors,), BACKGROUND)
        for anchor, box in naive_match(targets, grid, b).items():
            expected[anchor] = box
        assert_close(matched[b], expected)


def test_the_last_of_equal_boxes_keeps_the_anchor():
    """Other anchors with IoU >= .5 would go to the first of the boxes; here there are none."""
    grid = oracles.small_ssd_grid((96, 96))
    same = [30.0, 30, 40, 40]
    matches = MultiBoxMatcher(bipartite="last")(oracles.pad_targets([[same, same, same], [same]]), grid)
    assert len(set(matches.assigned[0].tolist())) == 1
    assert matches.matched[0][matches.matched[0] >= 0].tolist() == [2]
    assert matches.assigned[1].tolist() == [matches.assigned[0, 0].item(), -1, -1]


def test_boxes_that_share_a_best_anchor_all_get_one():
    """In most ports the last box overwrites the others."""
    grid = oracles.small_ssd_grid((96, 96))
    same = [30.0, 30, 50, 50]
    matches = MultiBoxMatcher()(oracles.pad_targets([[same, same, same]]), grid)
    assert len(set(matches.assigned[0].tolist())) == 3
    assert set(matches.matched[0].tolist()) >= {0, 1, 2}


def test_greedy_takes_the_largest_pair_first():
    iou = torch.tensor([[[0.9, 0.8, 0.0], [0.95, 0.1, 0.0], [0.7, 0.75, 0.2]]])
    assert greedy_bipartite(iou).tolist() == [[1, 0, 2]]
    nothing_left = torch.tensor([[[0.9, 0.0], [0.8, 1e-7]]])  # for the second box, nothing above 1e-6
    assert greedy_bipartite(nothing_left).tolist() == [[0, -1]]


def test_greedy_gives_ties_to_the_lowest_anchor():
    assert greedy_bipartite(torch.full((1, 2, 50), 0.25)).tolist() == [[0, 1]]


def test_a_box_that_overlaps_no_anchor_gets_none():
    """torchvision gives it the first."""
    assert best_anchors(torch.tensor([[[0.0, 0.2], [0.0, 0.0], [-1, -1]]])).tolist() == [[1, -1, -1]]


def test_boxes_on_the_first_anchor_share_their_lowest_label():
    grid = YoloAnchors([(1.0, 1.0)], 32)((64, 64))
    boxes = [[[0.0, 0, 20, 20], [4, 4, 24, 24], [40, 40, 60, 60]]]
    targets = oracles.pad_targets(boxes)
    targets = replace(targets, labels=torch.tensor([[2, 1, 0]]))
    encoded = TargetEncoder(ResponsibleCellMatcher(), YoloBoxCoder())(targets, grid)
    assert lowest_labels(encoded).tolist() == [[1, 1, 0]]


def test_which_boxes_on_an_anchor_come_first_and_which_own_it():
    """Three boxes on the first anchor, a box without area, padding, and a box of its own."""
    grid = YoloAnchors([(1.0, 1.0)], 32)((64, 64))
    row = [0.0, 0, 20, 20]
    targets = oracles.pad_targets([[row, row, [0, 0, 0, 9], [40, 40, 60, 60], row], [row]])
    encoded = TargetEncoder(ResponsibleCellMatcher(), YoloBoxCoder())(targets, grid)
    assert comes_first(encoded).tolist() == [[True, False, False, True, False], [True, *[False] * 4]]
    assert owns(encoded).tolist() == [[False, False, False, True, True], [True, *[False] * 4]]


def test_more_boxes_than_anchors():
    grid = oracles.small_ssd_grid((32, 32))
    boxes = [[float(i % 7), float(i % 5), 20.0 + i % 11, 22.0 + i % 3] for i in range(40)]
    matches = MultiBoxMatcher()(oracles.pad_targets([boxes]), grid)
    anchors = matches.assigned[0][matches.assigned[0] >= 0]
    assert len(anchors) == grid.num_anchors == len(set(anchors.tolist()))


def test_a_batch_without_boxes():
    empty = oracles.pad_targets([[], []])
    for grid, matcher in (
        (YoloAnchors([(1.0, 1.0)])((64, 64)), ResponsibleCellMatcher()),
        (oracles.small_ssd_grid((64, 64)), MultiBoxMatcher()),
    ):
        matches = matcher(empty, grid)
        assert (matches.matched == BACKGROUND).all()
        assert matches.assigned.shape == (2, 0)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="positive_iou=0"):
        MultiBoxMatcher(0)
    with pytest.raises(ValueError, match="bipartite='first': choose 'greedy'"):
        MultiBoxMatcher(bipartite="first")


def test_an_iou_of_exactly_the_threshold_is_positive():
    """As in Caffe and the paper. The box covers all of the first anchor and half of the second."""
    boxes_cxcywh = torch.tensor([[8.0, 4, 16, 8], [8.0, 8, 16, 16], [40.0, 40, 16, 16]])
    levels = (Level(1, 3, 16.0, 1),)
    grid = AnchorGrid(boxes_cxcywh, torch.full((3,), 16.0), torch.zeros(3, 2), (64, 64), levels)
    targets = oracles.pad_targets([[[0.0, 0, 16, 8]]])
    assert MultiBoxMatcher()(targets, grid).matched.tolist() == [[0, 0, BACKGROUND]]
    stricter = MultiBoxMatcher(positive_iou=0.51)(targets, grid)
    assert stricter.matched.tolist() == [[0, BACKGROUND, BACKGROUND]]
