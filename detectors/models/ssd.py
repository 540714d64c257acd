"""SSD300 and SSD512 (Liu et al., "SSD: Single Shot MultiBox Detector"; Caffe, branch ssd, 4817bf8), and a
small sibling for 160 px.

Layers carry Caffe's names. Parameters of the originals: SSD300 26,285,486 with 21 outputs, SSD512 27,188,676.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import nn

from detectors.anchors import (
    DefaultBoxes,
    DefaultBoxLevel,
    default_box_sizes,
    ssd300_levels,
    ssd512_levels,
)
from detectors.coders import SSDBoxCoder
from detectors.losses.multibox_loss import MultiBoxLoss
from detectors.matching import MultiBoxMatcher
from detectors.models.backbones import Backbone, build_backbone, own_parts
from detectors.models.detector import Detector
from detectors.models.ssd_parts import Extra, MultiBoxHead, SSDExtras
from detectors.models.switches import LayerSwitches
from detectors.models.vgg import ReducedVGG
from detectors.postprocess import PostProcess, ssd_scores
from detectors.structures import Loss, builder
from detectors.targets import TargetEncoder

REDUCED_VGG = "reduced_vgg16"  # the paper's backbone
SSD_STRIDES = (8, 16, 32)  # of another backbone's maps; the last one is in place of the first added level

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


def fitted_levels(
    levels: Sequence[DefaultBoxLevel], backbone: Backbone, neck: SSDExtras, side: int
) -> list[DefaultBoxLevel]:
    """The same default boxes for the maps that another backbone has for an image of `side` pixels.

    Backbones round odd sides up or down: 300 px have 38 or 37 rows of stride 8. Where the rows are others,
    the stride is the backbone's, or on an added level the part of the side that a row has.
    """
    twin = copy.deepcopy(nn.Sequential(backbone, neck)).to("meta").eval()  # computes shapes only
    with torch.no_grad():
        maps = twin(torch.empty(1, 3, side, side, device="meta"))
    fitted = []
    for number, (level, x) in enumerate(zip(levels, maps, strict=True)):
        rows, columns = x.shape[2:]
        own = backbone.strides[number] if number < len(backbone.strides) else side / rows
        stride = level.stride if rows == level.rows else own
        fitted.append(replace(level, rows=rows, columns=columns, stride=stride))
    return fitted


def ssd(
    variant: str,
    *,
    num_classes: int,
    loss: Loss | None = None,
    backbone: str = REDUCED_VGG,
    width: float = 1.0,
    layers: Mapping[str, Any] | None = None,
    sizes: str | Sequence[float] = "voc",
    batch_norm: bool = False,
    clip_default_boxes: str | None = None,
    bipartite: str = "greedy",
    pixel_mean: Sequence[float] | None = None,
    pixel_std: Sequence[float] | None = None,
    channel_order: str = "rgb",
    score_threshold: float = 0.01,
    nms_iou: float = 0.45,
    nms: str = "hard",
    candidates_per_class: int | None = 400,
    max_detections: int | None = 200,
) -> Detector:
    """The SSD in one row of VARIANTS.

    num_classes: without background. loss: MultiBoxLoss() by default.
    backbone: "reduced_vgg16" is the paper's. The maps of strides 8, 16 and 32 of another one, see
        build_backbone, are the first three levels; then there is one added level fewer, and no L2Norm.
    width: multiplies every channel count but the heads'.
    layers: changes of layers for ablations, see LayerSwitches.
    sizes: of the default boxes: "voc", "coco", or a list of pixels, one more than there are levels, see
        default_box_sizes (`detectors cluster` proposes one).
    batch_norm: for training without pretrained weights; not in the paper.
    clip_default_boxes: None as in Caffe; "wh" and "cxcywh" as in ports, see DefaultBoxes.
    bipartite: "greedy" as in Caffe, "last" as in ports, see MultiBoxMatcher.
    pixel_mean, pixel_std, channel_order: what the weights expect, see Detector; ports of SSD differ in them.
        None: what the backbone expects.
    score_threshold, nms_iou, nms, candidates_per_class, max_detections: see PostProcess.
    """
    if num_classes < 1:
        raise ValueError(
            f"num_classes={num_classes}: a detector needs at least one class (background does not count)"
        )
    side, levels_of, extras, vgg = VARIANTS[variant]
    levels = levels_of(sizes)
    switches = LayerSwitches.of(layers)
    if backbone == REDUCED_VGG:
        features: Backbone = ReducedVGG(**vgg, width=width, batch_norm=batch_norm, switches=switches)
        neck = SSDExtras(features.channels, extras, width=width, batch_norm=batch_norm, switches=switches)
    else:
        if switches.dilation is not None:
            raise ValueError(
                f"layers.dilation={switches.dilation}: it is fc6's, which backbone={backbone} does not have; "
                f"set it to null, or backbone={REDUCED_VGG}"
            )
        features = build_backbone(backbone, strides=SSD_STRIDES, width=width, switches=switches)
        neck = SSDExtras(
            features.channels,
            extras[1:],
            width=width,
            batch_norm=batch_norm,
            switches=switches,
            l2_norm=False,
        )
        levels = fitted_levels(levels, features, neck, side)
    anchors = DefaultBoxes(levels, (side, side), clip=clip_default_boxes)
    head = MultiBoxHead(neck.channels, anchors.per_location, num_classes, switches)
    switches.initialize(*own_parts(features), neck, head)
    coder = SSDBoxCoder()
    return Detector(
        backbone=features,
        neck=neck,
        head=head,
        anchors=anchors,
        encoder=TargetEncoder(MultiBoxMatcher(bipartite=bipartite), coder),
        loss=loss or MultiBoxLoss(),
        postprocess=PostProcess(
            coder=coder,
            score_rule=ssd_scores,
            score_threshold=score_threshold,
            nms_iou=nms_iou,
            nms=nms,
            candidates_per_class=candidates_per_class,
            max_detections=max_detections,
        ),
        pixel_mean=features.pixel_mean if pixel_mean is None else pixel_mean,
        pixel_std=features.pixel_std if pixel_std is None else pixel_std,
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
