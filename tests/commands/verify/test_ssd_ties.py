"""verify's replay of SSD's matching: where rounding decides, a matching is right if the rule allows it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from detectors.commands.verify.recordings import Arrays
from detectors.commands.verify.ssd_losses import Recorded, _positives
from detectors.commands.verify.ssd_ties import replayed
from detectors.structures import BACKGROUND, Targets

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


def recording(tmp_path, **arrays) -> Recorded:
    np.savez(tmp_path / "case.npz", **{f"ssdpt_{name}": array for name, array in arrays.items()})
    return Recorded(Arrays(tmp_path / "case.npz"), "ssdpt")


def two_boxes(*labels: int) -> Targets:
    valid = torch.ones(1, 2, dtype=torch.bool)
    return Targets(torch.zeros(1, 2, 4), torch.tensor([labels]) - 1, valid)


@pytest.mark.parametrize(("label", "box"), [(3, 0), (5, 1)])
def test_without_pos_gt_the_label_chooses_between_tied_boxes(label, box, tmp_path):
    """Both boxes have the same IoU with the default box in the middle. Ours gives it to the first."""
    recorded = recording(tmp_path, pos=np.array([[0, 0], [0, 1], [0, 2]]), pos_label=np.array([3, label, 5]))
    iou = torch.tensor([[[0.9, 0.75, 0.0], [0.0, 0.75, 0.9]]])
    ours = torch.tensor([[0, 0, 1]])
    matched, comparison = _positives(ours, recorded, two_boxes(3, 5), iou, greedy=False)
    assert matched.tolist() == [[0, box, 1]]
    assert comparison.passed
    assert comparison.what == ("positives (1 places decided by rounding)" if box else "positives")


def test_without_a_tie_the_label_must_be_right(tmp_path):
    recorded = recording(tmp_path, pos=np.array([[0, 0], [0, 1], [0, 2]]), pos_label=np.array([3, 5, 5]))
    iou = torch.tensor([[[0.9, 0.75, 0.0], [0.0, 0.74, 0.9]]])
    _, comparison = _positives(torch.tensor([[0, 0, 1]]), recorded, two_boxes(3, 5), iou, greedy=False)
    assert (comparison.passed, comparison.note) == (
        False,
        "2 differ: only ours [(0, 1, 0)]; only recorded [(0, 1, 1)]",
    )
