"""A detector of any Darknet cfg of the YOLOv2 family, for networks that models/ has no builder of: checkpoints then hold the cfg."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from detectors.anchors import YoloAnchors
from detectors.coders import YoloBoxCoder
from detectors.darknet.cfg import read_cfg
from detectors.darknet.network import DarknetNetwork
from detectors.darknet.region import head_outputs, region_loss, region_matcher, region_postprocess
from detectors.darknet.sections import Convolutional, DarknetCfg, Region
from detectors.models.detector import Detector
from detectors.structures import HeadOutputs, Loss
from detectors.targets import TargetEncoder


class RawNetwork(nn.Module):
    """The layers of a cfg but the last, [region]."""

    def __init__(self, config: DarknetCfg):
        super().__init__()
        self.network = DarknetNetwork(config)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 -> (B, n * (5 + C), rows, columns)"""
        return self.network.raw(images)


class RegionView(nn.Module):
    """Darknet's layout of a region layer's input as HeadOutputs; nothing is learned here."""

    def __init__(self, region: Region):
        super().__init__()
        self.region = region

    def forward(self, raw: Tensor) -> HeadOutputs:
        """(B, n * (5 + C), rows, columns) -> A = rows * columns * n, in that order"""
        return head_outputs(raw.float(), self.region)


def darknet_detector(
    *,
    num_classes: int,
    cfg: str,
    loss: Loss | None = None,
    score_threshold: float = 0.005,
    nms_iou: float = 0.45,
) -> Detector:
    """cfg: the text of the file. num_classes: another number than the cfg's changes its last two sections, as one would by hand.

    loss: by default with the numbers of the [region] section, where matcher and anchors come from as well.
    ValueError for a cfg that does not end in a linear convolution and a region layer, or whose grid does not divide its input.
    """
    config = with_classes(read_cfg("cfg", cfg), num_classes)
    return Detector(
        backbone=RawNetwork(config),
        neck=nn.Identity(),
        head=RegionView(config.region),
        anchors=YoloAnchors(config.region.anchors, stride=stride_of(config)),
        encoder=TargetEncoder(region_matcher(config.region), YoloBoxCoder()),
        loss=loss or region_loss(config.region),
        postprocess=region_postprocess(config.region, score_threshold=score_threshold, nms_iou=nms_iou),
        pixel_mean=(0.0, 0.0, 0.0),
        pixel_std=(255.0, 255.0, 255.0),
    )


def with_classes(config: DarknetCfg, num_classes: int) -> DarknetCfg:
    """The same network for another number of classes.

    ValueError if its last layers are not a convolution and a region layer, or its images are no RGB ones.
    """
    region = config.region
    if config.net.channels != 3:
        raise ValueError(f"{config.path}: channels={config.net.channels} in [net]; images have 3")
    if region is None or len(config.layers) < 2 or not isinstance(config.layers[-2].settings, Convolutional):
        kinds = ", ".join(f"[{layer.kind}]" for layer in config.layers[-2:])
        raise ValueError(
            f"{config.path}: a detector's last layers are [convolutional] and [region]; this network ends in {kinds}"
        )
    if num_classes == region.classes:
        return config
    *layers, last, view = config.layers
    before, (_, rows, columns) = last.settings.filters, last.output
    shape = (len(region.anchors) * (5 + num_classes), rows, columns)
    last = replace(
        last,
        settings=replace(last.settings, filters=shape[0]),
        output=shape,
        parameters=last.parameters // before * shape[0],
    )
    view = replace(view, settings=replace(region, classes=num_classes), input=shape, output=shape)
    return replace(config, layers=(*layers, last, view))


def stride_of(config: DarknetCfg) -> int:
    """Pixels per cell. ValueError unless it is a whole number, the same in both directions."""
    _, rows, columns = config.layers[-1].input
    height, width = config.net.height, config.net.width
    if height % rows or width % columns or height // rows != width // columns:
        raise ValueError(
            f"{config.path}: {height} x {width} pixels give {rows} x {columns} cells, which are no squares of whole pixels; "
            "set height and width of [net] to multiples of 32"
        )
    return height // rows
