"""YOLOv2's loss. "The course" is experiencor/keras-yolo2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from detectors.boxes import area, largest_iou
from detectors.coders import YoloBoxCoder
from detectors.kernels.dispatch import uses_triton
from detectors.kernels.packing import packs, used_columns
from detectors.losses.ablations import IOU_LOSSES, binary_focal_error, iou_error
from detectors.losses.own_anchors import OwnAnchors, multi_hot
from detectors.losses.region_checks import check_region_loss
from detectors.losses.region_statistics import region_statistics
from detectors.losses.region_types import RegionSettings
from detectors.losses.tree_classes import PAPER_OBJECTNESS, LabelAnchors, TreeClasses
from detectors.matching import lowest_labels
from detectors.structures import AnchorGrid, EncodedTargets, HeadOutputs, builder

NONZERO = 1e-6  # the course adds it to a count before dividing by the count


@builder("loss")
class RegionLoss(RegionSettings):
    """YOLOv2's loss. Its default gradient is Darknet's hand-written one (src/region_layer.c, commit f6afaab).

    L = 1/n  sum over anchors of  m/2 |box error|^2 + o/2 (sigmoid(objectness) - t)^2
                                  + k cross-entropy(classes)

        positive anchors:  m = coord_scale * (2 - w h), with w and h relative to the input
                           o = object_scale;  t = IoU with the box;  k = class_scale * weight of the class
        all others:        m = prior_scale while images_seen < prior_images, else 0
                           o = noobject_scale, or 0 if the best IoU with any box is above ignore_iou
                           t = 0;  k = 0

    The paper gives no formula; (2 - w h) came with Darknet's commit 60e952ba in March 2017. The number that
    Darknet prints as "loss" is the sum of squared deltas, not this function. Darknet sums over the batch, and
    its optimiser divides; here the division by n = B is in the loss.

    The buffer `images_seen` counts training images, the current batch included, like Darknet's `seen`. It is
    not part of the state dict: a run stores the number once, in its progress, and restores it on resume.
    """

    kernel = "region"
    class_weights: Tensor | None  # (C,)
    images_seen: Tensor  # () int64

    def __init__(
        self,
        *,
        coord_scale: float = 1.0,
        object_scale: float = 5.0,
        noobject_scale: float = 1.0,
        class_scale: float = 1.0,
        class_weights: Sequence[float] | None = None,
        normalizer: str = "batch",
        box_error: str = "log",
        weigh_small_boxes: bool = True,
        objectness_target: str = "iou",
        iou_gradient: bool = False,
        ignore_iou: float = 0.6,
        ignore_at_limit: bool = False,
        ignore_truths: int | None = None,
        prior_scale: float = 0.01,
        prior_images: int = 12800,
        prior_boxes: str = "unassigned",
        class_activation: str = "softmax",
        shared_class: str = "last",
        label_smoothing: float = 0.0,
        focal_gamma: float | None = None,
        focal_alpha: float = 0.25,
        tree: str | Mapping[str, Any] | None = None,
        label_map: str | Sequence[int] | None = None,
        class_only_objectness: str = "paper",
    ):
        """class_weights: one number per class.
        normalizer: n is "batch" for B, or "anchors" for the number of anchors with a weight above 0, counted
            separately for box, objectness and class.
        box_error: centres in cells; sizes as "log"(size / anchor) or in "cells".
        weigh_small_boxes: the factor (2 - w h).
        objectness_target: "iou" (rescore=1) or "one".
        iou_gradient: let the gradient flow through the IoU of objectness_target.
        ignore_at_limit: also ignore an IoU equal to ignore_iou.
        ignore_truths: only the last N boxes of an image count for ignore_iou; None: all.
        prior_boxes: "unassigned", or "all": while the prior term is on, the box error of positive anchors,
            too, has the weight prior_scale instead of m.
        class_activation: "softmax" or "logistic".
        shared_class: of several boxes in one anchor, the class of the "last" or the "lowest".
        tree: classes in a tree, see losses/tree_classes.py and wordtree.tree_sources.load_tree. None: flat.
        label_map: nodes of the labels of boxes, see load_map; None: the labels are nodes.
        class_only_objectness: of the positive anchor of an image with a label only. "paper": objectness below
            .3 learns .3, the IoU that is assumed (Darknet until July 2017); "darknet": it learns nothing.
        Not in Darknet (losses/ablations.py):
        box_error: "giou" or "ciou": m (1 - GIoU) of the decoded box in place of m/2 |box error|^2. The prior
            term stays as with "log".
        label_smoothing: of the class term, with "softmax".
        focal_gamma, focal_alpha: with a gamma, o times the focal loss in place of o/2 times the squared error
            of objectness; objectness_target must be "one".
        """
        super().__init__()
        self.coord_scale = coord_scale
        self.object_scale = object_scale
        self.noobject_scale = noobject_scale
        self.class_scale = class_scale
        self.normalizer = normalizer
        self.box_error = box_error
        self.weigh_small_boxes = weigh_small_boxes
        self.objectness_target = objectness_target
        self.iou_gradient = iou_gradient
        self.ignore_iou = ignore_iou
        self.ignore_at_limit = ignore_at_limit
        self.ignore_truths = ignore_truths
        self.prior_scale = prior_scale
        self.prior_images = prior_images
        self.prior_boxes = prior_boxes
        self.class_activation = class_activation
        self.shared_class = shared_class
        self.label_smoothing = label_smoothing
        self.focal_gamma = focal_gamma
        self.focal_alpha = focal_alpha
        self.coder = YoloBoxCoder()
        self.class_only_objectness = class_only_objectness
        self.tree = None if tree is None else TreeClasses(tree, label_map)
        check_region_loss(self, class_weights, label_map)
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float64)
        self.register_buffer("class_weights", weights, persistent=False)
        self.register_buffer("images_seen", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, outputs: HeadOutputs, encoded: EncodedTargets, grid: AnchorGrid) -> dict[str, Tensor]:
        """Terms box, prior, object, noobject and class, each normalised."""
        if self.training:
            self.images_seen += len(outputs.offsets) * self.processes
        float64 = torch.float64 in (outputs.offsets.dtype, encoded.targets.boxes.dtype)
        unsupported = self.unsupported() or ("float64" if float64 else None)
        if not uses_triton(outputs.offsets.device, unsupported):
            return self.reference(outputs, encoded, grid)
        from detectors.kernels.region_kernel import region_terms  # imports Triton

        return region_terms(
            outputs,
            encoded,
            grid,
            self.images_seen,
            coord_scale=self.coord_scale,
            object_scale=self.object_scale,
            noobject_scale=self.noobject_scale,
            class_scale=self.class_scale,
            prior_scale=self.prior_scale,
            prior_images=self.prior_images,
            ignore_iou=self.ignore_iou,
            weigh_small_boxes=self.weigh_small_boxes,
            rescore=self.objectness_target == "iou",
        )

    def unsupported(self) -> str | None:
        """The first setting that the kernel does not cover; None if it covers all. See dispatch.FusedPart."""
        covered = {
            "normalizer": "batch",
            "box_error": "log",
            "iou_gradient": False,
            "ignore_at_limit": False,
            "ignore_truths": None,
            "prior_boxes": "unassigned",
            "class_activation": "softmax",
            "shared_class": "last",
            "label_smoothing": 0.0,
            "focal_gamma": None,
        }
        for name, value in covered.items():
            if getattr(self, name) != value:
                return f"{name}={getattr(self, name)!r}"
        if self.tree is not None:
            return "a tree of classes"
        return None if self.class_weights is None else "class_weights"

    def reference(self, outputs: HeadOutputs, encoded: EncodedTargets, grid: AnchorGrid) -> dict[str, Tensor]:
        """The terms in PyTorch operations; the definition of what the kernel computes.

        A box has at most one positive anchor, so the terms of positive anchors are sums over boxes (B, M),
        where a box that does not own an anchor has the weight 0.
        """
        own = OwnAnchors.of(encoded, grid)
        images = self._labelled_images(outputs, encoded, grid)
        box, prior = self._box_terms(outputs, encoded, grid, own)
        object_term, noobject_term = self._objectness_terms(outputs, encoded, grid, own, images)
        return {
            "box": box,
            "prior": prior,
            "object": object_term,
            "noobject": noobject_term,
            "class": self._class_term(outputs, encoded, own, images),
        }

    def _labelled_images(
        self, outputs: HeadOutputs, encoded: EncodedTargets, grid: AnchorGrid
    ) -> LabelAnchors | None:
        """The images with a label only; None if there are none. ValueError if they need a tree."""
        if self.tree is not None:
            return self.tree.labelled_images(outputs, encoded, grid)
        if encoded.targets.image_labels is not None:
            raise ValueError(
                "some images have a label and no boxes, and this loss has no tree; set loss.tree (a tree of "
                "one group, all names at the top, is the flat softmax)"
            )
        return None

    def _count(self, weights: Tensor, *others: Tensor) -> Tensor | int:
        """n for one kind of error. weights, others: (B, ...) of its errors."""
        if self.normalizer == "batch":
            return max(len(weights), 1)  # an empty batch gives 0
        count = (weights > 0).sum(dtype=weights.dtype)
        for part in others:
            count = count + (part > 0).sum(dtype=part.dtype)
        return self._shared(count) + NONZERO

    def _box_terms(
        self, outputs: HeadOutputs, encoded: EncodedTargets, grid: AnchorGrid, own: OwnAnchors
    ) -> tuple[Tensor, Tensor]:
        """Terms box and prior."""
        # A box without area has no logarithm; it owns no anchor, and so has that anchor as its target.
        gt_boxes = torch.where(own.owner[..., None], encoded.targets.boxes, own.grid.boxes)  # (B, M, 4)
        if self.box_error in IOU_LOSSES:  # without the half of squares
            error = 2 * iou_error(
                self.box_error, self.coder.decode(own.rows(outputs.offsets), own.grid), gt_boxes
            )
        else:
            error = self._box_error(own.rows(outputs.offsets), gt_boxes, own.grid)  # (B, M)
        early = self.images_seen < self.prior_images
        weight: Tensor | float = self.coord_scale
        if self.weigh_small_boxes:
            weight = self.coord_scale * (2 - area(gt_boxes) / (grid.size[0] * grid.size[1]))  # (B, M)
        if self.prior_boxes == "all":
            weight = torch.where(early, self.prior_scale, weight)
        weights = torch.where(own.owner, weight, error.new_zeros(()))
        if packs(error.device) and not early:
            # Error times 0, without the errors: only a number that is not finite shows.
            return (error * weights).sum() / (2 * self._count(weights)), outputs.offsets.sum() * 0
        prior_error = self._box_error(outputs.offsets, grid.boxes.to(gt_boxes.dtype), grid)  # (B, A)
        labels = encoded.targets.image_labels
        without = encoded.positive if labels is None else encoded.positive | (labels >= 0)[:, None]  # (B, A)
        prior_weights = torch.where(without, 0, self.prior_scale * early.to(error.dtype))  # (B, A)
        divisor = 2 * self._count(weights, prior_weights)
        return (error * weights).sum() / divisor, (prior_error * prior_weights).sum() / divisor

    def _box_error(self, offsets: Tensor, boxes: Tensor, grid: AnchorGrid) -> Tensor:
        """(B, A, 4) offsets, (..., A, 4) xyxy boxes -> (B, A) squared error of centre and size together."""
        goal = self.coder.encode(boxes, grid)
        if self.box_error == "cells":
            offsets = _sizes_in_cells(offsets, grid)
            goal = _sizes_in_cells(goal, grid)
        return F.mse_loss(offsets, goal.expand_as(offsets), reduction="none").sum(-1)

    def _objectness_terms(
        self,
        outputs: HeadOutputs,
        encoded: EncodedTargets,
        grid: AnchorGrid,
        own: OwnAnchors,
        images: LabelAnchors | None,
    ) -> tuple[Tensor, Tensor]:
        """Terms object and noobject."""
        assert outputs.objectness is not None
        objectness = outputs.objectness.sigmoid()  # (B, A)
        own_objectness = objectness.gather(1, own.anchor)  # (B, M)
        goal = torch.ones_like(own_objectness)
        if self.objectness_target == "iou":
            offsets = outputs.offsets if self.iou_gradient else outputs.offsets.detach()
            goal = own.iou(self.coder, offsets, encoded)
        error = F.mse_loss(own_objectness, goal, reduction="none")  # (B, M)
        weights = torch.where(own.owner, self.object_scale, error.new_zeros(()))
        spared = encoded.positive | self._ignored(outputs, encoded, grid)
        if images is not None:
            spared = spared | images.at_anchor
        noobject_weights = torch.where(spared, 0, error.new_full((), self.noobject_scale))  # (B, A)
        divisor = 2 * self._count(weights, noobject_weights)
        empty = objectness.square()
        if self.focal_gamma is not None:  # without the half of squares
            options = {"alpha": self.focal_alpha, "gamma": self.focal_gamma}
            error = 2 * binary_focal_error(outputs.objectness.gather(1, own.anchor), goal, **options)
            empty = 2 * binary_focal_error(outputs.objectness, torch.zeros_like(objectness), **options)
        squares = (error * weights).sum()
        if images is not None and self.class_only_objectness == "paper":
            missing = (PAPER_OBJECTNESS - objectness).clamp(min=0).square()  # (B, A)
            squares = squares + self.object_scale * (missing * images.at_anchor).sum()
        return squares / divisor, (empty * noobject_weights).sum() / divisor

    @torch.no_grad()
    def _ignored(self, outputs: HeadOutputs, encoded: EncodedTargets, grid: AnchorGrid) -> Tensor:
        """(B, A) bool: predictions that overlap a box too well to enter the noobject term."""
        counted = encoded.targets.valid  # (B, M)
        if self.ignore_truths is not None:
            usable = encoded.assigned >= 0
            place_from_end = usable.flip(1).cumsum(1).flip(1)  # 1 for the last usable box
            counted = usable & (place_from_end <= self.ignore_truths)
        boxes = torch.where(counted[..., None], encoded.targets.boxes, 0)
        predictions = self.coder.decode(outputs.offsets.detach(), grid)
        iou = largest_iou(predictions, boxes, used_columns(counted))  # (B, A)
        return iou >= self.ignore_iou if self.ignore_at_limit else iou > self.ignore_iou

    def _class_term(
        self, outputs: HeadOutputs, encoded: EncodedTargets, own: OwnAnchors, images: LabelAnchors | None
    ) -> Tensor:
        """Weighted, normalised cross-entropy of the boxes that own an anchor.

        The class logits of other anchors do not matter. With "logistic", boxes that share an anchor give a
        multi-hot target, as in Darknet.
        """
        if self.tree is not None:
            error, weights = self.tree.errors(outputs, encoded, own, images)  # (T, D)
            return self.class_scale * (error * weights).sum() / self._count(encoded.matched)
        labels = encoded.targets.labels if self.shared_class == "last" else lowest_labels(encoded)  # (B, M)
        logits = own.rows(outputs.class_logits)  # (B, M, C)
        if self.class_activation == "softmax":
            error = F.cross_entropy(
                logits.flatten(0, 1),
                labels.flatten(),
                reduction="none",
                label_smoothing=self.label_smoothing,
            ).view_as(labels)
        else:
            target = multi_hot(labels, encoded, logits)
            error = F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(-1)
        weights = self.class_scale * own.owner.to(error.dtype)
        if self.class_weights is not None:
            if len(self.class_weights) != logits.shape[-1]:
                raise ValueError(
                    f"class_weights has {len(self.class_weights)} numbers, "
                    f"and the detector {logits.shape[-1]} classes"
                )
            weights = weights * self.class_weights[labels].to(weights.dtype)
        return (error * weights).sum() / self._count(weights)

    @torch.no_grad()
    def statistics(
        self, outputs: HeadOutputs, encoded: EncodedTargets, grid: AnchorGrid
    ) -> dict[str, Tensor]:
        """See region_statistics."""
        return region_statistics(self, outputs, encoded, grid)


def _sizes_in_cells(offsets: Tensor, grid: AnchorGrid) -> Tensor:
    """(..., A, 4) offsets -> (..., A, 4) the same, with sizes in cells instead of log(size / anchor)."""
    cells_wh = grid.boxes_cxcywh[..., 2:] / grid.stride[..., None]
    return torch.cat([offsets[..., :2], offsets[..., 2:].exp() * cells_wh], -1)
