"""How programs name the parameters of SSD. Caffe's names (conv4_3, fc7, conv6_2_mbox_loc) are the common language: all rules lead there.

`levels` is the number of maps that a head looks at: 6 in SSD300, 7 in SSD512.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

VGG16_STAGES = (2, 2, 3, 3, 3)  # convolutions of each; a pool ends it
FC6, FC7 = "fc6", "fc7"


def _places() -> dict[str, int]:
    """Caffe's layer -> its place in VGG-16 as one list of convolutions, ReLUs and pools, with fc6 and fc7 as convolutions behind it."""
    found, place = {}, 0
    for stage, count in enumerate(VGG16_STAGES, 1):
        for i in range(1, count + 1):
            found[f"conv{stage}_{i}"] = place
            place += 2  # the ReLU
        place += 1  # the pool
    return {**found, FC6: place, FC7: place + 2}


PLACES = _places()


def torchvision(levels: int) -> dict[str, str]:
    """torchvision's name -> Caffe's, in the order of ssd300_vgg16's state dict. It cuts the list at pool4 and again at pool5."""
    features = {f"features.{place}": layer for layer, place in PLACES.items() if layer < "conv5"}
    extra = {
        f"extra.0.{place - PLACES['conv5_1'] + 1}": layer
        for layer, place in PLACES.items()
        if layer.startswith("conv5")
    }
    extra |= {f"extra.0.7.{PLACES[layer] - PLACES[FC6] + 1}": layer for layer in (FC6, FC7)}
    extra |= {
        f"extra.{number - 5}.{2 * half}": f"conv{number}_{half + 1}" for number, half in _extras(levels)
    }
    layers = {f"backbone.{name}": layer for name, layer in (features | extra).items()}
    kinds = {"head.classification_head.module_list": "conf", "head.regression_head.module_list": "loc"}
    return {"backbone.scale_weight": "conv4_3_norm.scale", **_parameters(layers | _heads(kinds, levels))}


def ssd_pytorch(levels: int) -> dict[str, str]:
    """Name in amdegroot's ssd.pytorch -> Caffe's."""
    layers = {f"vgg.{place}": layer for layer, place in PLACES.items()}
    extras = {
        f"extras.{2 * (number - 6) + half}": f"conv{number}_{half + 1}" for number, half in _extras(levels)
    }
    heads = _heads({"loc": "loc", "conf": "conf"}, levels)
    return {**_parameters(layers), "L2Norm.weight": "conv4_3_norm.scale", **_parameters(extras | heads)}


def vgg16() -> dict[str, str]:
    """Name in torchvision's vgg16, a classifier -> Caffe's. fc6 and fc7 are fully connected there; fc8 is the ImageNet classes."""
    convs = {f"features.{place}": layer for layer, place in PLACES.items() if layer.startswith("conv")}
    return _parameters(convs | {"classifier.0": FC6, "classifier.3": FC7, "classifier.6": "fc8"})


def vgg16_reduced() -> dict[str, str]:
    """Name in vgg16_reducedfc.pth, the backbone from which ssd.pytorch trains -> Caffe's."""
    return _parameters({str(place): layer for layer, place in PLACES.items()})


def ours(name: str) -> str | None:
    """Our name -> Caffe's; None for what no Caffe model has (batch norm)."""
    if name == "neck.conv4_3_norm.scale":
        return "conv4_3_norm.scale"
    if found := re.fullmatch(r"head\.(offsets|class_logits)\.(\d+)\.(weight|bias)", name):
        kind, level, part = found.groups()
        return f"{_source(int(level))}_mbox_{'loc' if kind == 'offsets' else 'conf'}.{part}"
    found = re.fullmatch(
        r"(?:backbone|neck)\.(?:stages\.\w+\.|levels\.\d+\.)?(conv\d+_\d|fc\d)\.conv\.(weight|bias)", name
    )
    return f"{found[1]}.{found[2]}" if found else None


def _parameters(layers: Mapping[str, str]) -> dict[str, str]:
    """Names of layers -> names of their weights and biases."""
    return {
        f"{theirs}.{part}": f"{layer}.{part}"
        for theirs, layer in layers.items()
        for part in ("weight", "bias")
    }


def _extras(levels: int) -> list[tuple[int, int]]:
    """(6, 0), (6, 1), (7, 0), ...: number and half of the convolutions conv6_1, conv6_2, ... behind fc7."""
    return [(number, half) for number in range(6, levels + 4) for half in (0, 1)]


def _heads(kinds: Mapping[str, str], levels: int) -> dict[str, str]:
    """kinds: what comes before the level's number -> loc or conf."""
    return {
        f"{theirs}.{level}": f"{_source(level)}_mbox_{kind}"
        for theirs, kind in kinds.items()
        for level in range(levels)
    }


def _source(level: int) -> str:
    """The map at which a level's heads look."""
    return ("conv4_3_norm", FC7)[level] if level < 2 else f"conv{level + 4}_2"
