"""The records: moving, packing, slicing."""

from __future__ import annotations

import numpy as np
import torch
from torch.testing import assert_close

from detectors.structures import Annotations, Batch, Detections, ImageInfo, Targets


def test_a_batch_moves_with_its_targets():
    targets = Targets(torch.zeros(1, 2, 4), torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 2, dtype=torch.bool))
    moved = Batch(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), targets, [ImageInfo(0, "a", "a.jpg", (8, 8))]).to("meta")
    assert moved.images.device.type == moved.targets.boxes.device.type == "meta"
    assert moved.infos[0].image_id == "a"


def test_detections_concatenate_and_split():
    one = Detections(torch.tensor([0, 1]), torch.rand(2, 4), torch.rand(2), torch.tensor([3, 4]))
    both = Detections.concatenate([one, Detections(one.image + 2, one.boxes, one.scores, one.labels)])
    assert both.image.tolist() == [0, 1, 2, 3]
    assert_close(both.of_image(3).boxes, one.boxes[1:])


def test_annotations_know_the_image_of_each_box():
    flags = np.zeros(3, bool)
    annotations = Annotations(
        class_names=("cat",),
        image_ids=("a", "b", "c"),
        paths=("a.jpg", "b.jpg", "c.jpg"),
        sizes=np.full((3, 2), 10),
        offsets=np.array([0, 2, 2, 3]),
        boxes_original=np.zeros((3, 4)),
        labels=np.zeros(3, np.int64),
        difficult=flags,
        crowd=flags,
        areas=np.zeros(3),
        category_ids=(1,),
    )
    assert len(annotations) == 3
    assert annotations.image.tolist() == [0, 0, 2]
    assert annotations.rows(2) == slice(2, 3)


def test_annotations_without_images():
    nothing = Annotations.without_images(("cat", "dog"))
    assert (len(nothing), len(nothing.labels), nothing.class_names, nothing.category_ids) == (0, 0, ("cat", "dog"), (1, 2))
    assert nothing.image.shape == nothing.labels.shape == (0,)
