"""What a Darknet .cfg of the YOLOv2 family describes: the network and its layers as records, with shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from detectors.wordtree.nodes import WordTree

Shape = tuple[int, int, int]  # channels, rows, columns of one image


@dataclass(frozen=True)
class Convolutional:
    filters: int
    size: int
    stride: int
    padding: int
    groups: int
    batch_normalize: bool
    activation: str


@dataclass(frozen=True)
class MaxPool:
    size: int
    stride: int
    padding: int  # total of both sides; half of it, rounded down, is on the left and at the top


@dataclass(frozen=True)
class Route:
    layers: tuple[int, ...]  # counted from the first layer


@dataclass(frozen=True)
class Reorg:
    stride: int


@dataclass(frozen=True)
class AvgPool:
    """Mean of each channel."""


@dataclass(frozen=True)
class Softmax:
    groups: int
    temperature: float
    tree: WordTree | None = None  # one softmax for each of its groups


@dataclass(frozen=True)
class Dropout:
    probability: float


@dataclass(frozen=True)
class Cost:
    """Only used in training: the output is the input."""


@dataclass(frozen=True)
class Region:
    """Settings of the region layer; RegionLoss and docs/yolov2.md explain them."""

    anchors: tuple[tuple[float, float], ...]  # (width, height) in cells
    classes: int
    softmax: bool
    rescore: bool
    bias_match: bool
    thresh: float
    coord_scale: float
    object_scale: float
    noobject_scale: float
    class_scale: float
    jitter: float
    random: bool
    tree: WordTree | None = None  # of the classes
    map: tuple[int, ...] | None = None  # the nodes of the classes in label files


SectionSettings = Convolutional | MaxPool | Route | Reorg | AvgPool | Softmax | Dropout | Cost | Region


@dataclass(frozen=True)
class Layer:
    index: int
    line: int
    kind: str
    settings: SectionSettings
    input: Shape  # output of the previous layer, also for a route
    output: Shape
    parameters: int  # floats in a .weights file


@dataclass(frozen=True)
class Net:
    """The [net] section. An optimiser step takes `batch` images, `batch // subdivisions` at a time."""

    batch: int
    subdivisions: int
    width: int
    height: int
    channels: int
    momentum: float
    decay: float
    learning_rate: float
    policy: str
    burn_in: int
    power: float
    max_batches: int
    steps: tuple[int, ...]
    scales: tuple[float, ...]
    step: int
    scale: float
    gamma: float
    angle: float
    saturation: float
    exposure: float
    hue: float


@dataclass(frozen=True)
class DarknetCfg:
    path: Path
    net: Net
    layers: tuple[Layer, ...]
    unused: tuple[str, ...]  # one line for each option of the file that has no effect
    notes: tuple[str, ...]  # one line for each value that Darknet reads as something else than stands there
    # The texts of the trees and maps that it names, by their names.
    contents: Mapping[str, str] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """Floats in a .weights file of this network."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def region(self) -> Region | None:
        """The settings of the last layer, if it is a region layer."""
        settings = self.layers[-1].settings
        return settings if isinstance(settings, Region) else None
