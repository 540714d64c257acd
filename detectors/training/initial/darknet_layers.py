"""Darknet's .weights under the names of one of our detectors, whose convolutions are in the same order.

A file has no names and no layers: only a network says where a layer ends in it. That is the cfg beside the
file; without one, it is the detector itself, its first convolutions, or its backbone as a classifier.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from detectors.config.build import build
from detectors.config.schema import Config
from detectors.darknet.cfg import read_cfg
from detectors.darknet.network import DarknetNetwork
from detectors.darknet.weights import (
    FLOAT,
    Convolution,
    check_weights,
    convolutions,
    load_weights,
    read_header,
)
from detectors.models.classifier import Classifier
from detectors.models.detector import Detector
from detectors.models.pixels import DARKNET_MEAN, DARKNET_STD
from detectors.training.initial.weight_files import DarknetWeights

REGION_ENTRIES = 5  # x, y, width, height, objectness


@dataclass
class DarknetTensors:
    """classes: of a detector's file; None for a backbone or a classifier."""

    tensors: dict[str, Tensor] = field(default_factory=dict)  # our name -> tensor
    origins: dict[str, str] = field(default_factory=dict)  # our name -> convolution N
    unused: dict[str, str] = field(default_factory=dict)
    classes: int | None = None


def darknet_tensors(source: DarknetWeights, detector: Detector, config: Config) -> DarknetTensors:
    """ValueError if the cfg's network, or each one that the detector suggests, has another size."""
    network, classes = _described(source) if source.cfg else _suggested(source.path, detector, config)
    network.to_empty(device="cpu")
    report = load_weights(network, source.path, partial=True)
    result = DarknetTensors(classes=classes)
    ours = convolutions(detector)
    names = {
        id(tensor): name for name, tensor in chain(detector.named_parameters(), detector.named_buffers())
    }
    for number, layer in enumerate(report.loaded, 1):
        mine = ours[number - 1] if number <= len(ours) else None
        if mine is None or not _alike(mine, layer, last=number == len(ours)):
            here = f"here it is {mine}" if mine else "the detector has no more"
            result.unused[f"convolutions {number} to {len(report.loaded)}"] = f"the first is {layer}; {here}"
            break
        pairs = list(zip(mine.tensors(), layer.tensors(), strict=True))
        if mine.norm is not None:  # a count that no .weights file has
            pairs.append((mine.norm.num_batches_tracked, torch.zeros((), dtype=torch.int64)))
        for own, tensor in pairs:
            result.tensors[names[id(own)]] = tensor.detach()
            result.origins[names[id(own)]] = f"convolution {number}"
    return result


def _described(source: DarknetWeights) -> tuple[nn.Module, int | None]:
    """The network of the cfg beside the file, without memory, and its classes."""
    cfg = read_cfg(source.cfg)
    with torch.device("meta"):
        network = DarknetNetwork(cfg)
    check_weights(network, source.path, partial=True)
    return network, cfg.region and cfg.region.classes


def _suggested(path: Path, detector: Detector, config: Config) -> tuple[nn.Module, int | None]:
    """The first network that has the file's size, without memory, and the classes of the file.

    ValueError, check_weights' with a way out, if there is none.
    """
    count = (path.stat().st_size - read_header(path).size) // FLOAT.itemsize
    problem = None
    for network, classes in _candidates(count, detector, config):
        try:
            check_weights(network, path, partial=True)
        except ValueError as error:
            problem = problem or error
        else:
            return network, classes
    raise ValueError(
        f"{problem}; a cfg beside it, {path.with_suffix('.cfg').name}, would name its layers"
    ) from problem


def _candidates(count: int, detector: Detector, config: Config) -> Iterator[tuple[nn.Module, int | None]]:
    """The detector with the classes for which a file of `count` numbers has room, the detector, whose first
    layers the file may hold, and its backbone as a classifier; all on the meta device.
    """
    layers = convolutions(detector)
    per_anchor = detector.anchors.per_location[0]
    classes = _outputs_left(count, layers[:-1], layers[-1].conv) / per_anchor - REGION_ENTRIES
    with torch.device("meta"):
        if classes >= 1 and classes.is_integer():
            yield build(config.model, num_classes=int(classes), loss=build(config.loss)), int(classes)
        yield build(config.model, num_classes=1, loss=build(config.loss)), None
        channels = getattr(detector.backbone, "channels", None)
        if channels is None:
            return
        backbone = build(config.model, num_classes=1, loss=build(config.loss)).backbone
        outputs = _outputs_left(count, convolutions(backbone), nn.Conv2d(channels[-1], 1, 1))
        if outputs >= 1 and outputs.is_integer():
            head = nn.Conv2d(channels[-1], int(outputs), 1)
            pixels = {"pixel_mean": DARKNET_MEAN, "pixel_std": DARKNET_STD}
            yield Classifier(backbone=backbone, head=head, **pixels), None


def _outputs_left(count: int, layers: list[Convolution], last: nn.Conv2d) -> float:
    """How many outputs a last convolution with a bias would have in a file of `count` numbers."""
    return (count - sum(layer.count for layer in layers)) / (last.weight[0].numel() + 1)


def _alike(mine: Convolution, theirs: Convolution, *, last: bool) -> bool:
    """Whether two layers have the same inputs and outputs; the last one's outputs depend on the classes."""
    same = (mine.norm is None) == (theirs.norm is None)
    same = same and mine.conv.weight.shape[1:] == theirs.conv.weight.shape[1:]
    return same and (last or mine.conv.out_channels == theirs.conv.out_channels)
