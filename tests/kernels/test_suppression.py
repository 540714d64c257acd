"""Suppression of many groups at once, against torchvision's nms on one group after the other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import nms

from detectors.kernels import suppression
from detectors.kernels.suppression import suppress

IOU = 0.45


def one_by_one(boxes: Tensor, group: Tensor, groups: int, limit: int) -> Tensor:
    """What torchvision keeps of the best `limit` boxes of each group."""
    keep = torch.zeros(len(boxes), dtype=torch.bool)
    for g in range(groups):
        rows = (group == g).nonzero()[:limit, 0]
        score = torch.arange(len(rows), 0, -1).double()
        keep[rows[nms(boxes[rows], score, IOU)]] = True
    return keep


def random_boxes(kind: str, count: int, generator: torch.Generator) -> Tensor:
    """(T, 4) float64 boxes of one kind."""
    corner = 300 * torch.rand(count, 2, generator=generator, dtype=torch.float64)
    size = 10 + 90 * torch.rand(count, 2, generator=generator, dtype=torch.float64)
    if kind == "clustered":
        corner = corner.div(100).floor() * 100 + size / 5
    elif kind == "tied":  # whole numbers: many pairs have an IoU of exactly 9 / 20
        corner = torch.randint(0, 12, (count, 2), generator=generator).double()
        size = torch.randint(1, 6, (count, 2), generator=generator).double() * 4
    elif kind == "degenerate":
        size = size * torch.randint(0, 2, (count, 2), generator=generator)
        corner = corner.div(150).floor() * 150
    elif kind == "huge":
        corner = corner - 2.0**20 * torch.randint(0, 2, (count, 1), generator=generator)
        size = size + 2.0**21 * torch.randint(0, 2, (count, 1), generator=generator)
    return torch.cat([corner, corner + size], 1)


KINDS = ("spread", "clustered", "tied", "degenerate", "huge")


@pytest.mark.parametrize("changed", [{}, {"TILE_PAIRS_AT_ONCE": 3}, {"TILE_PAIR_LIMIT": 0}])
@pytest.mark.parametrize("kind", KINDS)
def test_every_group_is_torchvisions_nms(kind, changed, monkeypatch):
    """All tiles at once, three pairs of tiles after the other, and group by group."""
    for name, value in changed.items():
        monkeypatch.setattr(suppression, name, value)
    generator = torch.Generator().manual_seed(0)
    dropped = 0
    for count, groups, limit in [(1, 1, 9), (60, 1, 60), (200, 7, 25), (200, 300, 200), (400, 3, 400)]:
        boxes = random_boxes(kind, count, generator)
        group = torch.randint(0, groups, (count,), generator=generator)
        keep = suppress(boxes, group, groups, iou=IOU, limit=limit)
        assert torch.equal(keep, one_by_one(boxes, group, groups, limit))
        dropped += int((~keep).sum())
    assert dropped > 20


def test_an_iou_at_the_threshold_suppresses_nothing():
    """Two boxes of area 29 whose intersection is 18: an IoU of 18 / 40."""
    boxes = torch.tensor([[0.0, 0, 29, 1], [11, 0, 40, 1]]).double()
    one_group = torch.zeros(2, dtype=torch.int64)
    for iou, kept in ((0.45, 2), (0.4499, 1)):
        assert suppress(boxes, one_group, 1, iou=iou, limit=2).sum() == kept


def test_many_overlaps_are_suppressed_group_by_group(monkeypatch):
    """A list of the pairs among 300 equal boxes would exceed the limit."""
    one_by_one = []
    monkeypatch.setattr(suppression, "OVERLAP_LIMIT", 1000)
    monkeypatch.setattr(suppression, "nms", lambda *args: one_by_one.append(1) or nms(*args))
    boxes = torch.tensor([[0.0, 0, 9, 9]]).double().repeat(300, 1)
    keep = suppress(boxes, torch.arange(300) // 150, 2, iou=IOU, limit=300)
    assert keep.nonzero().flatten().tolist() == [0, 150]
    assert len(one_by_one) == 2


def test_a_long_chain():
    """Each box overlaps the next only: every second one is kept."""
    left = torch.arange(150).double() * 3
    boxes = torch.stack([left, left * 0, left + 10, left * 0 + 10], 1)
    group = torch.zeros(150, dtype=torch.int64)
    keep = suppress(boxes, group, 1, iou=IOU, limit=150)
    assert torch.equal(keep, torch.arange(150) % 2 == 0)


@pytest.mark.parametrize("groups", [0, 5])
def test_no_boxes(groups):
    none = torch.zeros(0, dtype=torch.int64)
    keep = suppress(torch.zeros(0, 4).double(), none, groups, iou=IOU, limit=3)
    assert keep.shape == (0,) and keep.dtype == torch.bool
