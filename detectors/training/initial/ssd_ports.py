"""Other programs' state dicts of SSD and VGG-16 <-> ours: torchvision's ssd300_vgg16, ssd.pytorch, VGG-16.

All of them order a head's outputs by anchor, and a cell's anchors as Caffe does, like us: parameters are
renamed, but never permuted. What differs: names (parameter_names.py), the pixel values that the weights
expect, clipping of default boxes, and torchvision's classes for COCO.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from detectors.models.pixels import PIXEL_MEAN
from detectors.training.initial import parameter_names
from detectors.training.transfer import shape_of


class Port(NamedTuple):
    """A program whose files we read. All take RGB images. pixel_mean, pixel_std: for pixels in 0..255."""

    title: str
    names: Callable[[int], dict[str, str]]  # levels -> {its name: Caffe's}
    pixel_mean: tuple[float, ...] = PIXEL_MEAN
    pixel_std: tuple[float, ...] = (1.0, 1.0, 1.0)
    clip_default_boxes: str | None = None
    is_detector: bool = True  # else a backbone only

    def settings(self) -> dict[str, Any]:
        """Keyword arguments for our builders."""
        return {
            "pixel_mean": list(self.pixel_mean),
            "pixel_std": list(self.pixel_std),
            "channel_order": "rgb",
            "clip_default_boxes": self.clip_default_boxes,
        }


# torchvision's SSD subtracts a mean from images in 0..1 and divides by 1/255; its classifier divides by
# standard deviations.
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
        is_detector=False,
    ),
    "vgg16_reduced": Port(
        "VGG-16 with reduced fc6 and fc7", lambda levels: parameter_names.vgg16_reduced(), is_detector=False
    ),
}
# A file is recognised by these names: all of them are in each such file, but not in any other.
MARKS = {
    "torchvision": ("backbone.scale_weight", "head.regression_head.module_list.0.weight"),
    "ssd.pytorch": ("L2Norm.weight", "vgg.0.weight"),
    "vgg16": ("features.0.weight", "classifier.0.weight"),
    "vgg16_reduced": ("0.weight", "31.weight", "33.weight"),
}
# Under which programs store a state dict beside other things.
STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
WRAPPER_MODULES = re.compile(r"^((module|_orig_mod)\.)+")  # DataParallel's and torch.compile's
MAX_NUMBERS = 2**28  # in a tensor; VGG-16's fc6 has 1e8
COCO_OUTPUTS = 91  # torchvision's: background and COCO's ids 1 to 90
COCO_UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # the ten of these ids that COCO does not use


@dataclass
class PortWeights:
    """The content of a file."""

    kind: str  # key of PORTS
    tensors: dict[str, Tensor]  # Caffe's name -> parameter
    origins: dict[str, str]  # Caffe's name -> the file's
    settings: dict[str, Any]  # keyword arguments for our builders that go with the weights
    unused: dict[str, str] = field(default_factory=dict)  # the file's name -> why it is not used

    @property
    def levels(self) -> int:
        """Feature maps with a head; 0 in a backbone."""
        return sum(name.endswith("_mbox_loc.weight") for name in self.tensors)

    @property
    def outputs(self) -> int:
        """Class logits per default box, including background; 0 in a backbone."""
        if not self.levels:
            return 0
        logits = self.channels("fc7_mbox_conf.weight")
        offsets = self.channels("fc7_mbox_loc.weight")
        return logits * 4 // max(offsets, 1)

    def channels(self, name: str) -> int:
        """Output channels of a layer. name: Caffe's, of its weight or bias."""
        return self.tensors[name].shape[:1].numel()


def state_dict_of(content: Any, where: str) -> dict[str, Tensor]:
    """The tensors of a file: a dict of them, also within other dicts, without the names of wrappers.

    ValueError, with what was found, if there is no such dict, or a tensor is not an ordinary one.
    """
    found = _state_dict(content, where)
    tensors = {WRAPPER_MODULES.sub("", name): tensor for name, tensor in found.items()}
    if len(tensors) < len(found):
        raise ValueError(
            f"{where}: some tensors are there with and without the prefix module.; save them once"
        )
    for name, tensor in tensors.items():
        _check_ordinary(tensor, name, where)
    return _without_common_module(tensors)


def _without_common_module(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without modules that all names begin with (model.), if that makes a network of PORTS of it."""
    inner = tensors
    while identify(inner) is None:
        modules = {name.partition(".")[0] for name in inner}
        if len(modules) > 1 or not all("." in name for name in inner):
            return tensors
        inner = {name.partition(".")[2]: tensor for name, tensor in inner.items()}
    return inner


def _state_dict(content: Any, where: str) -> dict[str, Tensor]:
    """The named tensors under a usual key, else those at the top, else those under the only key with any."""
    outer = content
    visited = []  # a pickle may hold a dict within itself
    while isinstance(outer, Mapping) and id(outer) not in visited:
        visited.append(id(outer))
        inner = {key: value for key, value in outer.items() if isinstance(value, Mapping) and value}
        usual = next((key for key in STATE_DICT_KEYS if key in inner), None)
        if usual is None and (tensors := _named_tensors(outer)):
            return tensors
        if usual is None:
            with_tensors = [key for key in inner if _named_tensors(inner[key])] or list(inner)
            usual = with_tensors[0] if len(with_tensors) == 1 else None
        outer = inner.get(usual)
    held = type(content).__name__
    if isinstance(content, Mapping):
        keys = ", ".join(str(key)[:40] for key in list(content)[:8])
        held = (
            f"a dict with the keys {keys}{', ...' if len(content) > 8 else ''}" if keys else "an empty dict"
        )
    raise ValueError(
        f"{where}: no state dict, which is a dict of named tensors, alone or under one of the keys "
        f"{', '.join(STATE_DICT_KEYS)}; it holds {held}"
    )


def _named_tensors(content: Mapping) -> dict[str, Tensor]:
    return {
        name: tensor
        for name, tensor in content.items()
        if isinstance(name, str) and isinstance(tensor, Tensor)
    }


def _check_ordinary(tensor: Tensor, name: str, where: str) -> None:
    """ValueError for a tensor that is sparse, quantised, complex, nested, huge or without numbers."""
    special = tensor.is_quantized or tensor.is_complex() or tensor.is_nested or tensor.is_meta
    if special or tensor.layout != torch.strided:
        kind = "on the meta device, without numbers" if tensor.is_meta else f"{tensor.layout}, {tensor.dtype}"
        raise ValueError(f"{where}: {name} is not an ordinary tensor ({kind}); save it dense, as float32")
    if tensor.numel() > MAX_NUMBERS:  # with strides of 0 they take no place in the file
        raise ValueError(f"{where}: {name} has {tensor.numel():,} numbers, more than any layer here")


def identify(tensors: Mapping[str, Tensor]) -> str | None:
    """The key of PORTS whose marks are in a state dict; None if it is of another network."""
    for kind, marks in MARKS.items():
        if all(mark in tensors for mark in marks):
            return kind
    return None


def read_port(tensors: Mapping[str, Tensor], kind: str, where: str) -> PortWeights:
    """A state dict of a program of PORTS, with VGG-16's fc6 and fc7 decimated. `tensors` is not changed.

    ValueError names the first parameter that is missing.
    """
    port = PORTS[kind]
    only_in_ssd512 = port.names(7).keys() - port.names(6).keys()
    names = port.names(7) if tensors.keys() & only_in_ssd512 else port.names(6)  # the file's -> Caffe's
    missing = [name for name in names if name not in tensors]
    if missing:
        raise ValueError(
            f"{where}: {missing[0]} ({names[missing[0]]}) is missing; "
            f"{len(names) - len(missing)} of the {len(names)} parameters of {port.title} are there: "
            "the file is of another network, or incomplete"
        )
    weights = PortWeights(
        kind,
        tensors={caffe: tensors[name] for name, caffe in names.items()},
        origins={caffe: name for name, caffe in names.items()},
        settings=port.settings(),
        unused={name: f"{port.title} has no such parameter" for name in tensors if name not in names},
    )
    if kind == "vgg16":
        _reduce_classifier(weights, where)
    if port.is_detector:
        _check_heads(weights, where)
    return weights


def _check_heads(weights: PortWeights, where: str) -> None:
    """ValueError unless all levels have the same number of class logits per default box."""
    for name in weights.tensors:
        if "_mbox_loc." not in name:
            continue
        offsets = weights.channels(name)
        logits = weights.channels(name.replace("_loc.", "_conf."))
        if not offsets or offsets % 4 or logits * 4 != offsets * weights.outputs or weights.outputs < 2:
            raise ValueError(
                f"{where}: {weights.origins[name]} has {offsets} channels, its class logits {logits}: "
                "not a whole number of boxes with a background and a class"
            )


def _reduce_classifier(weights: PortWeights, where: str) -> None:
    """Turns a classifier into SSD's backbone, in place: removes fc8 (ImageNet's classes), decimates fc6, fc7.

    torchvision's "IMAGENET1K_FEATURES" are NaN in fc6 and fc7, which are then removed, and expect Caffe's
    pixel values.
    """
    for part in ("weight", "bias"):
        _drop(weights, f"fc8.{part}", "ImageNet's classes")
    fc = [f"{layer}.{part}" for layer in ("fc6", "fc7") for part in ("weight", "bias")]
    if all(weights.tensors[name].isfinite().all() for name in fc):
        _decimate(weights, where)
        return
    for name in fc:
        _drop(weights, name, "no finite values: only the features of this file were trained")
    weights.settings |= PORTS["vgg16_reduced"].settings()


def _drop(weights: PortWeights, name: str, reason: str) -> None:
    weights.unused[weights.origins.pop(name)] = reason
    del weights.tensors[name]


def _decimate(weights: PortWeights, where: str) -> None:
    """fc6 (4096, 25088) -> (1024, 512, 3, 3), fc7 (4096, 4096) -> (1024, 1024, 1, 1), in place.

    Keeps every fourth channel, and every third row and column of fc6's 7x7 window (DeepLab's decimation,
    Caffe's VGG_ILSVRC_16_layers_fc_reduced).
    """
    for name, shape in (("fc6.weight", (4096, 512 * 7 * 7)), ("fc7.weight", (4096, 4096))):
        if weights.tensors[name].shape != shape:
            raise ValueError(
                f"{where}: {weights.origins[name]} is {shape_of(weights.tensors[name])}, "
                f"but VGG-16's is {'x'.join(map(str, shape))}"
            )
    fc6 = weights.tensors["fc6.weight"].reshape(4096, 512, 7, 7)
    fc7 = weights.tensors["fc7.weight"].reshape(4096, 4096, 1, 1)
    reduced = {
        "fc6.weight": fc6[::4, :, ::3, ::3],
        "fc6.bias": weights.tensors["fc6.bias"][::4],
        "fc7.weight": fc7[::4, ::4],
        "fc7.bias": weights.tensors["fc7.bias"][::4],
    }
    for name, tensor in reduced.items():
        weights.tensors[name] = tensor
        weights.origins[name] += ", decimated"


def used_coco_columns() -> list[int]:
    """The used ones of torchvision's 91 outputs: background and COCO's 80 classes, in order of their ids."""
    return [column for column in range(COCO_OUTPUTS) if column not in COCO_UNUSED]


def select_outputs(weights: PortWeights, columns: Sequence[int]) -> PortWeights:
    """The same weights with only these columns of the class logits, in this order.

    The softmax is then over these columns only.
    """
    index = torch.tensor(list(columns))
    tensors = dict(weights.tensors)
    for name, tensor in tensors.items():
        if "_mbox_conf." in name:
            tensors[name] = tensor.unflatten(0, (-1, weights.outputs))[:, index].flatten(0, 1)
    return PortWeights(weights.kind, tensors, weights.origins, weights.settings, weights.unused)


def write_port(ours: Mapping[str, Tensor], kind: str, *, channel_order: str = "rgb") -> dict[str, Tensor]:
    """Our state dict -> that of torchvision or ssd.pytorch, in its order. `ours` is not changed.

    The other programs take RGB: for channel_order="bgr", the first convolution's inputs are reversed.
    ValueError, with the reason, if our network is not SSD on VGG-16 with width 1.
    """
    port = PORTS[kind]
    caffe = {parameter_names.ours(name): tensor for name, tensor in ours.items()}
    if None in caffe:
        unknown = next(name for name in ours if parameter_names.ours(name) is None)
        raise ValueError(
            f"{port.title} has no {unknown}: only the paper's networks can be written, SSD300 and SSD512 "
            "without batch norm"
        )
    levels = sum(name.endswith("_mbox_loc.weight") for name in caffe)
    names = port.names(levels)  # the program's -> Caffe's
    unmatched = set(names.values()) ^ caffe.keys()
    if unmatched or len(caffe["conv1_1.weight"]) != 64:
        reason = f"only one of them has {min(unmatched)}" if unmatched else "its width is not 1"
        raise ValueError(
            f"{port.title} does not have this network ({reason}): "
            "only SSD300 and SSD512 on VGG-16 with width 1 can be written"
        )
    if channel_order == "bgr":
        caffe["conv1_1.weight"] = caffe["conv1_1.weight"].flip(1)
    return {
        name: caffe[layer].detach().clone(memory_format=torch.contiguous_format)
        for name, layer in names.items()
    }
