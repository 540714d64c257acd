"""Layers that neither paper has, for ablations: `model.layers`. Without them, networks are the papers'.

docs/switches.md says where each one acts and where it comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from math import gcd
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors.layers import ConvBNLeaky, ConvReLU, DarknetMaxPool, init_caffe_xavier, init_darknet

SWITCHED_ACTIVATIONS = {
    "leaky": lambda: nn.LeakyReLU(0.1, inplace=True),
    "relu": lambda: nn.ReLU(inplace=True),
    "prelu": nn.PReLU,  # one learned slope a layer, from 0.25
    "elu": nn.ELU,
    "selu": nn.SELU,
    "mish": nn.Mish,
}
BlockMaker = Callable[[int, int, int], nn.Module]  # (channels, out_channels, kernel) -> a convolution block
NORMALIZATIONS = ("batch", "group", "none")
INITIALIZATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "xavier": nn.init.xavier_uniform_,
    "he": nn.init.kaiming_normal_,
}
NORM_GROUPS = 32  # of group normalisation, or fewer if the channels have no such divisor
SMALLEST_MEAN = 1e-30  # below it, Lp pooling has the gradient 0: its own is infinite at 0


@dataclass(frozen=True)
class LayerSwitches:
    """None: as in the paper.

    activation: a key of SWITCHED_ACTIVATIONS. normalization: batch, group or none. Both: in all blocks.
    separable: convolutions larger than 1x1 on more than 3 channels are a depthwise one and a 1x1 one.
    pooling_power: p of Lp pooling, (mean |x|^p)^(1/p), in place of max pooling.
    dilation: YOLOv2: of the neck's 3x3 convolutions; SSD: of fc6 (the paper has 6).
    spp: sides of the max pools of a spatial pyramid on the backbone's last map, odd, such as [5, 9, 13].
    dropout, spatial_dropout: probability that a number, or a whole channel, is 0 before the head.
    initialization: xavier or he, of all convolutions but those of torchvision's and timm's backbones.
    """

    activation: str | None = None
    normalization: str | None = None
    separable: bool = False
    pooling_power: float | None = None
    dilation: int | None = None
    spp: Sequence[int] = ()
    dropout: float = 0.0
    spatial_dropout: float = 0.0
    initialization: str | None = None

    def __post_init__(self):
        """ValueError for what cannot be, alone or together."""
        for name, known in (
            ("activation", tuple(SWITCHED_ACTIVATIONS)),
            ("normalization", NORMALIZATIONS),
            ("initialization", tuple(INITIALIZATIONS)),
        ):
            if getattr(self, name) not in (None, *known):
                raise ValueError(f"layers.{name}={getattr(self, name)!r}: choose {', '.join(known)}, or null")
        if not isinstance(self.separable, bool):
            raise ValueError(f"layers.separable={self.separable!r}: must be true or false")
        if self.pooling_power is not None and not _number(self.pooling_power, 1, 8):
            raise ValueError(f"layers.pooling_power={self.pooling_power!r}: must be from 1 to 8, or null")
        if self.dilation is not None and not (type(self.dilation) is int and self.dilation >= 1):
            raise ValueError(
                f"layers.dilation={self.dilation!r}: must be a whole number of 1 or more, or null"
            )
        sides = self.spp if isinstance(self.spp, list | tuple) else [self.spp]
        if any(type(side) is not int or side < 3 or side % 2 == 0 for side in sides):
            raise ValueError(
                f"layers.spp={self.spp!r}: must be a list of odd sides from 3, such as [5, 9, 13]"
            )
        for name in ("dropout", "spatial_dropout"):
            if not _number(getattr(self, name), 0, 0.99):
                raise ValueError(f"layers.{name}={getattr(self, name)!r}: must be from 0 to 0.99")
        if self.dropout and self.spatial_dropout:
            raise ValueError("layers.dropout and layers.spatial_dropout: choose one, and set the other to 0")
        if self.activation == "selu" and self.dropout:
            raise ValueError(
                "layers.dropout: a SELU's values must keep their mean and variance, which dropout changes; "
                "set layers.dropout=0, or another layers.activation"
            )

    @staticmethod
    def of(settings: Mapping[str, Any] | None) -> LayerSwitches:
        """From `model.layers`. ValueError for an unknown name."""
        known = {field.name for field in fields(LayerSwitches)}
        if unknown := [name for name in settings or {} if name not in known]:
            raise ValueError(f"layers.{unknown[0]}: no such switch; there are {', '.join(sorted(known))}")
        return LayerSwitches(**(settings or {}))

    @property
    def plain_blocks(self) -> bool:
        return not (self.activation or self.normalization or self.separable)

    def darknet_block(
        self, channels: int, out_channels: int, kernel: int, *, neck: bool = False
    ) -> nn.Module:
        """Darknet's [convolutional]. neck: `dilation` acts here."""
        dilation = (self.dilation or 1) if neck and kernel > 1 else 1
        if self.plain_blocks and dilation == 1:
            return ConvBNLeaky(channels, out_channels, kernel)
        padding = dilation * (kernel // 2)
        block = ConvBlock(
            channels, out_channels, kernel, self, "leaky", "batch", padding=padding, dilation=dilation
        )
        init_darknet(*(part for part in block.modules() if isinstance(part, nn.Conv2d)))
        return block

    def caffe_block(
        self, channels: int, out_channels: int, kernel: int, *, batch_norm: bool = False, **geometry: int
    ) -> nn.Module:
        """VGG's and SSD's convolution and ReLU. geometry: stride, padding, dilation."""
        if self.plain_blocks:
            return ConvReLU(channels, out_channels, kernel, batch_norm=batch_norm, **geometry)
        usual = "batch" if batch_norm else "none"
        block = ConvBlock(channels, out_channels, kernel, self, "relu", usual, **geometry)
        init_caffe_xavier(*(part for part in block.modules() if isinstance(part, nn.Conv2d)))
        return block

    def darknet_pool(self, stride: int) -> nn.Module:
        """Darknet's [maxpool] of size 2."""
        if self.pooling_power is None:
            return DarknetMaxPool(stride=stride)
        return LpPool(self.pooling_power, 2, stride, right=stride == 1)

    def pyramid(self, channels: int, block: BlockMaker) -> nn.Module:
        return SpatialPyramid(channels, self.spp, block) if self.spp else nn.Identity()

    def before_head(self) -> nn.Module:
        if self.spatial_dropout:
            return nn.Dropout2d(self.spatial_dropout)
        return nn.Dropout(self.dropout) if self.dropout else nn.Identity()

    def initialize(self, *parts: nn.Module) -> None:
        """Draws the weights of all convolutions anew, if a rule is chosen. Biases stay 0."""
        if self.initialization is None:
            return
        for conv in (m for part in parts for m in part.modules() if isinstance(m, nn.Conv2d)):
            INITIALIZATIONS[self.initialization](conv.weight)


def _number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


PAPER = LayerSwitches()


class ConvBlock(nn.Module):
    """Convolution, normalisation, activation, as `switches` say, else as usual in the family."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        kernel: int,
        switches: LayerSwitches,
        usual_activation: str,
        usual_normalization: str,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
    ):
        super().__init__()
        kind = switches.normalization or usual_normalization
        bias = kind == "none"
        separable = switches.separable and kernel > 1 and channels > 3
        first = nn.Conv2d(
            channels,
            channels if separable else out_channels,
            kernel,
            stride,
            padding,
            dilation,
            groups=channels if separable else 1,
            bias=bias and not separable,
        )
        self.conv = (
            nn.Sequential(first, nn.Conv2d(channels, out_channels, 1, bias=bias)) if separable else first
        )
        self.norm = _normalization(kind, out_channels, darknet=usual_activation == "leaky")
        self.activation = SWITCHED_ACTIVATIONS[switches.activation or usual_activation]()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H', W')"""
        return self.activation(self.norm(self.conv(x)))


def _normalization(kind: str, channels: int, *, darknet: bool) -> nn.Module:
    """darknet: running statistics change by 1 % a step, as in ConvBNLeaky; else by 10 %."""
    if kind == "batch":
        return nn.BatchNorm2d(channels, momentum=0.01 if darknet else 0.1)
    return nn.GroupNorm(gcd(NORM_GROUPS, channels), channels) if kind == "group" else nn.Identity()


class LpPool(nn.Module):
    """(mean of |x|^p over a window)^(1/p): p = 1 is the mean of |x|; large p approach the maximum."""

    def __init__(self, power: float, size: int, stride: int, *, padding: int = 0, right: bool = False):
        """padding: on all sides. right: one row and column more at the bottom and the right, as with a stride
        of 1 in Darknet; odd sides get these, too, as Caffe and Darknet round up. Padding does not count in
        the mean.
        """
        super().__init__()
        self.power = power
        self.size = size
        self.stride = stride
        self.padding = padding
        self.right = right

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H', W')"""
        extra = [int(self.right or (self.stride == 2 and side % 2)) for side in (x.shape[-1], x.shape[-2])]
        before = self.padding
        margins = (before, before + extra[0], before, before + extra[1])
        powered = F.pad(x.float().abs() ** self.power, margins)
        share = F.pad(torch.ones_like(x[:1, :1], dtype=torch.float32), margins)
        mean = F.avg_pool2d(powered, self.size, self.stride) / F.avg_pool2d(share, self.size, self.stride)
        return (mean.clamp(min=SMALLEST_MEAN) ** (1 / self.power)).to(x.dtype)


class SpatialPyramid(nn.Module):
    """Max pools of several sides with stride 1 beside their input, then a 1x1 convolution.

    He et al., arXiv 1406.4729, in the form of YOLOv3-SPP.
    """

    def __init__(self, channels: int, sides: Sequence[int], block: BlockMaker):
        super().__init__()
        self.sides = tuple(sides)
        self.fuse = block(channels * (1 + len(self.sides)), channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)"""
        pools = [F.max_pool2d(x, side, 1, side // 2) for side in self.sides]
        return self.fuse(torch.cat([*pools, x], 1))
