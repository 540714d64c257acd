"""SSD300 and SSD512 (Liu et al., "SSD: Single Shot MultiBox Detector"; Caffe, branch ssd, 4817bf8), and a
small sibling for 160 px.

Layers carry Caffe's names. Parameters of the originals: SSD300 26,285,486 with 21 outputs, SSD512 27,188,676.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from detectors.anchors import (
    DefaultBoxes,
    DefaultBoxLevel,
    default_box_sizes,
    ssd300_levels,
    ssd512_levels,
)
from detectors.coders import SSDBoxCoder
from detectors.layers import ConvReLU, L2Norm, init_caffe_xavier, scale_channels
from detectors.losses.multibox_loss import MultiBoxLoss
from detectors.matching import MultiBoxMatcher
from detectors.models.detector import Detector
from detectors.models.vgg import ReducedVGG
from detectors.postprocess import PostProcess, ssd_scores
from detectors.structures import HeadOutputs, Loss, builder
from detectors.targets import TargetEncoder

PIXEL_MEAN = (123.0, 117.0, 104.0)  # RGB; Caffe's VGG-16 was trained on pixels minus this, undivided


class Extra(NamedTuple):
    """One added level: a 1x1 convolution to `squeeze` channels, then a larger one to `channels`."""

    squeeze: int
    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int = 0


HALVING = Extra(128, 256, stride=2, padding=1)


def ssd160_levels(sizes: str | Sequence[float] = "voc") -> list[DefaultBoxLevel]:
    """20x20, 10x10, 5x5 and 3x3 cells. The smallest box is 10 % of the side (COCO: 7 %), as in SSD300."""
    presets = {"voc": (16, 32, 64, 104, 150), "coco": (11, 24, 56, 100, 150)}
    a, b, c, d, e = default_box_sizes(sizes, presets)
    return [
        DefaultBoxLevel(20, 20, 8, a, b, (2.0,)),
        DefaultBoxLevel(10, 10, 16, b, c, (2.0, 3.0)),
        DefaultBoxLevel(5, 5, 32, c, d, (2.0, 3.0)),
        DefaultBoxLevel(3, 3, 160 / 3, d, e, (2.0,)),
    ]


class Variant(NamedTuple):
    """What distinguishes one SSD from another."""

    side: int  # pixels of the square input
    levels: Callable[[str | Sequence[float]], list[DefaultBoxLevel]]  # sizes -> default boxes of each level
    extras: tuple[Extra, ...]  # levels added behind the backbone
    backbone: Mapping[str, Any] = {}  # keywords of ReducedVGG; none: VGG-16


VARIANTS = {
    "ssd300": Variant(
        300,
        ssd300_levels,
        (Extra(256, 512, stride=2, padding=1), HALVING, Extra(128, 256), Extra(128, 256)),
    ),
    "ssd512": Variant(
        512,
        ssd512_levels,
        (
            Extra(256, 512, stride=2, padding=1),
            HALVING,
            HALVING,
            HALVING,
            Extra(128, 256, kernel=4, padding=1),
        ),
    ),
    # One convolution a stage, half of VGG-16's channels or fewer: a quarter in the first stages, which cost
    # most.
    "ssd160": Variant(
        160,
        ssd160_levels,
        (HALVING, HALVING),
        {
            "convs": (1, 1, 1, 1, 1),
            "channels": (32, 32, 64, 256, 256),
            "fc_channels": 512,
            "fc_dilation": 3,
        },
    ),
}


class SSDExtras(nn.Module):
    """The added levels conv6_2, conv7_2, ..., and the L2Norm on conv4_3, whose values are larger than the
    others'.
    """

    def __init__(
        self,
        channels: Sequence[int],
        extras: Sequence[Extra],
        *,
        width: float = 1.0,
        batch_norm: bool = False,
    ):
        """channels: of the backbone's conv4_3 and fc7. width: multiplies every channel count.
        batch_norm: see ConvReLU."""
        super().__init__()
        self.conv4_3_norm = L2Norm(channels[0])
        self.levels = nn.ModuleList()
        widths = list(channels)
        for number, extra in enumerate(extras, 6):
            squeeze = scale_channels(extra.squeeze, width)
            wide = scale_channels(extra.channels, width)
            level = nn.Sequential()
            level.add_module(f"conv{number}_1", ConvReLU(widths[-1], squeeze, 1, batch_norm=batch_norm))
            level.add_module(
                f"conv{number}_2",
                ConvReLU(
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

    def forward(self, features: tuple[Tensor, Tensor]) -> list[Tensor]:
        """conv4_3 and fc7 -> every map that a head looks at, from fine to coarse"""
        conv4_3, x = features
        maps = [self.conv4_3_norm(conv4_3), x]
        for level in self.levels:
            x = level(x)
            maps.append(x)
        return maps


class MultiBoxHead(nn.Module):
    """Two 3x3 convolutions per map, for offsets (n = 4) and class logits (n = C + 1, background first).

    Channel = anchor * n + entry.
    """

    def __init__(self, channels: Sequence[int], per_location: Sequence[int], num_classes: int):
        super().__init__()
        pairs = list(zip(channels, per_location, strict=True))
        self.columns = num_classes + 1
        self.offsets = nn.ModuleList(nn.Conv2d(wide, k * 4, 3, padding=1) for wide, k in pairs)
        self.class_logits = nn.ModuleList(
            nn.Conv2d(wide, k * self.columns, 3, padding=1) for wide, k in pairs
        )
        init_caffe_xavier(*self.offsets, *self.class_logits)

    def forward(self, features: Sequence[Tensor]) -> HeadOutputs:
        """A runs over (level, row, column, anchor)."""
        return HeadOutputs(
            _predict(self.offsets, features, 4), _predict(self.class_logits, features, self.columns)
        )


def _predict(convs: nn.ModuleList, features: Sequence[Tensor], entries: int) -> Tensor:
    """One convolution per map -> (B, A, entries) in float32."""
    maps = [
        conv(x).permute(0, 2, 3, 1) for conv, x in zip(convs, features, strict=True)
    ]  # (B, rows, columns, K * entries)
    return torch.cat([x.reshape(len(x), -1, entries).float() for x in maps], 1)


def ssd(
    variant: str,
    *,
    num_classes: int,
    loss: Loss | None = None,
    width: float = 1.0,
    sizes: str | Sequence[float] = "voc",
    batch_norm: bool = False,
    clip_default_boxes: str | None = None,
    bipartite: str = "greedy",
    pixel_mean: Sequence[float] = PIXEL_MEAN,
    pixel_std: Sequence[float] = (1.0, 1.0, 1.0),
    channel_order: str = "rgb",
    score_threshold: float = 0.01,
    nms_iou: float = 0.45,
    candidates_per_class: int | None = 400,
    max_detections: int | None = 200,
) -> Detector:
    """The SSD in one row of VARIANTS.

    num_classes: without background. loss: MultiBoxLoss() by default.
    width: multiplies every channel count but the heads'.
    sizes: of the default boxes: "voc", "coco", or a list of pixels, one more than there are levels, see
        default_box_sizes (`detectors cluster` proposes one).
    batch_norm: for training without pretrained weights; not in the paper.
    clip_default_boxes: None as in Caffe; "wh" and "cxcywh" as in ports, see DefaultBoxes.
    bipartite: "greedy" as in Caffe, "last" as in ports, see MultiBoxMatcher.
    pixel_mean, pixel_std, channel_order: what the weights expect, see Detector; ports of SSD differ in them.
    score_threshold, nms_iou, candidates_per_class, max_detections: see PostProcess.
    """
    if num_classes < 1:
        raise ValueError(
            f"num_classes={num_classes}: a detector needs at least one class (background does not count)"
        )
    side, levels, extras, vgg = VARIANTS[variant]
    anchors = DefaultBoxes(levels(sizes), (side, side), clip=clip_default_boxes)
    backbone = ReducedVGG(**vgg, width=width, batch_norm=batch_norm)
    neck = SSDExtras(backbone.channels, extras, width=width, batch_norm=batch_norm)
    coder = SSDBoxCoder()
    return Detector(
        backbone=backbone,
        neck=neck,
        head=MultiBoxHead(neck.channels, anchors.per_location, num_classes),
        anchors=anchors,
        encoder=TargetEncoder(MultiBoxMatcher(bipartite=bipartite), coder),
        loss=loss or MultiBoxLoss(),
        postprocess=PostProcess(
            coder=coder,
            score_rule=ssd_scores,
            score_threshold=score_threshold,
            nms_iou=nms_iou,
            candidates_per_class=candidates_per_class,
            max_detections=max_detections,
        ),
        pixel_mean=pixel_mean,
        pixel_std=pixel_std,
        channel_order=channel_order,
    )


@builder("model", ssd)
def ssd300(**settings: Any) -> Detector:
    """SSD300: 300 px, 8,732 default boxes. The keywords are those of `ssd`.

    >>> import torch
    >>> from detectors import ssd300
    >>> detector = ssd300(num_classes=20, width=0.25).eval()
    >>> outputs = detector(torch.zeros(1, 3, 300, 300))
    >>> tuple(outputs.offsets.shape), tuple(outputs.class_logits.shape)
    ((1, 8732, 4), (1, 8732, 21))
    """
    return ssd("ssd300", **settings)


@builder("model", ssd)
def ssd512(**settings: Any) -> Detector:
    """SSD512: 512 px, 24,564 default boxes, one level more than SSD300. The keywords are those of `ssd`.

    >>> from detectors import ssd512
    >>> ssd512(num_classes=20, width=0.125).grid((512, 512)).num_anchors
    24564
    """
    return ssd("ssd512", **settings)


@builder("model", ssd)
def ssd160(**settings: Any) -> Detector:
    """SSD's design for 160 px, in no paper: one convolution a stage, two extra levels, 2,386 default boxes.

    For laptops and tests, where SSD300 is too slow to train. The keywords are those of `ssd`.

    >>> from detectors import ssd160
    >>> ssd160(num_classes=3, width=0.25).grid((160, 160)).num_anchors
    2386
    """
    return ssd("ssd160", **settings)
