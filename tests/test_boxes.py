"""Box arithmetic against plain loops and torchvision."""

from __future__ import annotations

import pytest
import torch
import torchvision.ops as tv
from torch.testing import assert_close

from detectors import boxes
from tests import oracles


def random_boxes(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator) * 80
    return torch.cat([low, low + torch.rand(count, 2, generator=generator) * 60], 1)


def test_pairwise_iou_equals_torchvision_and_loops():
    left = random_boxes(7, 0)
    right = random_boxes(5, 1)
    ours = boxes.pairwise_iou(left, right)
    assert_close(ours, tv.box_iou(left, right))
    assert_close(ours, torch.tensor([[oracles.iou(a, b) for b in right.tolist()] for a in left.tolist()]))
    assert_close(boxes.paired_iou(left[:5], right), ours.diagonal())


def test_empty_boxes_have_iou_zero():
    flat = torch.tensor([[5.0, 5, 5, 9]])
    assert boxes.pairwise_iou(flat, flat).item() == 0
    assert boxes.shape_iou(torch.zeros(2), torch.zeros(2)).item() == 0


@pytest.mark.parametrize("tile", [1, 100, 10**6], ids=["one by one", "some", "all"])
def test_largest_iou_is_the_largest_of_all_pairs(tile, monkeypatch):
    """Bit for bit, whatever the tiles; padding of zeros changes nothing."""
    monkeypatch.setattr(boxes, "TILE_NUMBERS", tile)
    left = torch.stack([random_boxes(9, seed) for seed in (0, 1)])  # (2, 9, 4)
    for count in (1, 2, 6, 7):
        right = torch.stack([random_boxes(count, seed) for seed in (2, 3)])
        expected = boxes.pairwise_iou(right, left).amax(1)
        assert expected.max() > 0
        assert_close(boxes.largest_iou(left, right), expected, rtol=0, atol=0)
        padded = torch.cat([right, torch.zeros(2, 3, 4)], 1)
        assert_close(boxes.largest_iou(left, padded), expected, rtol=0, atol=0)
    assert_close(boxes.largest_iou(left, right[:, :0]), torch.zeros(2, 9))


@pytest.mark.parametrize("tile", [1, 100, 10**6], ids=["one by one", "some", "all"])
@pytest.mark.parametrize("counts", [[0, 9, 1, 1, 2, 0, 1], [0, 0, 0], [12, 0, 0, 0, 3]])
def test_counts_of_others_save_only_padding(counts, tile, monkeypatch):
    """Bit for bit."""
    monkeypatch.setattr(boxes, "TILE_NUMBERS", tile)
    left = torch.stack([random_boxes(9, seed) for seed in range(len(counts))])
    right = torch.stack([random_boxes(13, seed) for seed in range(20, 20 + len(counts))])
    counted = torch.arange(13) < torch.tensor(counts)[:, None]  # (B, 13)
    right = torch.where(counted[..., None], right, 0)
    expected = boxes.largest_iou(left, right)
    assert_close(boxes.largest_iou(left, right, counts), expected, rtol=0, atol=0)
    assert (expected.amax(1) > 0).tolist() == [count > 0 for count in counts]


def test_the_largest_iou_of_empty_and_of_nan_boxes():
    flat = torch.tensor([[[5.0, 5, 5, 5], [5, 5, 5, 9], [5, 5, 9, 9], [torch.nan, 5, 9, 9]]])
    others = torch.tensor([[[5.0, 5, 5, 5], [6, 1, 8, 3], [7, 7, 11, 11]]])  # beside, above, across
    largest = boxes.largest_iou(flat, others)
    assert_close(largest, torch.tensor([[0.0, 0, 4 / 28, torch.nan]]), equal_nan=True)


def test_shape_iou_is_the_iou_of_boxes_with_one_centre():
    left = torch.tensor([[3.0, 4.0], [1.0, 9.0]])
    right = torch.tensor([[5.0, 2.0], [2.0, 2.0]])
    expected = [
        oracles.iou(oracles.corners(0, 0, *a), oracles.corners(0, 0, *b))
        for a, b in zip(left.tolist(), right.tolist(), strict=True)
    ]
    assert_close(boxes.shape_iou(left, right), torch.tensor(expected))


def test_area_and_clip():
    corners = torch.tensor([[-5.0, 10, 20, 300], [30, 30, 20, 40]])
    assert_close(boxes.area(corners), torch.tensor([25.0 * 290, 0.0]))
    before = corners.clone()
    assert_close(boxes.clip(corners, (200, 15)), tv.clip_boxes_to_image(corners, (200, 15)))
    assert_close(corners, before)
