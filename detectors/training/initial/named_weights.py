"""A file's weights under the names of one of our detectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from detectors.config.schema import Config
from detectors.data.class_names import CLASS_LISTS
from detectors.models.detector import Detector
from detectors.training.checkpoint import Checkpoint
from detectors.training.initial import parameter_names, ssd_ports
from detectors.training.initial.darknet_layers import darknet_tensors
from detectors.training.initial.weight_files import DarknetWeights, StateDict, WeightFile, names_beside

BACKBONE_PREFIXES = ("backbone.", "backbone.body.")  # body: of torchvision's and timm's


@dataclass
class NamedWeights:
    """class_names: (): the file does not say. settings: of the model for which the weights were trained."""

    title: str  # such as "averaged weights"
    tensors: Mapping[str, Tensor]  # our name -> the file's tensor
    origins: Mapping[str, str] = field(default_factory=dict)  # our name -> where in the file
    class_names: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    unused: Mapping[str, str] = field(default_factory=dict)  # name in the file -> why it is not used


def named_weights(source: WeightFile, detector: Detector, config: Config) -> NamedWeights:
    """ValueError for a file of another network."""
    if isinstance(source, Checkpoint):
        return _of_checkpoint(source)
    if isinstance(source, DarknetWeights):
        layers = darknet_tensors(source, detector, config)
        names = names_beside(source.path) or usual_names(layers.classes)
        if layers.classes and len(names) not in (0, layers.classes):
            raise ValueError(f"{source.path}: has {layers.classes} classes, its .names file {len(names)}")
        return NamedWeights("Darknet's weights", layers.tensors, layers.origins, names, unused=layers.unused)
    return _of_state_dict(source, detector)


def usual_names(classes: int | None) -> tuple[str, ...]:
    """VOC's or COCO's class names for a file without names, by their number; () for another number."""
    return next((names for names in CLASS_LISTS.values() if len(names) == classes), ())


def _of_checkpoint(source: Checkpoint) -> NamedWeights:
    model = source.config.get("model")
    return NamedWeights(
        "averaged weights" if source.ema else "weights",
        source.weights,
        class_names=source.class_names,
        settings=model if isinstance(model, dict) else {},
    )


def _of_state_dict(source: StateDict, detector: Detector) -> NamedWeights:
    """Of a program of ssd_ports, of torchvision's backbones, or with our own names."""
    names = detector.state_dict().keys()
    tensors = source.tensors
    if not tensors.keys().isdisjoint(names):
        return NamedWeights("state dict", tensors)
    for prefix in BACKBONE_PREFIXES:
        if any(f"{prefix}{name}" in names for name in tensors):
            return _of_backbone(tensors, prefix, names)
    if kind := ssd_ports.identify(tensors):
        return _of_port(ssd_ports.read_port(tensors, kind, str(source.path)), names)
    known = ", ".join(port.title for port in ssd_ports.PORTS.values())
    raise ValueError(
        f"{source.path}: a state dict of another network: its first parameter of {len(tensors)} is "
        f"{next(iter(tensors))}, this detector's is {next(iter(names))}; known by other names are {known}"
    )


def _of_backbone(tensors: Mapping[str, Tensor], prefix: str, names: Sequence[str]) -> NamedWeights:
    origins = {f"{prefix}{name}": name for name in tensors if f"{prefix}{name}" in names}
    used = set(origins.values())
    return NamedWeights(
        "state dict of a backbone",
        {ours: tensors[name] for ours, name in origins.items()},
        origins,
        unused={name: "the detector has no such layer" for name in tensors if name not in used},
    )


def _of_port(weights: ssd_ports.PortWeights, names: Sequence[str]) -> NamedWeights:
    port = ssd_ports.PORTS[weights.kind]
    if weights.outputs == ssd_ports.COCO_OUTPUTS:
        weights = ssd_ports.select_outputs(weights, ssd_ports.used_coco_columns())
    caffe = {name: parameter_names.ours(name) for name in names}  # our name -> Caffe's
    caffe = {name: layer for name, layer in caffe.items() if layer in weights.tensors}
    used = set(caffe.values())
    unused = {
        weights.origins[layer]: "nothing here has this layer"
        for layer in weights.tensors
        if layer not in used
    }
    return NamedWeights(
        port.title,
        {name: weights.tensors[layer] for name, layer in caffe.items()},
        {name: weights.origins[layer] for name, layer in caffe.items()},
        usual_names(weights.outputs - 1),
        port.settings() | weights.settings,
        weights.unused | unused,
    )
