"""torchvision's classifiers as backbones, against torchvision's own feature extractor and names."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from detectors.models.traced_backbone import TracedBackbone, last_maps, traced_maps

# The blocks behind which detectors and segmenters of torchvision take maps of strides 8, 16 and 32.
SOURCES = {
    "resnet18": ["layer2", "layer3", "layer4"],
    "mobilenet_v3_small": ["features.4.block.0", "features.9.block.0", "features.12"],  # as its SSDlite
}


@pytest.mark.parametrize("name", SOURCES)
def test_maps_are_those_of_torchvisions_extractor(name):
    torch.manual_seed(0)
    classifier = models.get_model(name, weights=None)
    torch.manual_seed(0)
    backbone = TracedBackbone(name, (8, 16, 32)).eval()
    images = torch.randn(2, 3, 64, 96)
    expected = create_feature_extractor(classifier, SOURCES[name]).eval()(images)
    for x, other in zip(backbone(images), expected.values(), strict=True):
        assert_close(x, other, rtol=0, atol=0)
    shapes = [(2, c, 64 // s, 96 // s) for c, s in zip(backbone.channels, backbone.strides, strict=True)]
    assert [tuple(x.shape) for x in backbone(images)] == shapes


def test_parameters_keep_torchvisions_names_and_later_layers_are_gone():
    backbone = TracedBackbone("resnet18", (8, 16))
    names = backbone.body.state_dict().keys()
    known = models.resnet18(weights=None).state_dict().keys()
    assert names == {name for name in known if not name.startswith(("layer4", "fc"))}


def test_a_narrow_mobilenet():
    """width_mult of torchvision's own builder."""
    backbone = TracedBackbone("mobilenet_v2", (16, 32), 0.5)
    expected = models.mobilenet_v2(weights=None, width_mult=0.5).features.state_dict()
    shapes = {name.removeprefix("features."): x.shape for name, x in backbone.body.state_dict().items()}
    assert shapes == {name: x.shape for name, x in expected.items()}


def test_the_inside_of_a_residual_block_is_no_map():
    """A ResNet-50 has later operations of stride 16: the first convolution of layer4, with 512 channels."""
    traced = traced_maps("resnet50")
    assert (traced.names[16], traced.channels[16]) == ("layer3.5.relu_2", 1024)


def test_last_maps_of_a_made_up_network():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.wide, self.down, self.other = (nn.Conv2d(3, 3, 1, s) for s in (2, 1, 2, 2))

        def forward(self, x):
            x = self.stem(x)
            return self.down(self.wide(x)) + self.other(x)  # wide lies inside the block

    graph = torch.fx.Tracer().trace(Net())
    shapes = {node: torch.Size((1, 3, 128, 128)) for node in graph.nodes if node.op == "call_module"}
    shapes |= {n: torch.Size((1, 3, 64, 64)) for n in graph.nodes if n.name in ("down", "other", "add")}
    assert {stride: node.name for stride, node in last_maps(graph, shapes).items()} == {2: "stem", 4: "add"}


def test_stochastic_depth_follows_the_mode():
    """It drops residual branches in training only; the graph is one for both modes."""
    torch.manual_seed(0)
    backbone = TracedBackbone("efficientnet_b0", (8,), 1.0)
    images = torch.randn(1, 3, 32, 32)
    for part in backbone.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 0.0
    (first,), (second,) = backbone.eval()(images), backbone(images)
    assert_close(first, second, rtol=0, atol=0)
    p = [part for part in backbone.modules() if type(part).__name__ == "StochasticDepth"]
    assert p
    backbone.train()
    assert all(part.training for part in p)


def test_a_copy_is_a_network_of_its_own():
    backbone = TracedBackbone("mobilenet_v3_small", (16,), 0.25)
    twin = copy.deepcopy(backbone)
    before = next(backbone.parameters()).clone()
    with torch.no_grad():
        next(twin.parameters()).zero_()
    assert_close(next(backbone.parameters()), before)


@pytest.mark.parametrize(
    ("name", "width", "message"),
    [
        (
            "resnet19",
            1.0,
            "backbone=resnet19: neither this package nor torchvision has it; did you mean resnet1",
        ),
        ("resnet18", 0.5, "width=0.5: torchvision's resnet18 has one width; set model.width=1"),
        ("squeezenet1_0", 1.0, "backbone=squeezenet1_0: no feature map of stride 16"),
        ("vit_b_32", 1.0, "backbone=vit_b_32: torch.fx cannot trace it for images of any size"),
        ("googlenet", 1.0, "backbone=googlenet: its graph in training differs"),
    ],
)
def test_what_cannot_be_a_backbone_is_named(name, width, message):
    with pytest.raises(ValueError, match=message):
        TracedBackbone(name, (16, 32), width)
