"""torch.export of every builder: the exported program runs and gives the same head outputs."""

from __future__ import annotations

import io

import pytest
import torch
from torch.testing import assert_close

from detectors.models.ssd import ssd160, ssd300, ssd512
from detectors.models.yolov2 import yolov2, yolov2_tiny
from detectors.structures import HeadOutputs

BUILDERS = {yolov2: 64, yolov2_tiny: 64, ssd160: 160, ssd300: 300, ssd512: 512}


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_an_exported_detector_gives_the_same_outputs(build):
    torch.manual_seed(0)
    size = BUILDERS[build]
    detector = build(num_classes=3, width=0.05).eval()
    images = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)
    file = io.BytesIO()
    torch.export.save(torch.export.export(detector, (images,)), file)
    file.seek(0)
    outputs = torch.export.load(file).module()(images)
    expected = detector(images)
    assert isinstance(outputs, HeadOutputs)
    assert_close(outputs.offsets, expected.offsets)
    assert_close(outputs.class_logits, expected.class_logits)
    assert (outputs.objectness is None) == (expected.objectness is None)
