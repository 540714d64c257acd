"""The region loss makes no tensor of all boxes with all anchors, and its work grows linearly with boxes."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from detectors import boxes
from detectors.anchors import YOLO_ANCHORS, YoloAnchors
from detectors.coders import YoloBoxCoder
from detectors.losses.region_loss import RegionLoss
from detectors.matching import ResponsibleCellMatcher
from detectors.structures import HeadOutputs
from detectors.targets import TargetEncoder
from tests import oracles

CLASSES = 3
OPTIONS = {
    "darknet": {},
    "course": {"normalizer": "anchors", "box_error": "cells", "iou_gradient": True, "ignore_truths": 50},
    "logistic": {"class_activation": "logistic"},
    "lowest": {"shared_class": "lowest"},
}


class Made(TorchDispatchMode):
    """largest: bytes of the largest tensor that was made. numbers: how many numbers all operations wrote."""

    def __init__(self):
        super().__init__()
        self.largest = 0
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        if not function.is_view:
            for result in results if isinstance(results, tuple | list) else [results]:
                if isinstance(result, torch.Tensor):
                    self.largest = max(self.largest, result.numel() * result.element_size())
                    self.numbers += result.numel()
        return results


def made(options: dict, *, batch: int, most: int, size: tuple[int, int]) -> Made:
    """Matching, loss, gradient and statistics of a batch with up to that many boxes in an image."""
    generator = torch.Generator().manual_seed(0)
    grid = YoloAnchors(YOLO_ANCHORS["voc"], 32)(size)
    targets = oracles.random_targets(generator, batch=batch, most=most, classes=CLASSES, size=size)
    shapes = [(batch, grid.num_anchors, *entries) for entries in ((4,), (CLASSES,), ())]
    leaves = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    loss = RegionLoss(**options)
    with Made() as watch:
        encoded = TargetEncoder(ResponsibleCellMatcher(), YoloBoxCoder())(targets, grid)
        sum(loss(HeadOutputs(*leaves), encoded, grid).values()).backward()
        loss.statistics(HeadOutputs(*leaves), encoded, grid)
    return watch


@pytest.mark.parametrize("name", OPTIONS)
def test_no_tensor_of_all_boxes_with_all_anchors(name):
    """Even of bools it would be larger than the largest tensors, which are the buffers of largest_iou."""
    watch = made(OPTIONS[name], batch=20, most=300, size=(416, 416))
    assert watch.largest <= 4 * 4 * boxes.TILE_NUMBERS < 20 * 300 * 845
    assert 4 * 4 * boxes.TILE_NUMBERS <= 64 * 2**20


@pytest.mark.parametrize("name", OPTIONS)
def test_the_work_grows_linearly_with_boxes(name, monkeypatch):
    """From 200 to 300 boxes by as much as from 100 to 200."""
    monkeypatch.setattr(boxes, "TILE_NUMBERS", 1)  # then the buffers do not grow
    counts = (100, 200, 300)
    first, second, third = (
        made(OPTIONS[name], batch=2, most=count, size=(64, 64)).numbers for count in counts
    )
    assert abs((third - second) - (second - first)) <= 0.02 * (second - first)


def test_the_largest_iou_is_one_operation_of_a_compiled_graph():
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(2, 7, 2, generator=generator) * 80
    left = torch.cat([low, low + torch.rand(2, 7, 2, generator=generator) * 60], -1)
    torch.library.opcheck(torch.ops.detectors.largest_iou, (left, left[:, :3]))
    compiled = torch.compile(boxes.largest_iou, fullgraph=True, dynamic=True, backend="aot_eager")
    for count in (3, 0, 5):
        assert_close(compiled(left, left[:, :count]), boxes.largest_iou(left, left[:, :count]))
