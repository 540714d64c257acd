"""The shared target-encoding layer, and the cost of encoding and losses: operations, no synchronisation."""

from __future__ import annotations

from collections import Counter
from math import log

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from detectors.anchors import DefaultBoxes, YoloAnchors, ssd300_levels
from detectors.coders import SSDBoxCoder, YoloBoxCoder
from detectors.commands.benchmark.operation_count import WAITING
from detectors.losses.multibox_loss import MultiBoxLoss
from detectors.losses.region_loss import RegionLoss
from detectors.matching import MultiBoxMatcher, ResponsibleCellMatcher
from detectors.structures import HeadOutputs
from detectors.targets import TargetEncoder
from tests import oracles

# Views, and the host's own number in where(mask, x, 0).
FREE = {
    "scalar_tensor",
    "view",
    "_unsafe_view",
    "expand",
    "permute",
    "transpose",
    "t",
    "select",
    "slice",
    "unsqueeze",
    "squeeze",
    "detach",
    "alias",
    "split",
    "unbind",
    "as_strided",
}


class Counting(TorchDispatchMode):
    """Counts the operations that do work: all but those in FREE."""

    def __init__(self):
        super().__init__()
        self.operations: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name.startswith("index") and has_mask(args):
            name = "boolean_index"
        self.operations[name] += name not in FREE
        return function(*args, **(kwargs or {}))


def has_mask(args: tuple) -> bool:
    """Whether an index operation's second argument holds a mask: the host has to wait for its count."""
    indices = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ()
    return any(isinstance(i, torch.Tensor) and i.dtype in (torch.bool, torch.uint8) for i in indices)


def count(family: str, batch: int, most: int) -> Counter:
    """The operations of encoding, loss and backward pass; most: boxes in an image."""
    generator = torch.Generator().manual_seed(0)
    if family == "yolov2":
        grid = YoloAnchors([(1.0, 2.0), (3.0, 2.0), (5.0, 5.0)], 32)((416, 416))
        encoder = TargetEncoder(ResponsibleCellMatcher(), YoloBoxCoder())
        loss = RegionLoss()
        logits = 20
    else:
        grid = DefaultBoxes(ssd300_levels()[2:], (300, 300))((300, 300))
        encoder = TargetEncoder(MultiBoxMatcher(), SSDBoxCoder())
        loss = MultiBoxLoss()
        logits = 21
    targets = oracles.random_targets(generator, batch=batch, most=most, classes=20, size=grid.size)
    anchors = grid.num_anchors
    shapes = (batch, anchors, 4), (batch, anchors, logits), (batch, anchors)
    outputs = HeadOutputs(*(torch.randn(shape, generator=generator).requires_grad_() for shape in shapes))
    with Counting() as counting:
        sum(loss(outputs, encoder(targets, grid), grid).values()).backward()
    return counting.operations


LIMITS = {"yolov2": 210, "ssd": 165}  # a third of each works on (B, M) numbers only


@pytest.mark.usefixtures("as_on_gpu")
@pytest.mark.parametrize("family", LIMITS)
def test_operations_do_not_grow_with_the_batch(family):
    small = count(family, 2, 6)
    large = count(family, 16, 6)
    assert small == large
    assert not WAITING & set(small), "a host synchronisation in a training step"
    assert "boolean_index" not in small


@pytest.mark.usefixtures("as_on_gpu")
def test_only_the_bipartite_step_grows_with_boxes():
    assert count("yolov2", 2, 3).total() == count("yolov2", 2, 30).total() <= LIMITS["yolov2"]
    few = count("ssd", 2, 3).total()
    many = count("ssd", 2, 30).total()
    per_box = (many - few) / 27
    assert per_box <= 12
    assert few - 3 * per_box <= LIMITS["ssd"]


def test_encoding_by_hand():
    grid = YoloAnchors([(1.0, 1.0), (2.0, 2.0)], 32)((64, 64))
    targets = oracles.pad_targets([[[40.0, 8, 56, 24]], []])
    encoded = TargetEncoder(ResponsibleCellMatcher(), YoloBoxCoder())(targets, grid)
    assert encoded.matched[0].tolist() == [-1, -1, 0, -1, -1, -1, -1, -1]
    assert not encoded.positive[1].any()
    assert_close(encoded.offsets[0, 2], torch.tensor([0.5, 0.5, log(0.5), log(0.5)]))
    assert encoded.labels[0].tolist() == [-1, -1, 0, -1, -1, -1, -1, -1]


def test_statistics_of_a_perfect_prediction():
    grid = oracles.small_ssd_grid((96, 96))
    encoder = TargetEncoder(MultiBoxMatcher(), SSDBoxCoder())
    encoded = encoder(oracles.pad_targets([[[10.0, 10, 40, 40]], []]), grid)
    numbers = encoder.statistics(HeadOutputs(encoded.offsets, encoded.offsets), encoded, grid)
    assert_close(numbers["mean_matched_iou"].item(), 1.0, atol=1e-4, rtol=0)
    assert numbers["positives_per_image"].item() == encoded.positive.sum().item() / 2
