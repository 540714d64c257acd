"""YOLO9000 (Redmon and Farhadi, section 4; Darknet f6afaab, cfg/yolo9000.cfg): 9,418 classes in a tree.

Modules are registered in the order of the cfg, which is the order of a .weights file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from detectors.models.backbones import build_backbone
from detectors.models.detector import Detector
from detectors.models.switches import LayerSwitches
from detectors.models.yolov2 import RegionNeck, wired_region_detector, yolo_anchors
from detectors.structures import Loss, builder


class NoNeck(RegionNeck):
    """The head reads the backbone's map as it is."""

    def __init__(self, channels: Sequence[int]):
        super().__init__()
        self.channels = tuple(channels)

    def forward(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """(B, 1024, H / 32, W / 32) -> the same"""
        return features


@builder("model")
def yolo9000(
    *,
    num_classes: int,
    loss: Loss | None = None,
    backbone: str = "darknet19",
    width: float = 1.0,
    layers: Mapping[str, Any] | None = None,
    anchors: str | Sequence[Sequence[float]] = "yolo9000",
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
    """Darknet-19 and a head of 3 anchors: no passthrough, no convolutions of 3x3 after the body.

    The keywords are those of yolov2. With 9,418 classes it has 48,807,501 numbers in a .weights file.

    >>> from detectors.models.yolo9000 import yolo9000
    >>> detector = yolo9000(num_classes=3, tree={"animal": ["cat", "dog"]}, width=0.125)
    >>> detector.grid((544, 544)).num_anchors
    867
    """
    switches = LayerSwitches.of(layers)
    features = build_backbone(backbone, strides=(32,), width=width, switches=switches)
    return wired_region_detector(
        backbone=features,
        neck=NoNeck(features.channels),
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
