"""The reduced VGG-16: names, shapes, the rounding of pool3, and the dilated fc6."""

from __future__ import annotations

import pytest
import torch

from detectors.models.vgg import ReducedVGG

# Caffe's names and parameters (weight and bias).
PARAMETERS = {
    "conv1_1": 1792,
    "conv1_2": 36928,
    "conv2_1": 73856,
    "conv2_2": 147584,
    "conv3_1": 295168,
    "conv3_2": 590080,
    "conv3_3": 590080,
    "conv4_1": 1180160,
    **dict.fromkeys(("conv4_2", "conv4_3", "conv5_1", "conv5_2", "conv5_3"), 2359808),
    "fc6": 4719616,
    "fc7": 1049600,
}


def test_layers_are_caffes():
    with torch.device("meta"):
        backbone = ReducedVGG()
    counts: dict[str, int] = {}
    for name, parameter in backbone.named_parameters():
        layer = name.split(".")[-3]
        counts[layer] = counts.get(layer, 0) + parameter.numel()
    assert counts == PARAMETERS
    assert list(counts) == list(PARAMETERS)


@pytest.mark.parametrize(("side", "fine", "deep"), [(300, 38, 19), (512, 64, 32), (160, 20, 10)])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_feature_sizes(side, fine, deep, batch_norm):
    """300 px: pool3 rounds 75 up to 38."""
    with torch.device("meta"):
        backbone = ReducedVGG(width=0.125, batch_norm=batch_norm)
        features = backbone(torch.empty(2, 3, side, side))
    assert [tuple(f.shape) for f in features] == [
        (2, backbone.channels[0], fine, fine),
        (2, backbone.channels[1], deep, deep),
    ]
    assert backbone.channels == (64, 128)


def test_fc6_sees_six_cells_away():
    """A change in one cell of pool5 reaches fc6 at distance 0 and 6, and nowhere else."""
    backbone = ReducedVGG(width=0.125)
    x = torch.zeros(1, backbone.fc6.conv.in_channels, 19, 19)
    x[0, :, 9, 9] = 1
    reached = (backbone.fc6.conv(x) != 0).any(1)[0].nonzero().tolist()
    assert reached == [[r, c] for r in (3, 9, 15) for c in (3, 9, 15)]


def test_conv4_is_returned_before_its_pool_and_after_its_relu():
    backbone = ReducedVGG(convs=(1, 1, 1, 2, 1), width=0.125)
    seen = []
    backbone.stages["stage4"].conv4_2.register_forward_hook(lambda module, given, output: seen.append(output))
    conv4, _ = backbone(torch.randn(1, 3, 64, 64))
    assert conv4 is seen[0]
    assert conv4.min() == 0
