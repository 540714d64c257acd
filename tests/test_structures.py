"""The records: moving, packing, slicing."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.testing import assert_close

from detectors.anchors import YoloAnchors
from detectors.coders import YoloBoxCoder
from detectors.structures import (
    BACKGROUND,
    IGNORED,
    Batch,
    Detections,
    EncodedTargets,
    ImageInfo,
    Targets,
)


def test_a_batch_moves_with_its_targets():
    targets = Targets(
        torch.zeros(1, 2, 4), torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 2, dtype=torch.bool)
    )
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    moved = Batch(images, targets, [ImageInfo(0, "a", "a.jpg", (8, 8))]).to("meta")
    assert moved.images.device.type == moved.targets.boxes.device.type == "meta"
    assert moved.infos[0].image_id == "a"


def test_detections_concatenate_and_split():
    one = Detections(torch.tensor([0, 1]), torch.rand(2, 4), torch.rand(2), torch.tensor([3, 4]))
    both = Detections.concatenate([one, Detections(one.image + 2, one.boxes, one.scores, one.labels)])
    assert both.image.tolist() == [0, 1, 2, 3]
    assert_close(both.of_image(3).boxes, one.boxes[1:])


def test_the_corners_of_a_grid_follow_its_boxes():
    """Moved, and with other boxes."""
    grid = YoloAnchors([(1.0, 2.0)], 32)((32, 64))
    corners = [[0.0, -16, 32, 48], [32, -16, 64, 48]]
    assert grid.boxes.tolist() == grid.to("cpu").boxes.tolist() == corners
    assert grid.to("meta").boxes.device.type == "meta"
    assert replace(grid, boxes_cxcywh=grid.boxes_cxcywh[:1]).boxes.tolist() == corners[:1]


def test_an_anchor_without_a_box_has_itself_as_its_target():
    grid = YoloAnchors([(1.0, 1.0)], 32)((32, 64))
    targets = Targets(torch.tensor([[[4.0, 4, 20, 20]]]), torch.tensor([[2]]), torch.tensor([[True]]))
    encoded = EncodedTargets(torch.tensor([[0, IGNORED]]), torch.tensor([[0]]), targets, grid, YoloBoxCoder())
    assert encoded.boxes.tolist() == [[[4, 4, 20, 20], [32, 0, 64, 32]]]
    assert encoded.labels.tolist() == [[2, -1]]
    assert encoded.positive.tolist() == [[True, False]]
    assert_close(encoded.offsets[0, 1], torch.tensor([0.5, 0.5, 0, 0]))
    none = Targets(targets.boxes[:, :0], targets.labels[:, :0], targets.valid[:, :0])
    empty = EncodedTargets(torch.tensor([[BACKGROUND, IGNORED]]), none.labels, none, grid, YoloBoxCoder())
    assert empty.boxes.tolist() == [grid.boxes.tolist()]
    assert empty.labels.tolist() == [[-1, -1]]
