"""YOLOv2 and Tiny-YOLOv2 (Redmon and Farhadi, "YOLO9000", section 2; Darknet f6afaab, cfg/yolov2-voc.cfg and
yolov2-tiny-voc.cfg).

Modules are registered in the order of the cfg files, which is the order of a .weights file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from detectors.anchors import YOLO_ANCHORS, YoloAnchors
from detectors.coders import YoloBoxCoder
from detectors.layers import DarknetReorg, init_darknet, scale_channels
from detectors.losses.region_loss import RegionLoss
from detectors.matching import ResponsibleCellMatcher
from detectors.models.backbones import Backbone, build_backbone, own_parts
from detectors.models.detector import Detector
from detectors.models.switches import PAPER, LayerSwitches
from detectors.postprocess import YOLO_SCORE_RULES, PostProcess
from detectors.structures import HeadOutputs, Loss, OutputLayer, builder
from detectors.targets import TargetEncoder
from detectors.wordtree.nodes import WordTree
from detectors.wordtree.tree_scores import TreeScores
from detectors.wordtree.tree_sources import load_tree


class RegionNeck(nn.Module):
    """Maps of a backbone -> the one map of RegionHead, of `channels`."""

    channels: tuple[int, ...]  # of the one map


class PassthroughNeck(RegionNeck):
    """YOLOv2's "fine-grained features": the stride-16 map, folded to stride 32, in front of the deep map;
    then one convolution.

    passthrough_channels: of the 1x1 convolution before the fold (64 in every cfg since March 2017). None
        leaves it out, as in the network of 2016, whose last convolution reads 4 * 512 + 1024 = 3072 channels.
    """

    def __init__(
        self,
        channels: Sequence[int],
        width: float = 1.0,
        passthrough_channels: int | None = 64,
        switches: LayerSwitches = PAPER,
    ):
        """channels: those of the fine and of the deep map of the backbone."""
        super().__init__()
        fine, deep = channels
        wide = scale_channels(1024, width)
        block = partial(switches.darknet_block, neck=True)
        self.pyramid = switches.pyramid(deep, block)
        self.deep = nn.Sequential(block(deep, wide, 3), block(wide, wide, 3))
        narrow = fine if passthrough_channels is None else scale_channels(passthrough_channels, width)
        self.passthrough = nn.Identity() if passthrough_channels is None else block(fine, narrow, 1)
        self.reorg = DarknetReorg(stride=2)
        self.fuse = block(4 * narrow + wide, wide, 3)
        self.channels = (wide,)

    def forward(self, features: tuple[Tensor, Tensor]) -> tuple[Tensor]:
        """(B, 512, H / 16, W / 16) and (B, 1024, H / 32, W / 32) -> (B, 1024, H / 32, W / 32)"""
        fine, deep = features
        folded = self.reorg(self.passthrough(fine))  # (B, 256, H / 32, W / 32)
        return (
            self.fuse(torch.cat([folded, self.deep(self.pyramid(deep))], 1)),
        )  # the cfg's [route] layers=-1,-4: the folded map first


class TinyNeck(RegionNeck):
    """The last 3x3 convolution of Tiny-YOLOv2: 1024 channels in the VOC cfg, 512 in the COCO cfg."""

    def __init__(
        self,
        channels: Sequence[int],
        width: float = 1.0,
        last_channels: int = 1024,
        switches: LayerSwitches = PAPER,
    ):
        super().__init__()
        self.channels = (scale_channels(last_channels, width),)
        block = partial(switches.darknet_block, neck=True)
        self.pyramid = switches.pyramid(channels[0], block)
        self.last = block(channels[0], self.channels[0], 3)

    def forward(self, features: tuple[Tensor]) -> tuple[Tensor]:
        """(B, 1024, rows, columns) -> (B, last_channels, rows, columns)"""
        return (self.last(self.pyramid(features[0])),)


def region_head_outputs(raw: Tensor) -> HeadOutputs:
    """(B, A, 5 + C) a region head's raw numbers (x, y, w, h, objectness, classes ...) -> HeadOutputs."""
    # split writes the gradient of `raw` once; slices would each write all of it, and add. In memory, offsets
    # are four planes (B, A): an inner axis of 4 is slow on a CPU.
    tx, ty, tw, th, objectness, class_logits = raw.split([1, 1, 1, 1, 1, raw.shape[-1] - 5], -1)
    planes = torch.stack([tx.sigmoid(), ty.sigmoid(), tw, th])  # (4, B, A, 1)
    return HeadOutputs(planes.squeeze(-1).movedim(0, -1), class_logits, objectness.squeeze(-1))


class RegionHead(nn.Module):
    """A linear 1x1 convolution to K * (5 + C) channels.

    Darknet's order: anchor * (5 + C) + (x, y, w, h, objectness, classes ...).
    """

    def __init__(
        self, in_channels: int, per_location: int, num_classes: int, switches: LayerSwitches = PAPER
    ):
        super().__init__()
        self.entries = 5 + num_classes
        self.dropout = switches.before_head()
        self.conv = nn.Conv2d(in_channels, per_location * self.entries, 1)
        self.output_layers = (OutputLayer("conv", 0, shared=5),)
        init_darknet(self.conv)

    def forward(self, features: tuple[Tensor]) -> HeadOutputs:
        """(B, channels, rows, columns) -> A = rows * columns * K, in that order.

        Only x and y go through a sigmoid.
        """
        raw = self.conv(self.dropout(features[0])).permute(0, 2, 3, 1)  # (B, rows, columns, K * (5 + C))
        return region_head_outputs(raw.reshape(raw.shape[0], -1, self.entries).float())


@builder("model")
def yolov2(
    *,
    num_classes: int,
    loss: Loss | None = None,
    backbone: str = "darknet19",
    width: float = 1.0,
    layers: Mapping[str, Any] | None = None,
    anchors: str | Sequence[Sequence[float]] = "voc",
    passthrough_channels: int | None = 64,
    class_activation: str = "softmax",
    pixel_mean: Sequence[float] | None = None,
    pixel_std: Sequence[float] | None = None,
    tree: str | Mapping[str, Any] | None = None,
    tree_rule: str = "as_meant",
    tree_threshold: float = 0.5,
    detection_map: str | Sequence[int] | None = None,
    score_threshold: float = 0.005,
    nms_iou: float = 0.45,
    nms: str = "hard",
    max_detections: int | None = None,
) -> Detector:
    """YOLOv2 on Darknet-19, stride 32.

    loss: RegionLoss(class_activation=class_activation) by default.
    backbone: see build_backbone; its maps of strides 16 and 32 are used.
    width: multiplies every channel count but the head's.
    layers: changes of layers for ablations, see LayerSwitches.
    anchors: a name in YOLO_ANCHORS or pairs (width, height) in cells.
    passthrough_channels: None is the network of 2016, see PassthroughNeck.
    class_activation: "softmax", or "logistic" for Darknet's softmax=0; the loss must use the same.
    pixel_mean, pixel_std: three numbers for RGB of 0..255; None: what the backbone expects.
    tree: of the classes, see load_tree; the loss must have the same. None: they are flat.
    tree_rule, tree_threshold, detection_map: see TreeScores; without a tree they do nothing.
    score_threshold, nms_iou, nms, max_detections: see PostProcess.

    >>> import torch
    >>> from detectors import yolov2
    >>> detector = yolov2(num_classes=20, width=0.125).eval()
    >>> outputs = detector(torch.zeros(1, 3, 416, 416))
    >>> tuple(outputs.offsets.shape), tuple(outputs.class_logits.shape)
    ((1, 845, 4), (1, 845, 20))
    """
    switches = LayerSwitches.of(layers)
    features = build_backbone(backbone, strides=(16, 32), width=width, switches=switches)
    return wired_region_detector(
        backbone=features,
        neck=PassthroughNeck(features.channels, width, passthrough_channels, switches),
        anchors=yolo_anchors(anchors, 32),
        num_classes=num_classes,
        switches=switches,
        loss=loss,
        class_activation=class_activation,
        pixel_mean=pixel_mean,
        pixel_std=pixel_std,
        tree=tree,
        tree_rule=tree_rule,
        tree_threshold=tree_threshold,
        detection_map=detection_map,
        score_threshold=score_threshold,
        nms_iou=nms_iou,
        nms=nms,
        max_detections=max_detections,
    )


@builder("model")
def yolov2_tiny(
    *,
    num_classes: int,
    loss: Loss | None = None,
    backbone: str = "tiny_darknet",
    width: float = 1.0,
    layers: Mapping[str, Any] | None = None,
    anchors: str | Sequence[Sequence[float]] = "tiny_voc",
    last_channels: int = 1024,
    stride: int = 32,
    class_activation: str = "softmax",
    pixel_mean: Sequence[float] | None = None,
    pixel_std: Sequence[float] | None = None,
    tree: str | Mapping[str, Any] | None = None,
    tree_rule: str = "as_meant",
    tree_threshold: float = 0.5,
    detection_map: str | Sequence[int] | None = None,
    score_threshold: float = 0.005,
    nms_iou: float = 0.45,
    nms: str = "hard",
    max_detections: int | None = None,
) -> Detector:
    """Tiny-YOLOv2. Keywords that are not listed here are those of yolov2.

    last_channels: 1024 (VOC's cfg) or 512 (COCO's cfg, whose anchors are "coco").
    stride: of the backbone's map. 16 is for small inputs and not Darknet's, see TinyDarknet; anchors are then
        in cells of 16 pixels.

    >>> from detectors import yolov2_tiny
    >>> yolov2_tiny(num_classes=3, width=0.25, stride=16).grid((160, 160)).num_anchors
    500
    """
    switches = LayerSwitches.of(layers)
    features = build_backbone(backbone, strides=(stride,), width=width, switches=switches)
    return wired_region_detector(
        backbone=features,
        neck=TinyNeck(features.channels, width, last_channels, switches),
        anchors=yolo_anchors(anchors, stride),
        num_classes=num_classes,
        switches=switches,
        loss=loss,
        class_activation=class_activation,
        pixel_mean=pixel_mean,
        pixel_std=pixel_std,
        tree=tree,
        tree_rule=tree_rule,
        tree_threshold=tree_threshold,
        detection_map=detection_map,
        score_threshold=score_threshold,
        nms_iou=nms_iou,
        nms=nms,
        max_detections=max_detections,
    )


def yolo_anchors(anchors: str | Sequence[Sequence[float]], stride: int) -> YoloAnchors:
    """A name in YOLO_ANCHORS or a list of shapes in cells."""
    if isinstance(anchors, str) and anchors not in YOLO_ANCHORS:
        names = ", ".join(YOLO_ANCHORS)
        raise ValueError(
            f"anchors={anchors!r}: choose one of {names}, or give pairs (width, height) in cells"
        )
    return YoloAnchors(YOLO_ANCHORS[anchors] if isinstance(anchors, str) else anchors, stride)


def wired_region_detector(
    *,
    backbone: Backbone,
    neck: RegionNeck,
    anchors: YoloAnchors,
    num_classes: int,
    switches: LayerSwitches,
    loss: Loss | None,
    class_activation: str,
    pixel_mean: Sequence[float] | None,
    pixel_std: Sequence[float] | None,
    tree: str | Mapping[str, Any] | None,
    tree_rule: str,
    tree_threshold: float,
    detection_map: str | Sequence[int] | None,
    score_threshold: float,
    nms_iou: float,
    nms: str,
    max_detections: int | None,
) -> Detector:
    """Wires a backbone and a neck to the region head."""
    if num_classes < 1:
        raise ValueError(
            f"num_classes={num_classes}: a detector needs at least one class (background does not count)"
        )
    if class_activation not in YOLO_SCORE_RULES:
        names = ", ".join(YOLO_SCORE_RULES)
        raise ValueError(f"class_activation={class_activation!r}: choose one of {names}")
    rule = YOLO_SCORE_RULES[class_activation]
    if tree is not None:
        rule = tree_score_rule(
            load_tree(tree),
            num_classes,
            rule=tree_rule,
            threshold=tree_threshold,
            detection_map=detection_map,
            least=score_threshold,
        )
        loss = loss or RegionLoss(tree=tree)
    coder = YoloBoxCoder()
    head = RegionHead(neck.channels[0], anchors.per_location[0], num_classes, switches)
    switches.initialize(*own_parts(backbone), neck, head)
    return Detector(
        backbone=backbone,
        neck=neck,
        head=head,
        anchors=anchors,
        encoder=TargetEncoder(ResponsibleCellMatcher(), coder),
        loss=loss or RegionLoss(class_activation=class_activation),
        postprocess=PostProcess(
            coder=coder,
            score_rule=rule,
            score_threshold=score_threshold,
            nms_iou=nms_iou,
            nms=nms,
            max_detections=max_detections,
        ),
        pixel_mean=backbone.pixel_mean if pixel_mean is None else pixel_mean,
        pixel_std=backbone.pixel_std if pixel_std is None else pixel_std,
    )


def tree_score_rule(tree: WordTree, num_classes: int, **settings: Any) -> TreeScores:
    """TreeScores(tree, **settings). ValueError unless the tree has num_classes nodes."""
    if num_classes != len(tree):
        raise ValueError(f"num_classes={num_classes}: the tree has {len(tree)} nodes, one for each class")
    return TreeScores(tree, **settings)
