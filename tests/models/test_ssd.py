"""SSD: the counts of Caffe's models, shapes.

Equality with torchvision: tests/training/initial/test_ssd_ports.py; recorded outputs: tests/commands/verify.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from detectors.models.ssd import ssd160, ssd160_levels, ssd300, ssd512
from detectors.models.ssd_parts import MultiBoxHead


@pytest.mark.parametrize(
    ("build", "classes", "parameters"),
    [
        (ssd300, 20, 26_285_486),
        (ssd300, 80, 34_305_206),
        (ssd300, 90, 35_641_826),
        (ssd512, 20, 27_188_676),
        (ssd512, 80, 36_038_196),
    ],
)
def test_parameter_counts_are_caffes(build, classes, parameters):
    with torch.device("meta"):
        assert build(num_classes=classes).parameter_count == parameters


@pytest.mark.parametrize(
    ("build", "classes", "side", "gflops"),
    [(ssd300, 20, 300, 62.7), (ssd300, 80, 300, 68.7), (ssd300, 90, 300, 69.716), (ssd512, 20, 512, 180.4)],
)
def test_flops(build, classes, side, gflops):
    """2 per multiply-add; torchvision's table has 34.858 billion multiply-adds for its 91 outputs."""
    with torch.device("meta"):
        assert_close(build(num_classes=classes).flops((side, side)) / 1e9, gflops, rtol=1e-3, atol=0)


def test_channels_of_the_head_are_anchor_by_anchor():
    """Channel anchor * n + entry; A runs over level, row, column, anchor."""
    head = MultiBoxHead((8, 16), (2, 3), num_classes=4)
    features = [torch.randn(2, 8, 2, 3).to(memory_format=torch.channels_last), torch.randn(2, 16, 1, 2)]
    outputs, a = head(features), 0
    for level, (feature, anchors) in enumerate(zip(features, (2, 3), strict=True)):
        offsets, logits = head.offsets[level](feature), head.class_logits[level](feature)
        for r in range(feature.shape[2]):
            for c in range(feature.shape[3]):
                for k in range(anchors):
                    assert_close(outputs.offsets[:, a], offsets[:, k * 4 : k * 4 + 4, r, c])
                    assert_close(outputs.class_logits[:, a], logits[:, k * 5 : k * 5 + 5, r, c])
                    a += 1
    assert outputs.offsets.shape == (2, a, 4)
    assert outputs.objectness is None


@pytest.mark.parametrize(
    ("build", "side", "boxes"), [(ssd160, 160, 2386), (ssd300, 300, 8732), (ssd512, 512, 24564)]
)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_outputs_fit_the_grid(build, side, boxes, batch_norm):
    detector = build(num_classes=3, width=0.125, batch_norm=batch_norm)
    outputs = detector(torch.zeros(1 + batch_norm, 3, side, side, dtype=torch.uint8))
    assert outputs.offsets.shape[1:] == (boxes, 4)
    assert outputs.class_logits.shape[1:] == (boxes, 4)
    assert detector.grid((side, side)).num_anchors == boxes
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in detector.modules()) == batch_norm


def test_only_conv4_3_is_normalised():
    neck = ssd160(num_classes=1, width=0.125).neck
    conv4_3, fc7 = torch.rand(1, neck.channels[0], 20, 20), torch.rand(1, neck.channels[1], 10, 10)
    maps = neck((conv4_3, fc7))
    assert_close(maps[0].norm(dim=1), torch.full((1, 20, 20), 20.0))
    assert maps[1] is fc7


def test_default_boxes_of_ssd160_span_the_image():
    """The centres of the coarsest level lie inside, which a stride of 64 would not give (3 * 64 > 160)."""
    for sizes in ("voc", "coco"):
        levels = ssd160_levels(sizes)
        assert all(level.stride * level.rows == pytest.approx(160) for level in levels)
        assert all(low.max_size == high.min_size for low, high in pairwise(levels))


def test_pixels_are_vggs():
    detector = ssd300(num_classes=1, width=0.125)
    assert detector.pixel_mean.flatten().tolist() == [123, 117, 104]
    assert detector.pixel_std.flatten().tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"num_classes": 0}, "num_classes=0"),
        ({"num_classes": 1, "sizes": "pascal"}, "sizes='pascal'"),
        ({"num_classes": 1, "width": -1}, "width=-1"),
    ],
)
@pytest.mark.parametrize("build", [ssd160, ssd300, ssd512])
def test_wrong_settings_are_named(build, keywords, message):
    with pytest.raises(ValueError, match=message):
        build(**{"width": 0.125, **keywords})


@pytest.mark.parametrize("build", [ssd160, ssd300])
def test_another_size_is_refused(build):
    with pytest.raises(ValueError, match=r"input size \(320, 320\)"):
        build(num_classes=1, width=0.125)(torch.zeros(1, 3, 320, 320))
