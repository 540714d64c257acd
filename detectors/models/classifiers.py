"""Classifiers beside Darknet-19: the course's first network, VGG-16, any backbone of a detector, and any
classifier of torchvision.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

import torchvision
from torch import nn

from detectors.layers import init_caffe_xavier
from detectors.losses.cross_entropy import CrossEntropyLoss
from detectors.models.backbones import build_backbone
from detectors.models.classifier import Classifier, check_classes
from detectors.models.pixels import (
    CAFFE_STD,
    DARKNET_MEAN,
    DARKNET_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    PIXEL_MEAN,
)
from detectors.models.vgg import ReducedVGG
from detectors.structures import builder


@builder("model")
def first_network(*, num_classes: int, loss: CrossEntropyLoss | None = None, side: int = 28) -> Classifier:
    """The course's first network, for grey digits.

    A 3x3 convolution to 32 channels, 1x1 to 10, and to the classes one as large as what is left, 26 x 26.
    Weights as Keras draws them (Glorot uniform), biases 0. side: pixels of the square input.
    """
    check_classes(num_classes)
    if side < 3:
        raise ValueError(f"side={side}: the first convolution needs 3 pixels")
    convs = [nn.Conv2d(1, 32, 3), nn.Conv2d(32, 10, 1), nn.Conv2d(10, num_classes, side - 2)]
    for conv in convs:
        nn.init.xavier_uniform_(conv.weight)
        assert conv.bias is not None
        nn.init.zeros_(conv.bias)
    return Classifier(
        backbone=nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU()),
        head=convs[2],
        loss=loss,
        pixel_mean=DARKNET_MEAN,
        pixel_std=DARKNET_STD,
        grey=True,
    )


@builder("model")
def vgg16_classifier(
    *,
    num_classes: int,
    loss: CrossEntropyLoss | None = None,
    width: float = 1.0,
    batch_norm: bool = False,
    dropout: float = 0.5,
    pixel_mean: Sequence[float] = PIXEL_MEAN,
    pixel_std: Sequence[float] = CAFFE_STD,
) -> Classifier:
    """The reduced VGG-16 below SSD as a classifier: fc6 and fc7 are convolutions, and so is fc8.

    width, batch_norm: see ReducedVGG. dropout: before fc8. pixel_mean, pixel_std: as SSD has them.
    """
    check_classes(num_classes)
    backbone = ReducedVGG(width=width, batch_norm=batch_norm)
    fc8 = nn.Conv2d(backbone.channels[-1], num_classes, 1)
    init_caffe_xavier(fc8)
    return Classifier(
        backbone=backbone,
        head=nn.Sequential(nn.Dropout(dropout), fc8) if dropout else fc8,
        loss=loss,
        pixel_mean=pixel_mean,
        pixel_std=pixel_std,
    )


@builder("model")
def backbone_classifier(
    *,
    num_classes: int,
    loss: CrossEntropyLoss | None = None,
    backbone: str = "resnet18",
    stride: int = 32,
    width: float = 1.0,
    dropout: float = 0.0,
) -> Classifier:
    """A detector's backbone as a classifier: its last map, a 1x1 convolution to the classes, their average.

    backbone, width: see build_backbone; a detector with the same backbone takes these weights, because they
    have the same names. stride: of the last map; of
    reduced_vgg16 it is 16. dropout: before the convolution. Pixels are those of the backbone.
    """
    check_classes(num_classes)
    strides = (8, 16) if backbone == "reduced_vgg16" else (stride,)
    maps = build_backbone(backbone, strides=strides, width=width)
    conv = nn.Conv2d(maps.channels[-1], num_classes, 1)
    return Classifier(
        backbone=maps,
        head=nn.Sequential(nn.Dropout(dropout), conv) if dropout else conv,
        loss=loss,
        pixel_mean=maps.pixel_mean,
        pixel_std=maps.pixel_std,
    )


@builder("model")
def torchvision_classifier(
    *,
    num_classes: int,
    loss: CrossEntropyLoss | None = None,
    network: str,
    pixel_mean: Sequence[float] = IMAGENET_MEAN,
    pixel_std: Sequence[float] = IMAGENET_STD,
) -> Classifier:
    """Any classifier of torchvision by its name, such as resnet18, with random weights.

    pixel_mean, pixel_std: those of torchvision's ImageNet weights. ValueError for a name that torchvision
    does not have, or a network with further outputs in training.
    """
    check_classes(num_classes)
    names = torchvision.models.list_models(module=torchvision.models)
    if network not in names:
        near = get_close_matches(network, names) or ["resnet18", "mobilenet_v3_small"]
        raise ValueError(
            f"network={network!r}: torchvision has no such classifier; it has {', '.join(near)}, ..."
        )
    if network in ("googlenet", "inception_v3"):
        raise ValueError(f"network={network!r}: it has further outputs in training; choose another, resnet18")
    return Classifier(
        backbone=torchvision.models.get_model(network, weights=None, num_classes=num_classes),
        head=nn.Identity(),
        loss=loss,
        pixel_mean=pixel_mean,
        pixel_std=pixel_std,
    )
