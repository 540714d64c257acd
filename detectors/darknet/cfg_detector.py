"""A detector built from any Darknet cfg of the YOLOv2 family, for networks without a builder in models/.

Its checkpoints contain the cfg.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from detectors.anchors import YoloAnchors
from detectors.coders import YoloBoxCoder
from detectors.darknet.cfg import read_cfg
from detectors.darknet.network import DarknetNetwork
from detectors.darknet.region import cfg_region_loss, head_outputs, region_matcher, region_postprocess
from detectors.darknet.sections import Convolutional, DarknetCfg, Region
from detectors.models.detector import Detector
from detectors.structures import HeadOutputs, Loss, OutputLayer, builder
from detectors.targets import TargetEncoder


class RawNetwork(nn.Module):
    """All layers of a cfg except the last one, [region]."""

    def __init__(self, config: DarknetCfg):
        super().__init__()
        self.network = DarknetNetwork(config)
        self.output_layers = (OutputLayer(f"network.layers.{len(config.layers) - 2}.conv", 0, shared=5),)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 -> (B, n * (5 + C), rows, columns)"""
        return self.network.raw(images)


class RegionView(nn.Module):
    """Rearranges a region layer's input from Darknet's layout into HeadOutputs; has no parameters."""

    def __init__(self, region: Region):
        super().__init__()
        self.region = region

    def forward(self, raw: Tensor) -> HeadOutputs:
        """(B, n * (5 + C), rows, columns) -> HeadOutputs, A = rows * columns * n, in this order"""
        return head_outputs(raw.float(), self.region)


@builder("model")
def darknet_detector(
    *,
    num_classes: int,
    cfg: str,
    contents: Mapping[str, str] | None = None,
    loss: Loss | None = None,
    score_threshold: float = 0.005,
    nms_iou: float = 0.45,
    tree_rule: str = "darknet",
    tree_threshold: float = 0.5,
) -> Detector:
    """cfg: the text of the file. num_classes: if it is not the cfg's, the last two sections are adapted.

    contents: of the trees and maps that the cfg names, see read_cfg.
    tree_rule, tree_threshold: see TreeScores; without a tree they do nothing.
    loss: by default built from the [region] section, like matcher and anchors.
    ValueError for a cfg that does not end in a convolution and a region layer, or whose cells are not squares
    of whole pixels.
    """
    config = with_classes(read_cfg("cfg", cfg, contents), num_classes)
    region = config.region
    assert region is not None
    return Detector(
        backbone=RawNetwork(config),
        neck=nn.Identity(),
        head=RegionView(region),
        anchors=YoloAnchors(region.anchors, stride=stride_of(config)),
        encoder=TargetEncoder(region_matcher(region), YoloBoxCoder()),
        loss=loss or cfg_region_loss(region),
        postprocess=region_postprocess(
            region,
            score_threshold=score_threshold,
            nms_iou=nms_iou,
            rule=tree_rule,
            threshold=tree_threshold,
        ),
        pixel_mean=(0.0, 0.0, 0.0),
        pixel_std=(255.0, 255.0, 255.0),
    )


def with_classes(config: DarknetCfg, num_classes: int) -> DarknetCfg:
    """The same network for another number of classes.

    ValueError if it does not end in a convolution and a region layer, or does not take images of 3 channels.
    """
    region = config.region
    if config.net.channels != 3:
        raise ValueError(f"{config.path}: channels={config.net.channels} in [net], but images have 3")
    last = config.layers[-2].settings if len(config.layers) > 1 else None
    if region is None or not isinstance(last, Convolutional):
        kinds = ", ".join(f"[{layer.kind}]" for layer in config.layers[-2:])
        raise ValueError(
            f"{config.path}: a detector ends in [convolutional] and [region]; this network ends in {kinds}"
        )
    if num_classes == region.classes:
        return config
    if region.tree is not None:
        raise ValueError(
            f"{config.path}: its tree has {len(region.tree)} classes, not {num_classes}; "
            "without tree= and map= in [region] the number can be chosen"
        )
    *layers, convolution, region_layer = config.layers
    _, rows, columns = convolution.output
    filters = len(region.anchors) * (5 + num_classes)
    shape = (filters, rows, columns)
    convolution = replace(
        convolution,
        settings=replace(last, filters=filters),
        output=shape,
        parameters=convolution.parameters // last.filters * filters,
    )
    region_settings = replace(region, classes=num_classes)
    region_layer = replace(region_layer, settings=region_settings, input=shape, output=shape)
    return replace(config, layers=(*layers, convolution, region_layer))


def stride_of(config: DarknetCfg) -> int:
    """Pixels per cell. ValueError unless it is a whole number and the same in both directions."""
    _, rows, columns = config.layers[-1].input
    height = config.net.height
    width = config.net.width
    if height % rows or width % columns or height // rows != width // columns:
        raise ValueError(
            f"{config.path}: with {height} x {width} pixels and {rows} x {columns} cells, a cell is not a "
            "square of whole pixels; set height and width of [net] to multiples of 32"
        )
    return height // rows
