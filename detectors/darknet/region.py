"""Darknet's [region] section: its layout, and the loss, matcher and post-processing for its settings.

Darknet's channels are anchor * (5 + C) + (x, y, w, h, objectness, classes ...), and its boxes are ordered by
(anchor, row, column). Everything else in this code base orders them by (row, column, anchor).
"""

from __future__ import annotations

import torch
from torch import Tensor

from detectors.anchors import YoloAnchors
from detectors.coders import YoloBoxCoder
from detectors.darknet.sections import Region
from detectors.losses.region_loss import RegionLoss
from detectors.matching import ResponsibleCellMatcher
from detectors.models.yolov2 import region_head_outputs
from detectors.postprocess import YOLO_SCORE_RULES, PostProcess
from detectors.structures import Detections, HeadOutputs


def activate(raw: Tensor, settings: Region) -> Tensor:
    """(B, n * (5 + C), rows, columns) -> the same shape: the output of Darknet's layer.

    x, y, objectness and classes are activated, width and height are not.
    """
    entries = raw.unflatten(1, (len(settings.anchors), 5 + settings.classes))  # (B, n, 5 + C, rows, columns)
    xy, wh, objectness, classes = entries.split((2, 2, 1, settings.classes), 2)
    classes = classes.softmax(2) if settings.softmax else classes.sigmoid()
    return torch.cat([xy.sigmoid(), wh, objectness.sigmoid(), classes], 2).flatten(1, 2)


def head_outputs(raw: Tensor, settings: Region) -> HeadOutputs:
    """(B, n * (5 + C), rows, columns) -> HeadOutputs, A = rows * columns * n, as models.yolov2.RegionHead."""
    entries = raw.unflatten(1, (len(settings.anchors), 5 + settings.classes))  # (B, n, 5 + C, rows, columns)
    return region_head_outputs(entries.permute(0, 3, 4, 1, 2).flatten(1, 3))


def darknet_index(anchor: Tensor, grid: tuple[int, int], num_anchors: int) -> Tensor:
    """Our index by (row, column, anchor) -> Darknet's by (anchor, row, column). grid: (rows, columns)."""
    cell = anchor // num_anchors
    shape = anchor % num_anchors
    return shape * (grid[0] * grid[1]) + cell


def cfg_region_loss(settings: Region) -> RegionLoss:
    return RegionLoss(**region_loss_settings(settings))


def region_loss_settings(settings: Region) -> dict[str, float | str]:
    """RegionLoss's keyword arguments for this section."""
    return {
        "coord_scale": settings.coord_scale,
        "object_scale": settings.object_scale,
        "noobject_scale": settings.noobject_scale,
        "class_scale": settings.class_scale,
        "ignore_iou": settings.thresh,
        "objectness_target": "iou" if settings.rescore else "one",
        "class_activation": _class_activation(settings),
    }


def _class_activation(settings: Region) -> str:
    return "softmax" if settings.softmax else "logistic"


def region_matcher(settings: Region) -> ResponsibleCellMatcher:
    return ResponsibleCellMatcher(use_predicted_shapes=not settings.bias_match)


def region_postprocess(settings: Region, *, score_threshold: float, nms_iou: float) -> PostProcess:
    """Darknet's get_region_detections and do_nms_sort."""
    rule = YOLO_SCORE_RULES[_class_activation(settings)]
    return PostProcess(
        coder=YoloBoxCoder(), score_rule=rule, score_threshold=score_threshold, nms_iou=nms_iou
    )


def region_detections(
    raw: Tensor, settings: Region, *, size: tuple[int, int], score_threshold: float, nms_iou: float
) -> Detections:
    """(B, n * (5 + C), rows, columns) -> detections in input pixels, not clipped. size: (height, width).

    Boxes are decoded in cells, because the input need not be a multiple of the grid: 100 x 76 pixels give
    4 x 3 cells.
    """
    rows, columns = raw.shape[-2:]
    grid = YoloAnchors(settings.anchors, stride=1)((rows, columns)).to(raw.device)
    postprocess = region_postprocess(settings, score_threshold=score_threshold, nms_iou=nms_iou)
    detections = postprocess(head_outputs(raw, settings), grid)
    cell_size = detections.boxes.new_tensor([size[1] / columns, size[0] / rows] * 2)  # pixels
    boxes = detections.boxes * cell_size
    return Detections(detections.image, boxes, detections.scores, detections.labels)
