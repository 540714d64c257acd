"""What a region loss logs about a batch, beside its terms."""

from __future__ import annotations

import torch
from torch import Tensor

from detectors.losses.own_anchors import OwnAnchors
from detectors.losses.region_types import RegionSettings
from detectors.matching import comes_first
from detectors.structures import AnchorGrid, EncodedTargets, HeadOutputs

CONFIDENT = 0.3  # objectness above which confident_recall counts a prediction; from the Keras course


@torch.no_grad()
def region_statistics(
    loss: RegionSettings, outputs: HeadOutputs, encoded: EncodedTargets, grid: AnchorGrid
) -> dict[str, Tensor]:
    """What Darknet prints (Avg IOU, Class, Obj, No Obj, Avg Recall, count), and the course's recall.

    recall: the share of boxes with IoU > .5. As in Darknet, means are over all boxes, including those that
        lost their anchor, and NaN without boxes.
    class_probability: as in Darknet, with "logistic" a box that shares the anchor of an earlier box counts as
        0. With a tree, it is P(node), and images with a label only count, too.
    no_objectness: as in Darknet, an image with a label only adds nothing, but its anchors count.
    confident_recall: the share of positive anchors with IoU > .5 and objectness > .3; 0 without any.
    """
    own = OwnAnchors.of(encoded, grid)
    usable = (encoded.assigned >= 0).to(outputs.offsets.dtype)  # (B, M)
    iou = own.iou(loss.coder, outputs.offsets, encoded)  # (B, M)
    assert outputs.objectness is not None
    objectness = outputs.objectness.sigmoid()
    own_objectness = objectness.gather(1, own.anchor)  # (B, M)
    count = usable.sum()
    labels = encoded.targets.image_labels
    with_boxes = objectness if labels is None else objectness * (labels < 0)[:, None]
    classes = _tree_class_probability if loss.tree is not None else _class_probability
    confident = own.owner & (iou > 0.5) & (own_objectness > CONFIDENT)
    return {
        "truth_iou": (iou * usable).sum() / count,
        "class_probability": classes(loss, outputs, encoded, own, grid),
        "objectness": (own_objectness * usable).sum() / count,
        "no_objectness": with_boxes.mean(),
        "recall": ((iou > 0.5) * usable).sum() / count,
        "confident_recall": confident.sum() / own.owner.sum().clamp(min=1),
        "truths": count,
    }


def _class_probability(
    loss: RegionSettings, outputs: HeadOutputs, encoded: EncodedTargets, own: OwnAnchors, grid: AnchorGrid
) -> Tensor:
    """The mean probability of a box's class."""
    usable = encoded.assigned >= 0  # (B, M)
    logits = own.rows(outputs.class_logits)
    classes = logits.softmax(-1) if loss.class_activation == "softmax" else logits.sigmoid()
    own_class = classes.gather(-1, encoded.targets.labels[..., None]).squeeze(-1)  # (B, M)
    # With logistic classes, Darknet skips a box whose anchor already has a class delta; there is none if
    # class_scale is 0.
    counts_all = loss.class_activation == "softmax" or loss.class_scale == 0
    counted = usable if counts_all else usable & comes_first(encoded)
    return (own_class * counted).sum() / usable.sum()


def _tree_class_probability(
    loss: RegionSettings, outputs: HeadOutputs, encoded: EncodedTargets, own: OwnAnchors, grid: AnchorGrid
) -> Tensor:
    """The mean P(node) of the labels of boxes, and of images with a label only."""
    assert loss.tree is not None
    images = loss.tree.labelled_images(outputs, encoded, grid)
    error, _ = loss.tree.errors(outputs, encoded, own, images)  # (T, D)
    counted = (encoded.assigned >= 0).flatten()
    if images is not None:
        counted = torch.cat([counted, images.labelled])
    return ((-error.sum(1)).exp() * counted).sum() / counted.sum()
