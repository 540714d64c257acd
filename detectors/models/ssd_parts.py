"""SSD's neck and head: the added levels behind the backbone, and a box and a class predictor on every map.

Layers carry Caffe's names (conv6_1 ... conv9_2).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from detectors.layers import L2Norm, init_caffe_xavier, scale_channels
from detectors.models.switches import PAPER, LayerSwitches
from detectors.structures import HeadOutputs, OutputLayer


class Extra(NamedTuple):
    """One added level: a 1x1 convolution to `squeeze` channels, then a larger one to `channels`."""

    squeeze: int
    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int = 0


class SSDExtras(nn.Module):
    """The added levels conv6_2, conv7_2, ..., and the L2Norm on VGG's conv4_3, whose values are larger than
    the others'.
    """

    def __init__(
        self,
        channels: Sequence[int],
        extras: Sequence[Extra],
        *,
        width: float = 1.0,
        batch_norm: bool = False,
        l2_norm: bool = True,
        switches: LayerSwitches = PAPER,
    ):
        """channels: of the backbone's maps: conv4_3 and fc7. width: multiplies every channel count of the
        added levels. batch_norm: see ConvReLU. l2_norm: of the first map.
        """
        super().__init__()
        self.conv4_3_norm = L2Norm(channels[0]) if l2_norm else nn.Identity()
        self.pyramid = switches.pyramid(channels[-1], partial(switches.caffe_block, batch_norm=batch_norm))
        self.levels = nn.ModuleList()
        widths = list(channels)
        for number, extra in enumerate(extras, 4 + len(channels)):
            squeeze = scale_channels(extra.squeeze, width)
            wide = scale_channels(extra.channels, width)
            level = nn.Sequential()
            level.add_module(
                f"conv{number}_1", switches.caffe_block(widths[-1], squeeze, 1, batch_norm=batch_norm)
            )
            level.add_module(
                f"conv{number}_2",
                switches.caffe_block(
                    squeeze,
                    wide,
                    extra.kernel,
                    stride=extra.stride,
                    padding=extra.padding,
                    batch_norm=batch_norm,
                ),
            )
            self.levels.append(level)
            widths.append(wide)
        self.channels = tuple(widths)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The backbone's maps -> every map that a head looks at, from fine to coarse"""
        conv4_3, *others = features
        x = self.pyramid(others[-1])
        maps = [self.conv4_3_norm(conv4_3), *others[:-1], x]
        for level in self.levels:
            x = level(x)
            maps.append(x)
        return maps


class MultiBoxHead(nn.Module):
    """Two 3x3 convolutions per map, for offsets (n = 4) and class logits (n = C + 1, background first).

    Channel = anchor * n + entry.
    """

    def __init__(
        self,
        channels: Sequence[int],
        per_location: Sequence[int],
        num_classes: int,
        switches: LayerSwitches = PAPER,
    ):
        super().__init__()
        self.dropout = switches.before_head()
        pairs = list(zip(channels, per_location, strict=True))
        self.columns = num_classes + 1
        self.offsets = nn.ModuleList(nn.Conv2d(wide, k * 4, 3, padding=1) for wide, k in pairs)
        self.class_logits = nn.ModuleList(
            nn.Conv2d(wide, k * self.columns, 3, padding=1) for wide, k in pairs
        )
        self.output_layers = tuple(
            OutputLayer(f"{name}.{level}", level, shared)
            for level in range(len(pairs))
            for name, shared in (("offsets", None), ("class_logits", 1))  # 1: the background
        )
        init_caffe_xavier(*self.offsets, *self.class_logits)

    def forward(self, features: Sequence[Tensor]) -> HeadOutputs:
        """A runs over (level, row, column, anchor)."""
        features = [self.dropout(x) for x in features]
        return HeadOutputs(
            _predict(self.offsets, features, 4), _predict(self.class_logits, features, self.columns)
        )


def _predict(convs: nn.ModuleList, features: Sequence[Tensor], entries: int) -> Tensor:
    """One convolution per map -> (B, A, entries) in float32."""
    maps = [
        conv(x).permute(0, 2, 3, 1) for conv, x in zip(convs, features, strict=True)
    ]  # (B, rows, columns, K * entries)
    return torch.cat([x.reshape(x.shape[0], -1, entries).float() for x in maps], 1)
