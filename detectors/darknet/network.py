"""A network built from a Darknet .cfg, layer by layer, with Darknet's arithmetic and layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors.darknet.cfg import read_cfg
from detectors.darknet.region import activate, head_outputs, region_detections
from detectors.darknet.sections import (
    AvgPool,
    Convolutional,
    Cost,
    DarknetCfg,
    Dropout,
    Layer,
    MaxPool,
    Region,
    Reorg,
    Route,
    Softmax,
)
from detectors.darknet.weights import LoadReport, check_weights, load_weights
from detectors.layers import DarknetMaxPool, DarknetReorg, init_darknet
from detectors.structures import Detections, HeadOutputs
from detectors.wordtree.tree_softmax import TreeSoftmax

ACTIVATE: dict[str, Callable[[Tensor], Tensor]] = {
    "leaky": lambda x: F.leaky_relu(x, 0.1),
    "linear": lambda x: x,
    "relu": F.relu,
    "logistic": torch.sigmoid,
}


class CpuBatchNorm(nn.BatchNorm2d):
    """Batch norm of Darknet's CPU build, (x - m) / (sqrt(v) + 1e-6). Evaluation only: it cannot train."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape"""
        if self.training:
            raise ValueError(
                "batch_norm='cpu' is for evaluation only, since Darknet's CPU build cannot train; "
                "choose batch_norm='gpu'"
            )
        assert self.running_mean is not None
        assert self.running_var is not None
        scale = self.weight / (self.running_var.sqrt() + 1e-6)
        return (x - self.running_mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]


# The only difference between Darknet's two builds. GPU: (x - m) / sqrt(v + 1e-5), running statistics
# .99 old + .01 new, as layers.ConvBNLeaky.
BATCH_NORMS = {"gpu": lambda channels: nn.BatchNorm2d(channels, eps=1e-5, momentum=0.01), "cpu": CpuBatchNorm}


class ConvolutionLayer(nn.Module):
    """[convolutional]: convolution, batch norm or bias, activation."""

    def __init__(self, channels: int, settings: Convolutional, batch_norm: str):
        super().__init__()
        self.activation = settings.activation
        self.conv = nn.Conv2d(
            channels,
            settings.filters,
            settings.size,
            settings.stride,
            settings.padding,
            groups=settings.groups,
            bias=not settings.batch_normalize,
        )
        self.norm = BATCH_NORMS[batch_norm](settings.filters) if settings.batch_normalize else None
        init_darknet(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, filters, H', W')"""
        x = self.conv(x)
        return ACTIVATE[self.activation](x if self.norm is None else self.norm(x))


class AvgPoolLayer(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 1, 1)"""
        return x.mean((2, 3), keepdim=True)


class SoftmaxLayer(nn.Module):
    """[softmax]: an image's numbers are split into `groups` equal parts, or into the groups of a tree, and
    each part sums to 1.
    """

    def __init__(self, settings: Softmax):
        super().__init__()
        self.settings = settings
        self.tree = None if settings.tree is None else TreeSoftmax(settings.tree)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C * H * W)"""
        if self.tree is not None:
            return self.tree.log_softmax(x.flatten(1) / self.settings.temperature).exp()
        parts = x.reshape(len(x), self.settings.groups, -1)
        return (parts / self.settings.temperature).softmax(-1).flatten(1)


class RegionLayer(nn.Module):
    def __init__(self, settings: Region):
        super().__init__()
        self.settings = settings

    def forward(self, x: Tensor) -> Tensor:
        """(B, n * (5 + C), rows, columns) raw -> the same shape, activated"""
        return activate(x, self.settings)


class DarknetNetwork(nn.Module):
    """The layers of a cfg. Takes any input size that fits the layers, not only the cfg's."""

    def __init__(self, config: DarknetCfg | Path | str, *, batch_norm: str = "gpu"):
        """config: a result of read_cfg, or the path of a cfg file, which raises read_cfg's errors.

        batch_norm: the arithmetic of Darknet's "gpu" build, in which all weights are trained, or of its "cpu"
        build (evaluation only). A trained network's raw outputs differ by about 1e-3 between the two.
        """
        super().__init__()
        if batch_norm not in BATCH_NORMS:
            raise ValueError(f"batch_norm={batch_norm!r}: choose 'gpu' or 'cpu', Darknet's two builds")
        self.config = config if isinstance(config, DarknetCfg) else read_cfg(config)
        self.layers = nn.ModuleList(_module(layer, batch_norm) for layer in self.config.layers)
        # `seen` in the header of a .weights file.
        self.register_buffer("images_seen", torch.zeros((), dtype=torch.int64))
        routes = [layer.settings for layer in self.config.layers if isinstance(layer.settings, Route)]
        self._route_sources = {n for route in routes for n in route.layers}

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, channels, H, W) RGB in 0..1 -> the last layer's output."""
        return self._run(images, self._route_sources)[0]

    def outputs(self, images: Tensor) -> list[Tensor]:
        """Like forward, but returns the output of every layer, in the order of the cfg."""
        _, outputs = self._run(images, set(range(len(self.layers))))
        return list(outputs.values())

    def raw(self, images: Tensor) -> Tensor:
        """The region layer's input, (B, n * (5 + C), rows, columns). ValueError if there is no such layer."""
        _region(self.config)
        return self._run(images, self._route_sources, stop=len(self.layers) - 1)[0]

    def head_outputs(self, images: Tensor) -> HeadOutputs:
        """The output format of our detectors. ValueError if the network has no region layer."""
        return head_outputs(self.raw(images), _region(self.config))

    @torch.no_grad()
    def detections(
        self, images: Tensor, *, score_threshold: float, nms_iou: float, **tree_scores: Any
    ) -> Detections:
        """Detections in pixels of `images`, not clipped; their field `image` is the position in the batch.

        tree_scores: see region_postprocess.

        ValueError if the network has no region layer.
        """
        return region_detections(
            self.raw(images),
            _region(self.config),
            size=(images.shape[-2], images.shape[-1]),
            score_threshold=score_threshold,
            nms_iou=nms_iou,
            **tree_scores,
        )

    def _run(
        self, images: Tensor, keep: set[int], stop: int | None = None
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """The output of the last of the first `stop` layers; and by number its own and those in `keep`."""
        channels = self.config.net.channels
        if images.ndim != 4 or images.shape[1] != channels:
            raise ValueError(
                f"images of shape {tuple(images.shape)}: {self.config.path} takes (B, {channels}, H, W), "
                "RGB from 0 to 1"
            )
        outputs: dict[int, Tensor] = {}
        x = images
        for n, (layer, module) in enumerate(zip(self.config.layers[:stop], self.layers, strict=False)):
            if isinstance(layer.settings, Route):
                x = _join([outputs[i] for i in layer.settings.layers], layer)
            else:
                x = module(x)
            if n and n - 1 not in keep:
                del outputs[n - 1]  # frees the memory
            outputs[n] = x
        return x, outputs


def read_network(
    cfg: Path | str, weights: Path | str, *, batch_norm: str = "gpu"
) -> tuple[DarknetNetwork, LoadReport]:
    """A network with its weights, in evaluation mode, and a report of what was loaded.

    The two files are checked against each other before the network is allocated.
    FileNotFoundError, ValueError: as read_cfg and load_weights.
    """
    config = read_cfg(cfg)
    with torch.device("meta"):
        check_weights(DarknetNetwork(config), weights)
    network = DarknetNetwork(config, batch_norm=batch_norm)
    return network.eval(), load_weights(network, weights)


def _region(config: DarknetCfg) -> Region:
    if config.region is None:
        raise ValueError(
            f"{config.path}: the last layer is [{config.layers[-1].kind}], not [region], "
            "so this network is not a detector"
        )
    return config.region


def _join(sources: list[Tensor], layer: Layer) -> Tensor:
    if len({source.shape[2:] for source in sources}) > 1:
        sizes = [tuple(source.shape[2:]) for source in sources]
        raise ValueError(
            f"layer {layer.index} [route]: outputs of sizes {sizes} cannot be joined; "
            "use images whose sides are multiples of 32"
        )
    return torch.cat(sources, 1)


def _module(layer: Layer, batch_norm: str) -> nn.Module:
    match layer.settings:
        case Convolutional():
            return ConvolutionLayer(layer.input[0], layer.settings, batch_norm)
        case MaxPool(size, stride, padding):
            return DarknetMaxPool(stride, size=size, padding=padding)
        case Reorg(stride):
            return DarknetReorg(stride)
        case AvgPool():
            return AvgPoolLayer()
        case Softmax():
            return SoftmaxLayer(layer.settings)
        case Dropout(probability):
            return nn.Dropout(probability)
        case Region():
            return RegionLayer(layer.settings)
        case Route() | Cost():
            return nn.Identity()
    raise AssertionError(layer)
