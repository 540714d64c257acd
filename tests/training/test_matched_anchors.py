"""Matched anchors of both detectors, by hand and compared with the naive matcher of tests/oracles.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch.testing import assert_close

from detectors.commands.browse.matches_table import matches_table
from detectors.data.dataset import Sample
from detectors.data.loading import collate
from detectors.models.ssd import ssd160
from detectors.models.yolov2 import yolov2_tiny
from detectors.structures import ImageInfo
from detectors.training.matched_anchors import matched_anchors
from tests import oracles


def sample(boxes: list[list[float]], size: tuple[int, int]) -> Sample:
    """A black image of `size` (height, width) with boxes of class 0."""
    image = torch.zeros(*size, 3, dtype=torch.uint8)
    labels = torch.zeros(len(boxes), dtype=torch.int64)
    return Sample(image, torch.tensor(boxes).reshape(-1, 4), labels, ImageInfo(0, "a", "a.jpg", size))


@pytest.fixture(scope="module")
def yolo():
    """Cells of 32 pixels, anchors of 32 x 32 and 64 x 64 pixels."""
    return yolov2_tiny(num_classes=2, width=0.125, anchors=[[1, 1], [2, 2]], last_channels=32).eval()


@pytest.fixture(scope="module")
def ssd():
    return ssd160(num_classes=2, width=0.125).eval()


# the first two have one centre and one anchor: the later one gets it
TWO_IN_A_CELL = [[4.0, 4, 28, 28], [8, 8, 24, 24], [8, 0, 64, 62]]


def test_two_boxes_in_one_cell_by_hand(yolo):
    matches = matched_anchors(yolo, sample(TWO_IN_A_CELL, (64, 64)))
    assert_array_equal(matches.box_rows, [1, 2])
    assert_array_equal(matches.anchors, [[0, 0, 32, 32], [16, -16, 80, 48]])  # centred in their cells
    assert_array_equal(matches.counts, [0, 1, 1])
    assert_allclose(matches.best_iou, [0, 256 / 1024, 48 * 48 / (56 * 62 + 64 * 64 - 48 * 48)], rtol=1e-6)
    assert_allclose(matches.sides, [24, 16, np.sqrt(56 * 62)], rtol=1e-6)


def test_the_table_by_hand(yolo):
    lines = matches_table([matched_anchors(yolo, sample(boxes, (64, 64))) for boxes in (TWO_IN_A_CELL, [])])
    assert [line.split() for line in lines[1:-1]] == [
        ["16", "to", "32", "px", "2", "0.50", "0.12", "1"],
        ["32", "to", "64", "px", "1", "1.00", "0.44", "0"],
        ["all", "3", "0.67", "0.23", "1"],
    ]
    assert len({len(line) for line in lines[:-1]}) == 1
    assert lines[-1].startswith("(2 samples;")


def test_ssd_equals_the_naive_matcher(ssd):
    boxes = [[20.0, 30, 90, 110], [60, 60, 64, 65], [100, 20, 150, 60], [98, 22, 149, 58]]
    one = sample(boxes, (160, 160))
    grid = ssd.grid((160, 160))
    expected = oracles.multibox_match(collate([one]).targets, grid, 0)  # anchor -> row of its box
    assert set(expected.values()) == {0, 1, 2, 3}
    matches = matched_anchors(ssd, one)
    assert_array_equal(matches.box_rows, [expected[anchor] for anchor in sorted(expected)])
    assert_array_equal(matches.anchors, grid.boxes[sorted(expected)])
    assert_array_equal(matches.counts, [list(expected.values()).count(row) for row in range(4)])
    best_iou = np.zeros(4)
    for anchor, row in expected.items():
        best_iou[row] = max(best_iou[row], oracles.iou(boxes[row], grid.boxes[anchor].tolist()))
    assert_allclose(matches.best_iou, best_iou, rtol=1e-5)


@pytest.mark.parametrize("name", ["yolo", "ssd"])
def test_equals_the_matching_of_a_whole_batch(name, request):
    """An image has the same anchors alone and in a batch, where its boxes are padded."""
    detector = request.getfixturevalue(name)
    size = {"yolo": (96, 64), "ssd": (160, 160)}[name]
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(7, 2, generator=generator) * torch.tensor(size[::-1]) * 0.6
    boxes = torch.cat([corner, corner + 5 + 40 * torch.rand(7, 2, generator=generator)], 1)
    samples = [sample(some.tolist(), size) for some in (boxes[:1], boxes[1:1], boxes[1:])]
    batch = collate(samples)
    encoded = detector.encoder(batch.targets, detector.grid(size), None)
    for one, matched in zip(samples, encoded.matched, strict=True):
        matches = matched_anchors(detector, one)
        assert_array_equal(matches.box_rows, matched[matched >= 0])
        assert_array_equal(matches.anchors, detector.grid(size).boxes[matched >= 0])


def test_the_detector_does_not_change():
    """Not even with a matcher that needs predictions, for which the network runs."""
    detector = yolov2_tiny(num_classes=2, width=0.125, anchors=[[1, 1], [2, 2]], last_channels=32).eval()
    detector.encoder.matcher.needs_predictions = True
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    matches = matched_anchors(detector, sample(TWO_IN_A_CELL, (64, 64)))
    assert matches.counts.sum() == 2
    assert_close(detector.state_dict(), before, rtol=0, atol=0)
    assert detector.loss.images_seen == 0
    assert all(parameter.grad is None for parameter in detector.parameters())
