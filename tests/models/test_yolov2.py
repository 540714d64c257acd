"""YOLOv2 and Tiny-YOLOv2: the counts of Darknet's files, the order of channels and routes, and the
activations of recorded networks.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from detectors.anchors import YOLO_ANCHORS
from detectors.commands.verify.streams import darknet_images, darknet_parameters
from detectors.layers import ConvBNLeaky, darknet_reorg
from detectors.models.detector import Detector
from detectors.models.yolov2 import PassthroughNeck, RegionHead, yolov2, yolov2_tiny

TINY_COCO = {"num_classes": 80, "anchors": "coco", "last_channels": 512}


def darknet_floats(detector: Detector) -> int:
    """What Darknet stores: per batch norm channel four numbers (bias, scale, mean, variance), and a
    convolution before it has no bias.
    """
    statistics = [m for m in detector.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    return detector.parameter_count + sum(2 * m.num_features for m in statistics)


@pytest.mark.parametrize(
    ("build", "keywords", "floats"),
    [
        (yolov2, {"num_classes": 20}, 50_676_061),
        (yolov2, {"num_classes": 80, "anchors": "coco"}, 50_983_561),
        (yolov2_tiny, {"num_classes": 20}, 15_867_885),
        (yolov2_tiny, TINY_COCO, 11_237_145),
    ],
)
def test_darknet_stores_as_many_floats(build, keywords, floats):
    with torch.device("meta"):
        assert darknet_floats(build(**keywords)) == floats


@pytest.mark.parametrize(
    ("build", "keywords", "side", "gflops"),
    [
        (yolov2, {"num_classes": 20}, 416, 29.4),
        (yolov2, {"num_classes": 20}, 544, 50.2),
        (yolov2, {"num_classes": 80, "anchors": "coco"}, 608, 62.9),
        (yolov2_tiny, {"num_classes": 20}, 416, 6.97),
    ],
)
def test_flops(build, keywords, side, gflops):
    """2 per multiply-add; Darknet prints the same ("BFLOPs")."""
    with torch.device("meta"):
        assert_close(build(**keywords).flops((side, side)) / 1e9, gflops, rtol=2e-3, atol=0)


def test_network_of_2016_has_no_convolution_before_the_fold():
    with torch.device("meta"):
        neck = yolov2(num_classes=20, passthrough_channels=None).neck
    assert neck.fuse.conv.in_channels == 3072
    assert isinstance(neck.passthrough, torch.nn.Identity)


@pytest.mark.parametrize("passthrough_channels", [64, None])
def test_folded_map_comes_before_the_deep_one(passthrough_channels):
    """The cfg's route -1,-4: the reorg layer first."""
    neck = PassthroughNeck((16, 32), width=0.125, passthrough_channels=passthrough_channels).eval()
    fused = []
    neck.fuse.register_forward_hook(lambda module, given, output: fused.append(given[0]))
    fine, deep = torch.randn(2, 16, 8, 6), torch.randn(2, 32, 4, 3)
    neck((fine, deep))
    assert_close(fused[0], torch.cat([darknet_reorg(neck.passthrough(fine)), neck.deep(deep)], 1))


def test_channels_of_the_head_are_anchor_by_anchor():
    """Channel anchor * (5 + C) + (x, y, w, h, objectness, classes); rows of the output run over row, column,
    anchor.
    """
    anchors, classes, rows, columns = 3, 4, 2, 5
    head = RegionHead(8, anchors, classes)
    feature = torch.randn(2, 8, rows, columns).to(memory_format=torch.channels_last)
    raw, outputs = head.conv(feature), head((feature,))
    for r in range(rows):
        for c in range(columns):
            for k in range(anchors):
                a = (r * columns + c) * anchors + k
                entries = raw[:, k * 9 : k * 9 + 9, r, c]
                assert_close(outputs.offsets[:, a], torch.cat([entries[:, :2].sigmoid(), entries[:, 2:4]], 1))
                assert_close(outputs.objectness[:, a], entries[:, 4])
                assert_close(outputs.class_logits[:, a], entries[:, 5:])
    assert outputs.offsets.shape == (2, rows * columns * anchors, 4)


@pytest.mark.parametrize(
    "build", [yolov2, yolov2_tiny, lambda **k: yolov2_tiny(**k, stride=16, last_channels=256)]
)
def test_outputs_fit_the_grid(build):
    detector = build(num_classes=3, width=0.125, anchors=[[1.0, 2.0], [3.0, 1.5]])
    outputs = detector(torch.zeros(2, 3, 64, 96, dtype=torch.uint8))
    count = detector.grid((64, 96)).num_anchors
    assert outputs.offsets.shape == (2, count, 4)
    assert outputs.class_logits.shape == (2, count, 3)
    assert outputs.objectness.shape == (2, count)
    assert count == 2 * 64 * 96 // detector.anchors.stride**2


def test_named_anchors_and_listed_anchors_are_the_same():
    named, listed = (
        yolov2_tiny(num_classes=1, width=0.125, anchors=a).grid((64, 64))
        for a in ("coco", YOLO_ANCHORS["coco"])
    )
    assert_close(named.boxes_cxcywh, listed.boxes_cxcywh)


def test_scores_follow_the_class_activation():
    """Darknet's softmax=0 changes the loss and the scores together."""
    keywords = {"num_classes": 2, "width": 0.125}
    softmax, logistic = (
        yolov2_tiny(**keywords),
        yolov2_tiny(**keywords, class_activation="logistic"),
    )
    outputs = softmax(torch.randint(0, 256, (2, 3, 64, 64)))
    objectness = outputs.objectness.sigmoid()[..., None]
    assert_close(softmax.postprocess.score_rule(outputs), objectness * outputs.class_logits.softmax(-1))
    assert_close(logistic.postprocess.score_rule(outputs), objectness * outputs.class_logits.sigmoid())


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"num_classes": 0}, "num_classes=0"),
        ({"num_classes": 1, "anchors": "VOC"}, "anchors='VOC'.*tiny_voc"),
    ],
)
@pytest.mark.parametrize("build", [yolov2, yolov2_tiny])
def test_wrong_settings_are_named(build, keywords, message):
    with pytest.raises(ValueError, match=message):
        build(**keywords, width=0.125)


@pytest.mark.parametrize(("build", "size"), [(yolov2, (100, 64)), (yolov2_tiny, (64, 80))])
def test_a_size_that_the_stride_does_not_divide_is_refused(build, size):
    with pytest.raises(ValueError, match="multiples of its stride 32"):
        build(num_classes=1, width=0.125)(torch.zeros(1, 3, *size))


@pytest.mark.data
@pytest.mark.parametrize(
    ("build", "keywords", "name", "layer"),
    [
        (yolov2_tiny, {"num_classes": 20}, "yolov2-tiny-voc", 14),
        pytest.param(yolov2, {"num_classes": 20}, "yolov2-voc", 30, marks=pytest.mark.slow),
    ],
)
def test_raw_outputs_equal_darknets(build, keywords, name, layer, shared):
    """The original cfgs at 416 px with the recording's random parameters, batch norm as on a GPU."""
    recorded, about = (
        np.load(shared / "oracles/darknet/full.npz"),
        json.loads((shared / "oracles/darknet/full.json").read_text())[name],
    )
    detector = build(**keywords).eval()
    fill(detector, torch.from_numpy(darknet_parameters(about["convs"], about["weight_seed"])))
    image = torch.from_numpy(darknet_images(about["input_seed"], 1, 3, 416, 416))
    with torch.no_grad():
        raw = detector.head.conv(detector.neck(detector.backbone(image))[0])
    index = torch.from_numpy(recorded[f"{name}/layer{layer}_index"]).long()
    assert_close(
        raw.flatten()[index], torch.from_numpy(recorded[f"{name}/gpu/layer{layer}_value"]), atol=3e-5, rtol=0
    )


def fill(detector: Detector, values: torch.Tensor) -> None:
    """Darknet's order: per convolution bias, scale, mean, variance, weights."""
    blocks = [m for m in detector.modules() if isinstance(m, ConvBNLeaky)]
    tensors = [
        t
        for m in blocks
        for t in (m.norm.bias, m.norm.weight, m.norm.running_mean, m.norm.running_var, m.conv.weight)
    ]
    tensors += [detector.head.conv.bias, detector.head.conv.weight]
    with torch.no_grad():
        for tensor, part in zip(tensors, values.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view(tensor.shape))
