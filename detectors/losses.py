"""The two losses. Each returns named, already weighted terms whose sum is the loss; log-only numbers come from `statistics`.

Their options are independent of one another; conf/loss/*.yaml sets them as an original does, docs/yolov2.md and docs/ssd.md compare them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors.boxes import area, paired_iou, pairwise_iou
from detectors.coders import YoloBoxCoder
from detectors.matching import lowest_labels, meets, owns
from detectors.structures import BACKGROUND, IGNORED, AnchorGrid, EncodedTargets, HeadOutputs

CONFIDENT = 0.3  # objectness that a detection must have to count in confident_recall; the course's number
NONZERO = 1e-6  # what the course adds to a count before it divides by it


class RegionLoss(nn.Module):
    """YOLOv2's loss. By default Darknet's region layer (src/region_layer.c, commit f6afaab): its gradient is the one written there by hand.

    L = 1/n sum over anchors of  m/2 |box error|^2 + o/2 (sigmoid(objectness) - t)^2 + k cross-entropy(classes), where

        positive anchors:  m = coord_scale * (2 - w h), w, h relative to the input;  o = object_scale;  t = IoU with the truth;
                           k = class_scale * weight of the class
        all others:        m = prior_scale while images_seen < prior_images, else 0;    o = noobject_scale, or 0 if the best IoU with any
                           truth is above ignore_iou;  t = 0;  k = 0

    Differs from the paper: the paper gives no formula; (2 - w h) came with Darknet's commit 60e952ba in March 2017. The number that Darknet
    prints as "loss" is the sum of squared deltas, not this function. Darknet sums over the batch and its optimiser divides by it: here the
    division by n = B is in the loss.

    The buffer `images_seen` counts training images, the current batch included, as Darknet's `seen` does.
    """

    class_weights: Tensor | None  # (C,)

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
    ):
        """class_weights: one number per class. weigh_small_boxes: the factor (2 - w h).

        normalizer: n is "batch", B, or "anchors": for box, objectness and class each the number of anchors whose weight in it is above 0.
        box_error: centres in cells in both, sizes as "log"(size / anchor) or in "cells".
        objectness_target: "iou" (rescore=1), "one". iou_gradient: whether the gradient also flows through that IoU.
        ignore_at_limit: whether an IoU of exactly ignore_iou spares, too. ignore_truths: only so many of an image's truths spare, the last.
        prior_boxes: "unassigned", or "all": positive anchors, too, then have the weight prior_scale instead of their own.
        class_activation: "softmax", "logistic". shared_class: of several truths in one anchor, the class of the "last" or the "lowest".
        """
        super().__init__()
        _one_of("normalizer", normalizer, batch="Darknet", anchors="the course")
        _one_of("box_error", box_error, log="Darknet", cells="the course")
        _one_of("objectness_target", objectness_target, iou="Darknet's rescore=1", one="rescore=0")
        _one_of("prior_boxes", prior_boxes, unassigned="Darknet", all="the course")
        _one_of("class_activation", class_activation, softmax="Darknet's softmax=1", logistic="softmax=0")
        _one_of("shared_class", shared_class, last="Darknet", lowest="the course")
        if class_weights is not None and (not len(class_weights) or min(class_weights) < 0):
            raise ValueError(
                f"class_weights={list(class_weights)}: one number for each class is needed, none below 0"
            )
        if ignore_truths is not None and ignore_truths < 0:
            raise ValueError(
                f"ignore_truths={ignore_truths}: 0 or more is needed, or null for all truths; the course has 50"
            )
        self.coord_scale, self.object_scale, self.noobject_scale, self.class_scale = (
            coord_scale,
            object_scale,
            noobject_scale,
            class_scale,
        )
        self.normalizer, self.box_error, self.weigh_small_boxes = normalizer, box_error, weigh_small_boxes
        self.objectness_target, self.iou_gradient = objectness_target, iou_gradient
        self.ignore_iou, self.ignore_at_limit, self.ignore_truths = ignore_iou, ignore_at_limit, ignore_truths
        self.prior_scale, self.prior_images, self.prior_boxes = prior_scale, prior_images, prior_boxes
        self.class_activation, self.shared_class = class_activation, shared_class
        self.coder = YoloBoxCoder()
        self.register_buffer(
            "class_weights",
            None if class_weights is None else torch.tensor(class_weights, dtype=torch.float64),
            persistent=False,
        )
        self.register_buffer("images_seen", torch.zeros((), dtype=torch.int64))

    def forward(self, outputs: HeadOutputs, encoded: EncodedTargets, grid: AnchorGrid) -> dict[str, Tensor]:
        """Terms box, prior, object, noobject and class, each normalised."""
        if self.training:
            self.images_seen += len(outputs.offsets)
        positive = encoded.positive  # (B, A)
        iou = self._truth_iou(outputs, encoded, grid)  # (B, M, A)
        box, prior = self._halves(
            self._box_error(outputs, encoded, grid), self._box_weights(positive, encoded, grid), positive
        )
        goal = torch.where(positive, self._objectness_target(iou, outputs, encoded, grid), 0)
        doubt = F.mse_loss(outputs.objectness.sigmoid(), goal, reduction="none")  # (B, A)
        pushed = torch.where(self._ignored(iou, encoded), 0, doubt.new_full((), self.noobject_scale))
        found, rest = self._halves(doubt, torch.where(positive, self.object_scale, pushed), positive)
        return {
            "box": box,
            "prior": prior,
            "object": found,
            "noobject": rest,
            "class": self._class_error(outputs, encoded),
        }

    def _halves(self, error: Tensor, weights: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
        """(B, A) squared errors, their weights, bool -> half the weighted sum over positive anchors, and over all others; normalised."""
        weighted, twice = error * weights, 2 * self._count(weights)
        return (weighted * positive).sum() / twice, (weighted * ~positive).sum() / twice

    def _count(self, weights: Tensor) -> Tensor | int:
        """n for one kind of error. weights: (B, ...)."""
        return (
            len(weights) if self.normalizer == "batch" else (weights > 0).sum(dtype=weights.dtype) + NONZERO
        )

    def _box_error(self, outputs: HeadOutputs, encoded: EncodedTargets, grid: AnchorGrid) -> Tensor:
        """(B, A) squared error of centre and size together."""
        found, goal = outputs.offsets, encoded.offsets
        if self.box_error == "cells":
            found, goal = _sizes_in_cells(found, grid), _sizes_in_cells(goal, grid)
        return F.mse_loss(found, goal, reduction="none").sum(-1)

    def _box_weights(self, positive: Tensor, encoded: EncodedTargets, grid: AnchorGrid) -> Tensor:
        """(B, A) m of the formula."""
        weight: Tensor | float = self.coord_scale
        if self.weigh_small_boxes:
            weight = self.coord_scale * (2 - area(encoded.boxes) / (grid.size[0] * grid.size[1]))  # (B, A)
        early = self.images_seen < self.prior_images
        weights = torch.where(positive, weight, self.prior_scale * early.to(encoded.offsets.dtype))
        return weights if self.prior_boxes == "unassigned" else torch.where(early, self.prior_scale, weights)

    @torch.no_grad()
    def _truth_iou(self, outputs: HeadOutputs, encoded: EncodedTargets, grid: AnchorGrid) -> Tensor:
        """(B, M, A) IoU of every truth with every predicted box; 0 for padding."""
        iou = pairwise_iou(encoded.targets.boxes, self.coder.decode(outputs.offsets.detach(), grid))
        return iou * encoded.targets.valid[..., None]

    def _ignored(self, iou: Tensor, encoded: EncodedTargets) -> Tensor:
        """(B, A): predictions good enough not to be pushed down although they are nobody's."""
        good = iou >= self.ignore_iou if self.ignore_at_limit else iou > self.ignore_iou
        if self.ignore_truths is not None:
            usable = encoded.assigned >= 0  # (B, M)
            good = good & (usable & (usable.flip(1).cumsum(1).flip(1) <= self.ignore_truths))[..., None]
        return good.any(1)

    def _objectness_target(
        self, iou: Tensor, outputs: HeadOutputs, encoded: EncodedTargets, grid: AnchorGrid
    ) -> Tensor:
        """(B, A) or () t of the positive anchors; any number elsewhere."""
        if self.objectness_target == "one" or iou.shape[1] == 0:
            return iou.new_ones(())
        if self.iou_gradient:
            return paired_iou(self.coder.decode(outputs.offsets, grid), encoded.boxes)
        return iou.gather(1, encoded.matched.clamp(min=0)[:, None]).squeeze(1)

    def _class_error(self, outputs: HeadOutputs, encoded: EncodedTargets) -> Tensor:
        """Weighted cross-entropy of the truths that own an anchor, normalised; class logits are read only there.

        With "logistic", truths that meet in one anchor add up to a multi-hot target, as in Darknet.
        """
        assigned = encoded.assigned  # (B, M)
        labels = encoded.targets.labels if self.shared_class == "last" else lowest_labels(encoded)
        logits = _rows(outputs.class_logits, assigned)  # (B, M, C)
        if self.class_activation == "softmax":
            error = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
        else:
            one_hot = F.one_hot(labels, logits.shape[-1]).to(logits.dtype)  # (B, M, C)
            target = (meets(assigned).to(logits.dtype) @ one_hot).clamp(max=1)
            error = F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(-1)
        weights = self.class_scale * owns(encoded).to(error.dtype)
        if self.class_weights is not None:
            if len(self.class_weights) != logits.shape[-1]:
                raise ValueError(
                    f"class_weights has {len(self.class_weights)} numbers and the detector {logits.shape[-1]} classes"
                )
            weights = weights * self.class_weights[labels].to(weights.dtype)
        return (error * weights).sum() / self._count(weights)

    @torch.no_grad()
    def statistics(
        self, outputs: HeadOutputs, encoded: EncodedTargets, grid: AnchorGrid
    ) -> dict[str, Tensor]:
        """The numbers that Darknet prints: Avg IOU, Class, Obj, No Obj, Avg Recall (IoU > .5), count; and the recall of the course.

        As there, means are over all truths, also those that another one overwrote; without truths they are NaN. With "logistic", a truth
        that meets an earlier one in its anchor counts in the mean of class_probability but adds nothing to it, as there.
        confident_recall: of the positive anchors, those with IoU > .5 and objectness > .3; 0 without any.
        """
        assigned, labels = encoded.assigned, encoded.targets.labels
        given = (assigned >= 0).to(outputs.offsets.dtype)
        iou = (
            self._truth_iou(outputs, encoded, grid).gather(2, assigned.clamp(min=0)[..., None]).squeeze(-1)
        )  # (B, M)
        logits = _rows(outputs.class_logits, assigned)
        classes = logits.softmax(-1) if self.class_activation == "softmax" else logits.sigmoid()
        objectness = outputs.objectness.sigmoid()
        own = objectness.gather(1, assigned.clamp(min=0))  # (B, M)
        count, mine = given.sum(), owns(encoded)
        alone = (
            self.class_activation == "softmax" or self.class_scale == 0
        )  # without a class delta Darknet does not see who came first
        seen = given if alone else given * ~meets(assigned).tril(-1).any(-1)
        return {
            "truth_iou": (iou * given).sum() / count,
            "class_probability": (classes.gather(-1, labels[..., None]).squeeze(-1) * seen).sum() / count,
            "objectness": (own * given).sum() / count,
            "no_objectness": objectness.mean(),
            "recall": ((iou > 0.5) * given).sum() / count,
            "confident_recall": (mine & (iou > 0.5) & (own > CONFIDENT)).sum() / mine.sum().clamp(min=1),
            "truths": count,
        }


class MultiBoxLoss(nn.Module):
    """SSD's loss, equations 1 to 3, by default with Caffe's semantics (multibox_loss_layer.cpp, branch ssd, 4817bf8).

    L = (cross-entropy over positives and mined negatives + box_scale * smooth L1 over positives) / max(1, positives in the batch).

    Negatives are mined per image: negatives_per_positive for each positive, those with the largest -log p(background). An image without
    truths contributes nothing; a batch without truths gives 0.
    """

    def __init__(
        self,
        *,
        negatives_per_positive: float = 3.0,
        box_scale: float = 1.0,
        normalizer: str = "batch",
        recount_positives: bool = False,
    ):
        """normalizer: "batch", max(1, positives); "images", the mean over images of each one's loss / max(1, its positives); "floor", the
        sum over images of max(1, its positives). recount_positives: where an image has too few negatives, its positives fill up their
        number, the first anchors first, so that their class counts twice (torchvision)."""
        super().__init__()
        if negatives_per_positive < 0:
            raise ValueError(
                f"negatives_per_positive={negatives_per_positive}: 0 or more is needed; the paper has 3"
            )
        _one_of("normalizer", normalizer, batch="Caffe, torchvision", images="NVIDIA", floor="mmdetection")
        self.negatives_per_positive, self.box_scale = negatives_per_positive, box_scale
        self.normalizer, self.recount_positives = normalizer, recount_positives

    def forward(self, outputs: HeadOutputs, encoded: EncodedTargets, grid: AnchorGrid) -> dict[str, Tensor]:
        """Terms box and class. outputs.class_logits: (B, A, C + 1), background first."""
        positive = encoded.positive  # (B, A)
        count = positive.sum(1, keepdim=True)  # (B, 1)
        logits, columns = (
            outputs.class_logits,
            encoded.labels + 1,
        )  # column 0 is background, and labels are -1 there
        error = F.cross_entropy(logits.flatten(0, 1), columns.flatten(), reduction="none").view_as(
            columns
        )  # (B, A)
        smooth = F.smooth_l1_loss(outputs.offsets, encoded.offsets, reduction="none").sum(-1)
        per = self._normalizer(count)
        share = positive / per  # (B, A)
        return {
            "box": (smooth * share).sum() * self.box_scale,
            "class": (error * share).sum() + (self._mined(error, encoded, count) / per).sum(),
        }

    def _normalizer(self, count: Tensor) -> Tensor:
        """(B, 1) positives of each image -> what their errors are divided by, () or (B, 1)."""
        if self.normalizer == "batch":
            return count.sum().clamp(min=1)
        return count.clamp(min=1).sum() if self.normalizer == "floor" else count.clamp(min=1) * len(count)

    def _mined(self, error: Tensor, encoded: EncodedTargets, count: Tensor) -> Tensor:
        """(B, A) errors of the hardest negatives, in another order. error: cross-entropy, for the background's anchors -log p(background).

        A negative's cross-entropy is its own mining key, so the k largest need no index: sort once, keep ranks below k.
        """
        background = encoded.matched == BACKGROUND
        if self.recount_positives:
            key = torch.where(
                background, error, encoded.matched.clamp(max=0).to(error.dtype) - 1
            )  # then positives, then what is ignored
            hardest = error.gather(1, key.sort(dim=1, descending=True, stable=True).indices)
        else:
            hardest = torch.where(background, error, -1).sort(1, descending=True).values
        rank = torch.arange(error.shape[1], device=error.device)
        return hardest * (rank < self._negatives(encoded, count))

    def _negatives(self, encoded: EncodedTargets, count: Tensor) -> Tensor:
        """(B, 1) negatives to mine in each image; count: (B, 1) positives."""
        candidates = encoded.matched != IGNORED if self.recount_positives else encoded.matched == BACKGROUND
        return torch.minimum(self.negatives_per_positive * count, candidates.sum(1, keepdim=True))

    @torch.no_grad()
    def statistics(
        self, outputs: HeadOutputs, encoded: EncodedTargets, grid: AnchorGrid
    ) -> dict[str, Tensor]:
        """negatives_per_positive: what mining really gave; below the setting where negatives ran out."""
        count = encoded.positive.sum(1, keepdim=True)
        return {"negatives_per_positive": self._negatives(encoded, count).sum() / count.sum().clamp(min=1)}


def _one_of(name: str, value: str, **choices: str) -> None:
    """ValueError unless value is one of the choices, given with whose choice each is."""
    if value not in choices:
        raise ValueError(
            f"{name}={value!r}: choose "
            + " or ".join(f"{choice!r} ({whose})" for choice, whose in choices.items())
        )


def _sizes_in_cells(offsets: Tensor, grid: AnchorGrid) -> Tensor:
    """(B, A, 4) offsets -> the same centres with width and height in cells instead of their logarithms over the anchor's."""
    cells_wh = grid.boxes_cxcywh[:, 2:] / grid.stride[:, None]
    return torch.cat([offsets[..., :2], offsets[..., 2:].exp() * cells_wh], -1)


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """(B, A, C) values, (B, M) anchor numbers (-1 reads row 0) -> (B, M, C)."""
    return values.gather(1, index.clamp(min=0)[..., None].expand(-1, -1, values.shape[-1]))
