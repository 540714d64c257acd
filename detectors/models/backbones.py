"""Backbones by name, for both detectors: `model.backbone`.

Every one publishes `channels` and `strides` of the maps that it returns, from fine to coarse, and the
`pixel_mean` and `pixel_std` of its images (RGB of 0..255). Necks, heads and anchors follow from these.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor, nn

from detectors.models.classifier import Classifier
from detectors.models.darknet19 import Darknet19, TinyDarknet
from detectors.models.detector import Detector
from detectors.models.pixels import IMAGENET_MEAN, IMAGENET_STD, TIMM
from detectors.models.switches import PAPER, LayerSwitches
from detectors.models.traced_backbone import TracedBackbone
from detectors.models.vgg import ReducedVGG

TIMM_NAME = r"[A-Za-z0-9_.]+"  # others, such as hf-hub:owner/model, would be downloaded


def build_backbone(
    name: str,
    *,
    strides: Sequence[int],
    width: float = 1.0,
    switches: LayerSwitches = PAPER,
) -> Backbone:
    """The maps of these strides of a network.

    name: darknet19, tiny_darknet, reduced_vgg16 (strides 8 and 16), a classifier of torchvision, or timm/ and
        a model of timm.
    strides: rising; layers behind the last map are left out.
    width: multiplies all channels, where the network has other widths.
    switches: of the networks of this package; others keep their layers.
    Weights are drawn by the network's own rules.
    ValueError if there is no such network, or it has no map of a stride.
    """
    if name == "darknet19":
        return Darknet19(width, strides, switches)
    if name == "tiny_darknet":
        return TinyDarknet(width, strides[-1], finer=strides[:-1], switches=switches)
    if name == "reduced_vgg16":
        if tuple(strides) != (8, 16):
            raise ValueError(
                f"backbone={name}: it has maps of strides 8 and 16, and {list(strides)} are needed; "
                "choose another backbone, such as vgg16, torchvision's"
            )
        return ReducedVGG(width=width, switches=switches)
    if switches.pooling_power is not None:
        raise ValueError(
            f"layers.pooling_power={switches.pooling_power}: backbone={name} keeps its own pools; set it to "
            "null, or choose darknet19, tiny_darknet or reduced_vgg16"
        )
    if name.startswith(TIMM):
        return TimmBackbone(name.removeprefix(TIMM), strides, width)
    return TracedBackbone(name, strides, width)


def own_parts(backbone: nn.Module) -> list[nn.Module]:
    """The backbone, if it is of this package: the others draw their weights by their own rules."""
    return [] if isinstance(backbone, TracedBackbone | TimmBackbone) else [backbone]


def describe_backbone(detector: Detector | Classifier) -> list[str]:
    """A line for the log, where the backbone is of another package."""
    backbone = detector.backbone
    if not isinstance(backbone, TracedBackbone | TimmBackbone):
        return []
    pairs = zip(backbone.strides, backbone.channels, strict=True)
    maps = ", ".join(f"stride {stride} with {channels} channels" for stride, channels in pairs)
    mean = detector.pixel_mean.flatten().tolist()
    std = detector.pixel_std.flatten().tolist()
    pixels = f"minus {[round(x, 3) for x in mean]}, divided by {[round(x, 3) for x in std]}"
    return [f"backbone: {backbone.name}, {maps}; RGB {pixels}"]


class TimmBackbone(nn.Module):
    """A model of timm with features_only=True. Names of parameters are timm's. Nothing is downloaded."""

    def __init__(self, name: str, strides: Sequence[int], width: float = 1.0):
        """ValueError unless timm is installed, has the model, and the model has maps of these strides."""
        super().__init__()
        place = f"backbone={TIMM}{name}"
        if not re.fullmatch(TIMM_NAME, name):
            raise ValueError(f"{place}: not a name of timm.list_models(), such as timm/resnet18")
        if width != 1.0:
            raise ValueError(f"width={width}: timm's models have one width; set model.width=1")
        try:
            import timm
        except ImportError as error:
            raise ValueError(f"{place}: timm is not installed: pip install 'detectors[timm]'") from error
        if name.partition(".")[0] not in timm.list_models():
            raise ValueError(f"{place}: timm {timm.__version__} has no such model; see timm.list_models()")
        try:
            reductions = timm.create_model(name, features_only=True).feature_info.reduction()
            places = [reductions.index(stride) for stride in strides]
            self.body = timm.create_model(name, features_only=True, out_indices=places)
        except (AttributeError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"{place}: no feature maps of strides {list(strides)} ({error}); choose another backbone"
            ) from error
        self.name = f"{TIMM}{name}"
        self.strides = tuple(strides)
        self.channels = tuple(self.body.feature_info.channels())
        pretrained = getattr(self.body, "pretrained_cfg", {})
        self.pixel_mean = tuple(255 * level for level in pretrained.get("mean", ()))
        self.pixel_std = tuple(255 * level for level in pretrained.get("std", ()))
        self.pixel_mean = self.pixel_mean or IMAGENET_MEAN
        self.pixel_std = self.pixel_std or IMAGENET_STD

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> one map (B, channels, H / stride, W / stride) for each stride"""
        return tuple(self.body(images))


# What build_backbone gives.
Backbone = Darknet19 | TinyDarknet | ReducedVGG | TracedBackbone | TimmBackbone
