"""Box arithmetic against plain loops and torchvision."""

from __future__ import annotations

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
