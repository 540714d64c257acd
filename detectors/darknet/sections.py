"""What a Darknet .cfg of the YOLOv2 family describes: records of the network and of its layers, with every shape worked out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
    padding: int  # in all; half of it, rounded down, lies to the left and above


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


@dataclass(frozen=True)
class Dropout:
    probability: float


@dataclass(frozen=True)
class Cost:
    """Matters to training only: the output is the input."""


@dataclass(frozen=True)
class Region:
    """Settings of the region layer; what they do: RegionLoss and docs/yolov2.md."""

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


SectionSettings = Convolutional | MaxPool | Route | Reorg | AvgPool | Softmax | Dropout | Cost | Region


@dataclass(frozen=True)
class Layer:
    index: int
    line: int
    kind: str
    settings: SectionSettings
    input: Shape  # of the layer before, also for a route
    output: Shape
    parameters: int  # floats in a .weights file


@dataclass(frozen=True)
class Net:
    """The [net] section. `batch` images make one optimiser step; Darknet computes `batch // subdivisions` of them at a time."""

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

    @property
    def parameters(self) -> int:
        """Floats in a .weights file of this network."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def region(self) -> Region | None:
        """The settings of the last layer, if it is a region layer."""
        settings = self.layers[-1].settings
        return settings if isinstance(settings, Region) else None
