"""State dicts of SSD and VGG-16 of other programs <-> ours: torchvision's ssd300_vgg16, ssd.pytorch (amdegroot), VGG-16 as a backbone.

All of them run the heads anchor by anchor and hold the boxes of a cell in Caffe's order, as we do: parameters are renamed, never permuted.
What differs: names (parameter_names.py), the pixels that the weights expect, clipped default boxes, and COCO's classes in torchvision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from detectors.commands.convert import parameter_names
from detectors.training.transfer import shape_of


class Port(NamedTuple):
    """A program whose files we read. Pixels are RGB of 0..255 in all of them; keywords of our builders."""

    title: str
    names: Callable[[int], dict[str, str]]  # levels -> its name -> Caffe's
    pixel_mean: tuple[float, ...] = (123.0, 117.0, 104.0)
    pixel_std: tuple[float, ...] = (1.0, 1.0, 1.0)
    clip_default_boxes: str | None = None
    whole: bool = True  # a detector; else a backbone only

    def settings(self) -> dict[str, Any]:
        """Keywords for our builders."""
        pixels = {
            "pixel_mean": list(self.pixel_mean),
            "pixel_std": list(self.pixel_std),
            "channel_order": "rgb",
        }
        return {**pixels, "clip_default_boxes": self.clip_default_boxes}


# torchvision subtracts means of images in 0..1 and divides by 1/255; its classifier divides by standard deviations as well.
PORTS = {
    "torchvision": Port(
        "torchvision's SSD",
        parameter_names.torchvision,
        pixel_mean=(122.99925, 116.9991, 103.9992),
        clip_default_boxes="wh",
    ),
    "ssd.pytorch": Port("ssd.pytorch", parameter_names.ssd_pytorch, clip_default_boxes="cxcywh"),
    "vgg16": Port(
        "torchvision's VGG-16",
        lambda levels: parameter_names.vgg16(),
        pixel_mean=(123.675, 116.28, 103.53),
        pixel_std=(58.395, 57.12, 57.375),
        whole=False,
    ),
    "vgg16_reduced": Port(
        "VGG-16 with reduced fc6 and fc7", lambda levels: parameter_names.vgg16_reduced(), whole=False
    ),
}
# In every such file, and together in no other: how a file is recognised.
MARKS = {
    "torchvision": ("backbone.scale_weight", "head.regression_head.module_list.0.weight"),
    "ssd.pytorch": ("L2Norm.weight", "vgg.0.weight"),
    "vgg16": ("features.0.weight", "classifier.0.weight"),
    "vgg16_reduced": ("0.weight", "31.weight", "33.weight"),
}
COCO_OUTPUTS = 91  # torchvision's: background and COCO's ids 1 to 90, ...
COCO_UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # ... ten of which no object has


@dataclass
class PortWeights:
    """What a file holds."""

    kind: str  # key of PORTS
    tensors: dict[str, Tensor]  # Caffe's name -> parameter
    origins: dict[str, str]  # Caffe's name -> the file's
    settings: dict[str, Any]  # keywords of our builders that the weights ask for
    unused: dict[str, str] = field(default_factory=dict)  # the file's name -> why nothing takes it

    @property
    def levels(self) -> int:
        """Maps that a head looks at; 0 in a backbone."""
        return sum(name.endswith("_mbox_loc.weight") for name in self.tensors)

    @property
    def outputs(self) -> int:
        """Columns of the class logits, background included; 0 in a backbone."""
        if not self.levels:
            return 0
        logits, offsets = (self.channels(f"fc7_mbox_{kind}.weight") for kind in ("conf", "loc"))
        return logits * 4 // max(offsets, 1)

    def channels(self, name: str) -> int:
        """Outputs of a layer, given Caffe's name of its weight or bias."""
        return self.tensors[name].shape[:1].numel()


def state_dict_of(content: Any, where: str) -> dict[str, Tensor]:
    """The tensors of a file: the whole content, or its entry "model" or "state_dict"; a "module." of DataParallel in front is cut off.

    ValueError if there are none.
    """
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = (
        {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        raise ValueError(
            f"{where}: no state dict, a dict of named tensors; it holds {type(content).__name__}"
        )
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def identify(tensors: Mapping[str, Tensor]) -> str | None:
    """The key of PORTS whose marks a state dict has; None for another network's."""
    return next((kind for kind, marks in MARKS.items() if all(mark in tensors for mark in marks)), None)


def read_port(tensors: Mapping[str, Tensor], kind: str, where: str) -> PortWeights:
    """A state dict of a program of PORTS -> Found. VGG-16's fc6 and fc7 are decimated. `tensors` is not changed.

    ValueError names the first parameter that is absent.
    """
    port = PORTS[kind]
    rule = port.names(7) if tensors.keys() & (port.names(7).keys() - port.names(6).keys()) else port.names(6)
    if absent := [name for name in rule if name not in tensors]:
        raise ValueError(
            f"{where}: {absent[0]} ({rule[absent[0]]}) is missing; {len(rule) - len(absent)} of the {len(rule)} parameters of {port.title} "
            "are there: the file is of another network, or incomplete"
        )
    found = PortWeights(
        kind, {c: tensors[n] for n, c in rule.items()}, {c: n for n, c in rule.items()}, port.settings()
    )
    found.unused = {name: f"{port.title} has no such parameter" for name in tensors if name not in rule}
    if kind == "vgg16":
        _reduce_fc(found, where)
    if port.whole:
        _check_heads(found, where)
    return found


def _check_heads(found: PortWeights, where: str) -> None:
    """ValueError unless each level's heads have the same number of outputs for each default box."""
    for caffe in (name for name in found.tensors if "_mbox_loc." in name):
        offsets, logits = found.channels(caffe), found.channels(caffe.replace("_loc.", "_conf."))
        if not offsets or offsets % 4 or logits * 4 != offsets * found.outputs:
            raise ValueError(
                f"{where}: {found.origins[caffe]} has {offsets} channels, its class logits {logits}: no whole number of boxes"
            )


def _reduce_fc(found: PortWeights, where: str) -> None:
    """fc6 (4096, 25088) -> (1024, 512, 3, 3), fc7 (4096, 4096) -> (1024, 1024, 1, 1): every fourth channel, every third row and column of
    fc6's 7x7 window (DeepLab's decimation, Caffe's VGG_ILSVRC_16_layers_fc_reduced). The ImageNet classes, fc8, are left.

    torchvision's "IMAGENET1K_FEATURES" have no values there (NaN), and Caffe's pixels: fc6 and fc7 are left out, too.
    """
    for part in ("weight", "bias"):
        found.unused[found.origins.pop(f"fc8.{part}")] = "ImageNet's classes"
        del found.tensors[f"fc8.{part}"]
    fc = [f"{layer}.{part}" for layer in ("fc6", "fc7") for part in ("weight", "bias")]
    if not all(found.tensors[name].isfinite().all() for name in fc):
        for name in fc:
            found.unused[found.origins.pop(name)] = (
                "no finite values: only the features of this file were trained"
            )
            del found.tensors[name]
        found.settings |= PORTS["vgg16_reduced"].settings()
        return
    for name, shape in (("fc6.weight", (4096, 512 * 7 * 7)), ("fc7.weight", (4096, 4096))):
        if found.tensors[name].shape != shape:
            raise ValueError(
                f"{where}: {found.origins[name]} is {shape_of(found.tensors[name])}, VGG-16's is {'x'.join(map(str, shape))}"
            )
    found.tensors["fc6.weight"] = found.tensors["fc6.weight"].reshape(4096, 512, 7, 7)[::4, :, ::3, ::3]
    found.tensors["fc7.weight"] = found.tensors["fc7.weight"].reshape(4096, 4096, 1, 1)[::4, ::4]
    for name in ("fc6.bias", "fc7.bias"):
        found.tensors[name] = found.tensors[name][::4]
    found.origins |= {name: f"{found.origins[name]}, decimated" for name in fc}


def used_coco_columns() -> list[int]:
    """The 81 of torchvision's 91 outputs that stand for something: background and COCO's 80 classes in the order of their ids."""
    return [column for column in range(COCO_OUTPUTS) if column not in COCO_UNUSED]


def select_outputs(found: PortWeights, columns: Sequence[int]) -> PortWeights:
    """The same weights with some of the class logits' columns only, in the order given. The softmax then runs over these alone."""
    old, index = found.outputs, torch.tensor(list(columns))
    tensors = {
        name: tensor.unflatten(0, (-1, old))[:, index].flatten(0, 1) if "_mbox_conf." in name else tensor
        for name, tensor in found.tensors.items()
    }
    return PortWeights(found.kind, tensors, found.origins, found.settings, found.unused)


def write_port(ours: Mapping[str, Tensor], kind: str, *, channel_order: str = "rgb") -> dict[str, Tensor]:
    """Our state dict -> that of torchvision or ssd.pytorch, in its order. `ours` is not changed; a network that was trained on BGR has its
    first convolution turned round, because theirs are given RGB.

    ValueError, with the reason, if our network is not VGG-16's SSD in full width.
    """
    port = PORTS[kind]
    caffe = {parameter_names.ours(name): tensor for name, tensor in ours.items()}
    if None in caffe:
        other = next(name for name in ours if parameter_names.ours(name) is None)
        raise ValueError(
            f"{port.title} has no {other}: only networks of the paper can be written, SSD300 and SSD512 without batch norm"
        )
    levels = sum(name.endswith("_mbox_loc.weight") for name in caffe)
    rule = port.names(levels)
    if (differ := set(rule.values()) ^ caffe.keys()) or len(caffe["conv1_1.weight"]) != 64:
        what = f"{min(differ)} is in one of them only" if differ else "its width is not 1"
        raise ValueError(
            f"{port.title} does not fit this network ({what}): only SSD300 and SSD512 on VGG-16 in full width can be written"
        )
    if channel_order == "bgr":
        caffe["conv1_1.weight"] = caffe["conv1_1.weight"].flip(1)
    return {
        name: caffe[layer].detach().clone(memory_format=torch.contiguous_format)
        for name, layer in rule.items()
    }
