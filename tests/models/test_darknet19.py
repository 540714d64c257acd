"""The two Darknet backbones: shapes, what they publish, and the order of their layers."""

from __future__ import annotations

import pytest
import torch

from detectors.layers import ConvBNLeaky
from detectors.models.darknet19 import Darknet19, TinyDarknet


def convolutions(backbone: torch.nn.Module) -> list[tuple[int, int]]:
    """Output channels and kernel of each convolution in the order of registration."""
    return [
        (m.conv.out_channels, m.conv.kernel_size[0]) for m in backbone.modules() if isinstance(m, ConvBNLeaky)
    ]


def test_darknet19_is_the_table_of_the_paper():
    """YOLO9000, table 6, without the last 1x1 convolution."""
    with torch.device("meta"):
        found = convolutions(Darknet19())
    table = (
        "32/3 64/3 128/3 64/1 128/3 256/3 128/1 256/3 512/3 "
        "256/1 512/3 256/1 512/3 1024/3 512/1 1024/3 512/1 1024/3"
    )
    assert found == [tuple(int(n) for n in entry.split("/")) for entry in table.split()]


def test_tiny_is_the_cfg():
    with torch.device("meta"):
        assert convolutions(TinyDarknet()) == [(n, 3) for n in (16, 32, 64, 128, 256, 512, 1024)]


@pytest.mark.parametrize("make", [Darknet19, TinyDarknet, lambda width: TinyDarknet(width, stride=16)])
@pytest.mark.parametrize("size", [(96, 64), (32, 160)])
def test_features_have_the_published_channels_and_strides(make, size):
    backbone = make(width=0.125).eval()
    features = backbone(torch.randn(2, 3, *size))
    expected = [
        (2, c, size[0] // s, size[1] // s) for c, s in zip(backbone.channels, backbone.strides, strict=True)
    ]
    assert [tuple(f.shape) for f in features] == expected


def test_fine_features_of_darknet19_lie_before_the_last_pool():
    """Darknet's route -9: the activation that the last pool reads, not the pooled one."""
    backbone = Darknet19(0.125).eval()
    seen = []
    backbone.pool.register_forward_hook(lambda module, given, output: seen.append(given[0]))
    fine, _ = backbone(torch.randn(1, 3, 64, 64))
    assert fine is seen[-1]
    assert len(seen) == 5


def test_tiny_refuses_another_stride():
    with pytest.raises(ValueError, match="stride=8"):
        TinyDarknet(stride=8)
