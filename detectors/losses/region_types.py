"""What the checks and the statistics of a RegionLoss read of it."""

from __future__ import annotations

from detectors.losses.shared_loss import SharedLoss
from detectors.losses.tree_classes import TreeClasses
from detectors.structures import BoxCoder


class RegionSettings(SharedLoss):
    """The types of RegionLoss's settings; its __init__ says what they mean."""

    normalizer: str
    box_error: str
    objectness_target: str
    prior_boxes: str
    class_activation: str
    shared_class: str
    class_only_objectness: str
    class_scale: float
    label_smoothing: float
    focal_gamma: float | None
    focal_alpha: float
    ignore_truths: int | None
    coder: BoxCoder
    tree: TreeClasses | None
