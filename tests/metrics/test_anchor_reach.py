"""What anchors could reach, against loops over every box and anchor."""

from __future__ import annotations

import numpy as np
import torch
from numpy.testing import assert_allclose
from torchvision.ops import box_iou

from detectors.anchors import YOLO_ANCHORS, YoloAnchors
from detectors.metrics.anchor_reach import anchor_reach, reach_share


def boxes_of(seed: int, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 100
    return torch.cat([corner, corner + 5 + torch.rand(count, 2, generator=generator) * 50], 1)


def test_the_nearest_anchor_and_the_best_shape_in_the_cell():
    grid = YoloAnchors(YOLO_ANCHORS["voc"])((160, 160))
    counts = np.array([3, 0, 7])
    boxes = boxes_of(0, 10)
    reach = anchor_reach(boxes, counts, grid, by_cell=True)
    assert_allclose(reach.near, box_iou(boxes, grid.boxes).amax(1).numpy(), rtol=1e-5)
    image = np.repeat(np.arange(3), counts)
    taken, expected = {}, np.zeros(10)
    for n, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        w, h = x1 - x0, y1 - y0
        ious = []
        for a, b in YOLO_ANCHORS["voc"]:
            inter = min(w, 32 * a) * min(h, 32 * b)
            ious.append(inter / (w * h + 32 * a * 32 * b - inter))
        best = int(np.argmax(ious))
        place = (image[n], int((x0 + x1) / 64), int((y0 + y1) / 64), best)
        if place in taken:
            expected[taken[place]] = 0
        taken[place] = n
        expected[n] = ious[best]
    assert_allclose(reach.cell, expected, rtol=1e-5)


def test_a_later_box_takes_the_anchor():
    grid = YoloAnchors([(1.0, 1.0)])((64, 64))
    boxes = torch.tensor([[0.0, 0, 32, 32], [0, 0, 32, 32]])
    assert_allclose(anchor_reach(boxes, np.array([2]), grid, by_cell=True).cell, [0, 1])
    assert_allclose(anchor_reach(boxes, np.array([1, 1]), grid, by_cell=True).cell, [1, 1])
    assert anchor_reach(boxes, np.array([2]), grid, by_cell=False).cell is None


def test_shares():
    assert reach_share(np.array([0.5, 0.4, 0.9, 0.0])) == (4, 0.5, 0.45)
    assert np.isnan(reach_share(np.zeros(0)).recall)
    grid = YoloAnchors([(1.0, 1.0)])((64, 64))
    empty = anchor_reach(torch.zeros(0, 4), np.array([0]), grid, by_cell=True)
    assert (len(empty.near), len(empty.cell)) == (0, 0)
