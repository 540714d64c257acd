"""Box coders against hand-computed numbers and torchvision's BoxCoder. Round trips are in test_laws.py."""

from __future__ import annotations

from math import log

import pytest
import torch
from torch.testing import assert_close
from torchvision.models.detection._utils import BoxCoder as TorchvisionCoder

from detectors.anchors import DefaultBoxes, YoloAnchors, ssd300_levels
from detectors.boxes import cxcywh_to_xyxy
from detectors.coders import SSDBoxCoder, YoloBoxCoder


def test_yolo_offsets_by_hand():
    grid = YoloAnchors([(2.0, 1.0)], 32)((64, 64))
    boxes = torch.tensor([40.0, 10, 60, 30]).expand(4, 4)  # centre (50, 20), size 20 x 20
    offsets = YoloBoxCoder().encode(boxes, grid)
    assert_close(offsets[1], torch.tensor([50 / 32 - 1, 20 / 32, log(20 / 64), log(20 / 32)]))


def test_ssd_coder_equals_torchvision():
    generator = torch.Generator().manual_seed(0)
    grid = DefaultBoxes(ssd300_levels(), (300, 300))((300, 300))
    low = torch.rand(grid.num_anchors, 2, generator=generator) * 200
    boxes = torch.cat([low, low + 5 + 90 * torch.rand(grid.num_anchors, 2, generator=generator)], 1)
    torchvision_coder = TorchvisionCoder(weights=(10.0, 10.0, 5.0, 5.0))
    anchors = cxcywh_to_xyxy(grid.boxes_cxcywh)
    expected = torchvision_coder.encode_single(boxes, anchors)
    assert_close(SSDBoxCoder().encode(boxes, grid), expected, atol=1e-4, rtol=1e-4)
    offsets = torch.randn(grid.num_anchors, 4, generator=generator)
    expected = torchvision_coder.decode_single(offsets, anchors)
    assert_close(SSDBoxCoder().decode(offsets, grid), expected, atol=1e-2, rtol=1e-4)


def test_bad_variances_are_refused():
    with pytest.raises(ValueError, match="variances"):
        SSDBoxCoder((0.1, 0.2))
