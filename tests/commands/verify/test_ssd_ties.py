"""verify's replay of SSD's matching: where rounding decides, a matching is right if the rule allows it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from detectors.boxes import xyxy_to_cxcywh
from detectors.coders import SSDBoxCoder
from detectors.commands.verify.comparison import Comparison
from detectors.commands.verify.recordings import Arrays
from detectors.commands.verify.ssd_losses import Recorded, _positives
from detectors.commands.verify.ssd_ties import replayed
from detectors.structures import BACKGROUND, AnchorGrid, Level, Targets

# Box 0 has two equal default boxes, both above the threshold; box 1 prefers the second, then the third.
SECOND_ROUND = np.array([[0.8, 0.8, 0.0, 0.0], [0.0, 0.7, 0.3, 0.3 + 5e-7]])


def pairs(matched: list[int], boxes: int) -> np.ndarray:
    """(M, A) bool"""
    return np.array(matched) == np.arange(boxes)[:, None]


@pytest.mark.parametrize(
    "matched",
    [
        [0, 1, BACKGROUND, BACKGROUND],  # box 0 takes the first
        [0, 0, 1, BACKGROUND],  # box 0 takes the second, and box 1 one of two equal ones in the next round
        [0, 0, BACKGROUND, 1],
    ],
)
def test_each_way_to_break_a_tie_is_right(matched):
    assert replayed(SECOND_ROUND, pairs(matched, 2), greedy=True).tolist() == matched


@pytest.mark.parametrize(
    "matched",
    [
        [0, 0, BACKGROUND, BACKGROUND],  # box 1 must get one
        [0, 0, 1, 1],  # but not two
        [0, 1, 1, BACKGROUND],
        [1, 0, BACKGROUND, BACKGROUND],
        [BACKGROUND, 1, BACKGROUND, BACKGROUND],
    ],
)
def test_other_matchings_are_wrong(matched):
    assert replayed(SECOND_ROUND, pairs(matched, 2), greedy=True).tolist() != matched


@pytest.mark.parametrize("matched", [[0, BACKGROUND], [1, BACKGROUND], [BACKGROUND, 1]])
def test_the_last_box_overwrites(matched):
    """Box 0 likes both default boxes equally, box 1 the first only."""
    iou = np.array([[0.3, 0.3], [0.4, 0.0]])
    allowed = [[1, BACKGROUND], [1, 0]]
    assert (replayed(iou, pairs(matched, 2), greedy=False).tolist() == matched) == (matched in allowed)


def test_an_iou_at_the_threshold_goes_either_way():
    iou = np.array([[0.9, 0.5 + 4e-7, 0.5 - 4e-7, 0.49]])
    for matched in ([0, 0, 0, -1], [0, -1, 0, -1], [0, -1, -1, -1]):
        assert replayed(iou, pairs(matched, 1), greedy=True).tolist() == matched
    assert replayed(iou, pairs([0, 0, 0, 0], 1), greedy=True).tolist() == [0, 0, 0, -1]


BOXES = torch.tensor([[[0.0, 0, 10, 10], [2, 0, 12, 10]]])
TIED = [1.0, 0, 11, 10]  # has the same IoU with both boxes


def anchors(middle: list[float]) -> AnchorGrid:
    """Three default boxes: the first box, `middle`, and the second box."""
    corners = torch.stack([BOXES[0, 0], torch.tensor(middle), BOXES[0, 1]])
    levels = (Level(1, 3, 1.0, 1),)
    return AnchorGrid(xyxy_to_cxcywh(corners), torch.ones(3), torch.zeros(3, 2), (100, 100), levels)


def compared(tmp_path, grid: AnchorGrid, labels: list[int], box: int, label: int) -> tuple[list, Comparison]:
    """The recorded matching, and its comparison with ours, which gives the middle to the first box.

    The recording, without pos_gt, gives it to `box`, with `label`. labels: of the two boxes, from 1.
    """
    owners = [0, box, 1]
    np.savez(
        tmp_path / "case.npz",
        ssdpt_pos=np.array([[0, 0], [0, 1], [0, 2]]),
        ssdpt_pos_label=np.array([labels[0], label, labels[1]]),
        ssdpt_pos_target=SSDBoxCoder().encode(BOXES[0, owners], grid).numpy(),
    )
    targets = Targets(BOXES, torch.tensor([labels]) - 1, torch.ones(1, 2, dtype=torch.bool))
    recorded = Recorded(Arrays(tmp_path / "case.npz"), "ssdpt")
    matched, comparison = _positives(torch.tensor([[0, 0, 1]]), recorded, targets, grid, greedy=False)
    return matched.tolist(), comparison


@pytest.mark.parametrize("labels", [[3, 5], [3, 3]])
@pytest.mark.parametrize("box", [0, 1])
def test_without_pos_gt_label_and_target_choose_between_tied_boxes(labels, box, tmp_path):
    matched, comparison = compared(tmp_path, anchors(TIED), labels, box, labels[box])
    assert matched == [[0, box, 1]]
    assert comparison.passed
    assert comparison.what == ("positives (1 places decided by rounding)" if box else "positives")


def test_without_a_tie_the_label_must_be_right(tmp_path):
    _, comparison = compared(tmp_path, anchors([0.5, 0, 10.5, 10]), [3, 5], 1, 5)
    assert (comparison.passed, comparison.note) == (
        False,
        "2 differ: only ours [(0, 1, 0)]; only recorded [(0, 1, 1)]",
    )
