"""Which settings a RegionLoss takes."""

from __future__ import annotations

from collections.abc import Sequence

from detectors.losses.ablations import check_focal
from detectors.losses.region_types import RegionSettings
from detectors.losses.shared_loss import check_choice


def check_region_loss(
    loss: RegionSettings, class_weights: Sequence[float] | None, label_map: str | Sequence[int] | None
) -> None:
    """ValueError for a setting of a RegionLoss that it cannot use."""
    check_choice("normalizer", loss.normalizer, batch="Darknet", anchors="the course")
    check_choice(
        "box_error", loss.box_error, log="Darknet", cells="the course", giou="ablation", ciou="ablation"
    )
    check_focal(loss.focal_gamma, loss.focal_alpha, loss.label_smoothing)
    if loss.focal_gamma is not None and loss.objectness_target != "one":
        raise ValueError(
            f"focal_gamma={loss.focal_gamma}: the focal loss has targets of 0 and 1; set "
            "objectness_target=one, or focal_gamma=null"
        )
    if loss.label_smoothing and loss.class_activation != "softmax":
        raise ValueError(
            f"label_smoothing={loss.label_smoothing}: it belongs to class_activation=softmax, whose classes "
            "share one probability; set label_smoothing=0, or class_activation=softmax"
        )
    check_choice("objectness_target", loss.objectness_target, iou="Darknet's rescore=1", one="rescore=0")
    check_choice("prior_boxes", loss.prior_boxes, unassigned="Darknet", all="the course")
    check_choice(
        "class_activation", loss.class_activation, softmax="Darknet's softmax=1", logistic="softmax=0"
    )
    check_choice("shared_class", loss.shared_class, last="Darknet", lowest="the course")
    if class_weights is not None and (not len(class_weights) or min(class_weights) < 0):
        raise ValueError(
            f"class_weights={list(class_weights)}: one number for each class is needed, none below 0"
        )
    if loss.ignore_truths is not None and loss.ignore_truths < 0:
        raise ValueError(
            f"ignore_truths={loss.ignore_truths}: must be 0 or more, or null for all boxes; the course has 50"
        )
    choices = {"paper": ".3, as the paper", "darknet": "Darknet since July 2017"}
    check_choice("class_only_objectness", loss.class_only_objectness, **choices)
    if loss.tree is not None:
        _check_tree(loss, class_weights)
    elif label_map is not None:
        raise ValueError("label_map: it leads to the nodes of a tree; set tree=..., or label_map=null")


def _check_tree(loss: RegionSettings, class_weights: Sequence[float] | None) -> None:
    """The class term of a tree is Darknet's alone."""
    needed = {
        "normalizer": "batch",
        "class_activation": "softmax",
        "shared_class": "last",
        "label_smoothing": 0,
    }
    for name, value in needed.items():
        if getattr(loss, name) != value:
            raise ValueError(
                f"{name}={getattr(loss, name)!r}: with a tree, {name}={value} is the only choice"
            )
    if class_weights is not None:
        raise ValueError("class_weights: classes of a tree have no weights; set class_weights=null")
