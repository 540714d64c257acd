"""The records: moving, packing, slicing."""

from __future__ import annotations

import torch
from torch.testing import assert_close

from detectors.structures import Batch, Detections, ImageInfo, Targets


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
