"""Classifiers: the originals' sizes, names that detectors share, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from detectors.models.classifiers import (
    backbone_classifier,
    first_network,
    torchvision_classifier,
    vgg16_classifier,
)
from detectors.models.darknet19 import darknet19
from detectors.models.ssd import ssd300
from detectors.models.yolov2 import yolov2


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_of_the_originals():
    """The course's: 320 + 330 + 67,610. darknet19.cfg's file has 20,856,776 floats."""
    with torch.device("meta"):
        network, darknet = first_network(num_classes=10), darknet19()
    assert count(network) == 320 + 330 + 67_610
    running = sum(buffer.numel() for name, buffer in darknet.named_buffers() if "running" in name)
    assert count(darknet) + running == 20_856_776


@pytest.mark.parametrize(
    ("classifier", "detector"),
    [
        (lambda: darknet19(num_classes=3), lambda: yolov2(num_classes=2)),
        (
            lambda: backbone_classifier(num_classes=3, backbone="darknet19"),
            lambda: yolov2(num_classes=2),
        ),
        (lambda: vgg16_classifier(num_classes=3), lambda: ssd300(num_classes=2)),
        (
            lambda: backbone_classifier(num_classes=3, backbone="reduced_vgg16"),
            lambda: ssd300(num_classes=2),
        ),
        (
            lambda: backbone_classifier(num_classes=3, backbone="resnet18"),
            lambda: yolov2(num_classes=2, backbone="resnet18"),
        ),
    ],
)
def test_a_detector_has_the_backbone_of_a_classifier(classifier, detector):
    """Names and sizes, so that init.from loads all of it."""
    with torch.device("meta"):
        backbones = [
            {
                name: tensor.shape
                for name, tensor in made().state_dict().items()
                if name.startswith("backbone.")
            }
            for made in (classifier, detector)
        ]
    assert backbones[0] == backbones[1]


def test_the_first_network_by_hand():
    """The mean of the channels from 0 to 1 through plain functions."""
    torch.manual_seed(0)
    network = first_network(num_classes=10)
    images = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8).expand(-1, 3, -1, -1)
    state = network.state_dict()
    x = images[:, :1] / 255
    for name in ("backbone.0", "backbone.2"):
        x = torch.nn.functional.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"]).relu()
    expected = torch.einsum("bchw,kchw->bk", x, state["head.weight"]) + state["head.bias"]
    assert_close(network(images), expected, rtol=1e-4, atol=1e-5)


def test_darknet19_averages_the_classes_of_places():
    network = darknet19(num_classes=5, width=0.05).eval()
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        last = network.backbone(images / 255)[-1]
        rows = torch.einsum("bchw,kc->bkhw", last, network.head.weight[:, :, 0, 0])
        expected = rows.mean((2, 3)) + network.head.bias
        assert_close(network(images), expected, rtol=1e-4, atol=1e-5)


def test_what_is_refused():
    with pytest.raises(ValueError, match="torchvision has no such classifier; it has resnet18"):
        torchvision_classifier(num_classes=2, network="resnet19")
    with pytest.raises(ValueError, match="inception_v3.*further outputs"):
        torchvision_classifier(num_classes=2, network="inception_v3")
    with pytest.raises(ValueError, match="num_classes=0"):
        first_network(num_classes=0)
    with pytest.raises(ValueError, match=r"a classifier takes \(B, 3, H, W\)"):
        first_network(num_classes=2)(torch.zeros(1, 28, 28))
