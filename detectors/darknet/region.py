"""Darknet's [region] section: its layout, and the loss, matcher and post-processing for its settings.

Darknet's channels are anchor * (5 + C) + (x, y, w, h, objectness, classes ...), and its boxes are ordered by
(anchor, row, column). Everything else in this code base orders them by (row, column, anchor).
"""

from __future__ import annotations

from typing import Any

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
from detectors.wordtree.tree_files import tree_text
from detectors.wordtree.tree_scores import TreeScores
from detectors.wordtree.tree_softmax import TreeSoftmax


def activate(raw: Tensor, settings: Region) -> Tensor:
    """(B, n * (5 + C), rows, columns) -> the same shape: the output of Darknet's layer.

    x, y, objectness and classes are activated, width and height are not.
    """
    entries = raw.unflatten(1, (len(settings.anchors), 5 + settings.classes))  # (B, n, 5 + C, rows, columns)
    xy, wh, objectness, classes = entries.split((2, 2, 1, settings.classes), 2)
    classes = _class_probabilities(classes, settings)
    return torch.cat([xy.sigmoid(), wh, objectness.sigmoid(), classes], 2).flatten(1, 2)


def _class_probabilities(logits: Tensor, settings: Region) -> Tensor:
    """(B, n, C, rows, columns); with a tree Pr(node | parent), whatever `softmax` is."""
    if settings.tree is not None:
        softmax = TreeSoftmax(settings.tree).to(logits.device)
        return softmax.log_softmax(logits.movedim(2, -1)).exp().movedim(-1, 2)
    return logits.softmax(2) if settings.softmax else logits.sigmoid()


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


def region_loss_settings(settings: Region) -> dict[str, Any]:
    """RegionLoss's keyword arguments for this section."""
    of_tree = {}
    if settings.tree is not None:
        of_tree = {
            "tree": tree_text(settings.tree),
            "label_map": None if settings.map is None else list(settings.map),
            "class_only_objectness": "darknet",
        }
    return {
        "coord_scale": settings.coord_scale,
        "object_scale": settings.object_scale,
        "noobject_scale": settings.noobject_scale,
        "class_scale": settings.class_scale,
        "ignore_iou": settings.thresh,
        "objectness_target": "iou" if settings.rescore else "one",
        "class_activation": _class_activation(settings),
        **of_tree,
    }


def _class_activation(settings: Region) -> str:
    """Darknet does not read `softmax` if there is a tree."""
    return "softmax" if settings.softmax or settings.tree is not None else "logistic"


def region_matcher(settings: Region) -> ResponsibleCellMatcher:
    return ResponsibleCellMatcher(use_predicted_shapes=not settings.bias_match)


def region_postprocess(
    settings: Region, *, score_threshold: float, nms_iou: float, **tree_scores: Any
) -> PostProcess:
    """Darknet's get_region_detections and do_nms_sort.

    tree_scores: of TreeScores, if there is a tree; by default Darknet's rule.
    """
    rule = YOLO_SCORE_RULES[_class_activation(settings)]
    if settings.tree is not None:
        rule = TreeScores(settings.tree, least=score_threshold, **{"rule": "darknet", **tree_scores})
    return PostProcess(
        coder=YoloBoxCoder(), score_rule=rule, score_threshold=score_threshold, nms_iou=nms_iou
    )


def region_detections(
    raw: Tensor,
    settings: Region,
    *,
    size: tuple[int, int],
    score_threshold: float,
    nms_iou: float,
    **tree_scores: Any,
) -> Detections:
    """(B, n * (5 + C), rows, columns) -> detections in input pixels, not clipped. size: (height, width).

    Boxes are decoded in cells, because the input need not be a multiple of the grid: 100 x 76 pixels give
    4 x 3 cells. tree_scores: see region_postprocess.
    """
    rows, columns = raw.shape[-2:]
    grid = YoloAnchors(settings.anchors, stride=1)((rows, columns)).to(raw.device)
    postprocess = region_postprocess(
        settings, score_threshold=score_threshold, nms_iou=nms_iou, **tree_scores
    )
    detections = postprocess.to(raw.device)(head_outputs(raw, settings), grid)
    cell_size = detections.boxes.new_tensor([size[1] / columns, size[0] / rows] * 2)  # pixels
    boxes = detections.boxes * cell_size
    return Detections(detections.image, boxes, detections.scores, detections.labels)
