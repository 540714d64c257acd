"""The names of SSD's parameters in several programs, each mapped to Caffe's (conv4_3, fc7, conv6_2_mbox_loc).

`levels` is the number of feature maps with a head: 6 in SSD300, 7 in SSD512.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from detectors.models.vgg import VGG16_CONVS

FC6 = "fc6"
FC7 = "fc7"


def _layer_index() -> dict[str, int]:
    """Caffe's layer -> its index in a list of VGG-16's convolutions, ReLUs and pools, then fc6, ReLU, fc7."""
    indices = {}
    index = 0
    for stage, count in enumerate(VGG16_CONVS, 1):
        for n in range(1, count + 1):
            indices[f"conv{stage}_{n}"] = index
            index += 2  # with its ReLU
        index += 1  # the pool
    return {**indices, FC6: index, FC7: index + 2}


LAYER_INDEX = _layer_index()


def torchvision(levels: int) -> dict[str, str]:
    """torchvision's name -> Caffe's, in the order of ssd300_vgg16's state dict.

    torchvision splits VGG-16 at pool4 and pool5.
    """
    layers = {}
    for layer, index in LAYER_INDEX.items():
        if layer in (FC6, FC7):
            layers[f"backbone.extra.0.7.{index - LAYER_INDEX[FC6] + 1}"] = layer
        elif layer.startswith("conv5"):
            layers[f"backbone.extra.0.{index - LAYER_INDEX['conv5_1'] + 1}"] = layer
        else:
            layers[f"backbone.features.{index}"] = layer
    for number, half in _extras(levels):
        layers[f"backbone.extra.{number - 5}.{2 * half}"] = f"conv{number}_{half + 1}"
    layers |= _heads("head.classification_head.module_list", "conf", levels)
    layers |= _heads("head.regression_head.module_list", "loc", levels)
    return {"backbone.scale_weight": "conv4_3_norm.scale", **_parameters(layers)}


def ssd_pytorch(levels: int) -> dict[str, str]:
    """Name in amdegroot's ssd.pytorch -> Caffe's."""
    backbone = {f"vgg.{index}": layer for layer, index in LAYER_INDEX.items()}
    extras = {
        f"extras.{2 * (number - 6) + half}": f"conv{number}_{half + 1}" for number, half in _extras(levels)
    }
    heads = _heads("loc", "loc", levels) | _heads("conf", "conf", levels)
    return {**_parameters(backbone), "L2Norm.weight": "conv4_3_norm.scale", **_parameters(extras | heads)}


def vgg16() -> dict[str, str]:
    """Name in torchvision's classifier vgg16 -> Caffe's. fc6, fc7 and fc8 (ImageNet's classes) are linear."""
    convs = {f"features.{index}": layer for layer, index in LAYER_INDEX.items() if layer.startswith("conv")}
    return _parameters(convs | {"classifier.0": FC6, "classifier.3": FC7, "classifier.6": "fc8"})


def vgg16_reduced() -> dict[str, str]:
    """Name in vgg16_reducedfc.pth, the pretrained backbone of ssd.pytorch -> Caffe's."""
    return _parameters({str(index): layer for layer, index in LAYER_INDEX.items()})


def ours(name: str) -> str | None:
    """Our name -> Caffe's; None for parameters that Caffe's models do not have (batch norm)."""
    if name == "neck.conv4_3_norm.scale":
        return "conv4_3_norm.scale"
    head = re.fullmatch(r"head\.(offsets|class_logits)\.(\d+)\.(weight|bias)", name)
    if head:
        kind, level, part = head.groups()
        return f"{_source(int(level))}_mbox_{'loc' if kind == 'offsets' else 'conf'}.{part}"
    layer = re.fullmatch(
        r"(?:backbone|neck)\.(?:stages\.\w+\.|levels\.\d+\.)?(conv\d+_\d|fc\d)\.conv\.(weight|bias)", name
    )
    return f"{layer[1]}.{layer[2]}" if layer else None


def _parameters(layers: Mapping[str, str]) -> dict[str, str]:
    """Names of layers -> names of their weights and biases."""
    return {
        f"{name}.{part}": f"{layer}.{part}" for name, layer in layers.items() for part in ("weight", "bias")
    }


def _extras(levels: int) -> list[tuple[int, int]]:
    """(6, 0), (6, 1), (7, 0), ... for the convolutions conv6_1, conv6_2, conv7_1, ... after fc7."""
    return [(number, half) for number in range(6, levels + 4) for half in (0, 1)]


def _heads(prefix: str, kind: str, levels: int) -> dict[str, str]:
    """prefix: of the name, before the number of the level. kind: loc or conf."""
    return {f"{prefix}.{level}": f"{_source(level)}_mbox_{kind}" for level in range(levels)}


def _source(level: int) -> str:
    """The feature map of a level's heads."""
    return ("conv4_3_norm", FC7)[level] if level < 2 else f"conv{level + 4}_2"
