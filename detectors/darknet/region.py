"""Darknet's [region] section in our terms: its layout, and the loss, matcher and anchors that its settings stand for.

Darknet lays a box out as channel = anchor * (5 + C) + (x, y, w, h, objectness, classes ...), and counts boxes by (anchor, row, column);
everything else in this code base has (row, column, anchor).
"""

from __future__ import annotations

import torch
from torch import Tensor

from detectors.anchors import YoloAnchors
from detectors.coders import YoloBoxCoder
from detectors.darknet.sections import Region
from detectors.losses import RegionLoss
from detectors.matching import ResponsibleCellMatcher
from detectors.postprocess import PostProcess, yolo_logistic_scores, yolo_scores
from detectors.structures import Detections, HeadOutputs


def activate(raw: Tensor, settings: Region) -> Tensor:
    """(B, n * (5 + C), rows, columns) -> the same shape: what Darknet's layer gives. Widths and heights stay as they are."""
    entries = raw.unflatten(1, (len(settings.anchors), 5 + settings.classes))  # (B, n, 5 + C, rows, columns)
    place, shape, objectness, classes = entries.split((2, 2, 1, settings.classes), 2)
    classes = classes.softmax(2) if settings.softmax else classes.sigmoid()
    return torch.cat([place.sigmoid(), shape, objectness.sigmoid(), classes], 2).flatten(1, 2)


def head_outputs(raw: Tensor, settings: Region) -> HeadOutputs:
    """(B, n * (5 + C), rows, columns) -> A = rows * columns * n, in that order; as models.yolov2.RegionHead."""
    entries = (
        raw.unflatten(1, (len(settings.anchors), 5 + settings.classes)).permute(0, 3, 4, 1, 2).flatten(1, 3)
    )  # (B, A, 5 + C)
    offsets = torch.cat([entries[..., :2].sigmoid(), entries[..., 2:4]], -1)
    return HeadOutputs(offsets, class_logits=entries[..., 5:], objectness=entries[..., 4])


def darknet_index(anchor: Tensor, grid: tuple[int, int], num_anchors: int) -> Tensor:
    """Our number of an anchor, (row, column, anchor), -> Darknet's number of a box, (anchor, row, column). grid: (rows, columns)."""
    cell, shape = anchor // num_anchors, anchor % num_anchors
    return shape * (grid[0] * grid[1]) + cell


def region_loss(settings: Region) -> RegionLoss:
    return RegionLoss(**region_loss_settings(settings))


def region_loss_settings(settings: Region) -> dict[str, float | str]:
    """Keywords of RegionLoss that the section sets."""
    return {
        "coord_scale": settings.coord_scale,
        "object_scale": settings.object_scale,
        "noobject_scale": settings.noobject_scale,
        "class_scale": settings.class_scale,
        "ignore_iou": settings.thresh,
        "objectness_target": "iou" if settings.rescore else "one",
        "class_activation": "softmax" if settings.softmax else "logistic",
    }


def region_matcher(settings: Region) -> ResponsibleCellMatcher:
    return ResponsibleCellMatcher(use_predicted_shapes=not settings.bias_match)


def region_postprocess(settings: Region, *, score_threshold: float, nms_iou: float) -> PostProcess:
    """get_region_detections and do_nms_sort."""
    rule = yolo_scores if settings.softmax else yolo_logistic_scores
    return PostProcess(
        coder=YoloBoxCoder(), score_rule=rule, score_threshold=score_threshold, nms_iou=nms_iou
    )


def region_detections(
    raw: Tensor, settings: Region, *, size: tuple[int, int], score_threshold: float, nms_iou: float
) -> Detections:
    """(B, n * (5 + C), rows, columns) -> detections in pixels of an input of `size` (height, width), not clipped.

    Decoded in cells: Darknet's grid need not divide the input (100 x 76 pixels give 4 x 3 cells).
    """
    rows, columns = raw.shape[-2:]
    grid = YoloAnchors(settings.anchors, stride=1)((rows, columns)).to(raw.device)
    found = region_postprocess(settings, score_threshold=score_threshold, nms_iou=nms_iou)(
        head_outputs(raw, settings), grid
    )
    pixels = found.boxes.new_tensor([size[1] / columns, size[0] / rows] * 2)  # per cell
    return Detections(found.image, found.boxes * pixels, found.scores, found.labels)
