"""The two losses. Each returns named, already weighted terms whose sum is the loss; log-only numbers come from `statistics`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors.boxes import area, pairwise_iou
from detectors.coders import YoloBoxCoder
from detectors.structures import BACKGROUND, AnchorGrid, EncodedTargets, HeadOutputs


class RegionLoss(nn.Module):
    """Darknet's region layer (src/region_layer.c, commit f6afaab) as a loss whose gradient is the one that Darknet writes by hand.

    L = 1/B sum over anchors of  m/2 |offsets - target|^2 + o/2 (sigmoid(objectness) - t)^2 + class_scale * cross-entropy(classes), where

        positive anchors:  m = coord_scale * (2 - w h), w, h relative to the input;  o = object_scale;  t = IoU with the truth, a constant
        all others:        m = prior_scale while images_seen < prior_images, else 0;    o = noobject_scale, or 0 if the best IoU with any
                           truth is above ignore_iou;  t = 0;  no class term

    Differs from the paper: the paper gives no formula; (2 - w h) came with Darknet's commit 60e952ba in March 2017. The number that Darknet
    prints as "loss" is the sum of squared deltas, not this function. Darknet sums over the batch and its optimiser divides by it: here the
    division by B is in the loss.

    The buffer `images_seen` counts training images, the current batch included, as Darknet's `seen` does.
    """

    def __init__(
        self,
        *,
        coord_scale: float = 1.0,
        object_scale: float = 5.0,
        noobject_scale: float = 1.0,
        class_scale: float = 1.0,
        ignore_iou: float = 0.6,
        prior_scale: float = 0.01,
        prior_images: int = 12800,
        weigh_small_boxes: bool = True,
        objectness_target: str = "iou",
        class_activation: str = "softmax",
    ):
        """weigh_small_boxes: the factor (2 - w h). objectness_target: "iou" (rescore=1), "one". class_activation: "softmax", "logistic"."""
        super().__init__()
        if objectness_target not in ("iou", "one"):
            raise ValueError(f"objectness_target={objectness_target!r}: choose 'iou' (Darknet's rescore=1) or 'one' (rescore=0)")
        if class_activation not in ("softmax", "logistic"):
            raise ValueError(f"class_activation={class_activation!r}: choose 'softmax' (Darknet's softmax=1) or 'logistic' (softmax=0)")
        self.coord_scale, self.object_scale, self.noobject_scale, self.class_scale = coord_scale, object_scale, noobject_scale, class_scale
        self.ignore_iou, self.prior_scale, self.prior_images = ignore_iou, prior_scale, prior_images
        self.weigh_small_boxes, self.objectness_target, self.class_activation = weigh_small_boxes, objectness_target, class_activation
        self.coder = YoloBoxCoder()
        self.register_buffer("images_seen", torch.zeros((), dtype=torch.int64))

    def forward(self, outputs: HeadOutputs, encoded: EncodedTargets, grid: AnchorGrid) -> dict[str, Tensor]:
        """Terms box, prior, object, noobject and class, each summed over the batch and divided by B."""
        batch = len(outputs.offsets)
        if self.training:
            self.images_seen += batch
        positive = encoded.positive  # (B, A)
        error = F.mse_loss(outputs.offsets, encoded.offsets, reduction="none").sum(-1)  # (B, A)
        iou = self._truth_iou(outputs, encoded, grid)  # (B, M, A)
        goal = torch.where(positive, self._objectness_target(iou, encoded), 0)
        doubt = F.mse_loss(outputs.objectness.sigmoid(), goal, reduction="none")  # (B, A)
        prior_scale = self.prior_scale * (self.images_seen < self.prior_images)
        return {
            "box": (error * (positive * self._box_weight(encoded, grid))).sum() * (self.coord_scale / 2 / batch),
            "prior": (error * ~positive).sum() * (prior_scale / 2 / batch),
            "object": (doubt * positive).sum() * (self.object_scale / 2 / batch),
            "noobject": (doubt * ~(positive | self._ignored(iou))).sum() * (self.noobject_scale / 2 / batch),
            "class": self._class_error(outputs, encoded) * (self.class_scale / batch),
        }

    def _box_weight(self, encoded: EncodedTargets, grid: AnchorGrid) -> Tensor | float:
        if not self.weigh_small_boxes:
            return 1.0
        return 2 - area(encoded.boxes) / (grid.size[0] * grid.size[1])  # (B, A)

    @torch.no_grad()
    def _truth_iou(self, outputs: HeadOutputs, encoded: EncodedTargets, grid: AnchorGrid) -> Tensor:
        """(B, M, A) IoU of every truth with every predicted box; 0 for padding."""
        iou = pairwise_iou(encoded.targets.boxes, self.coder.decode(outputs.offsets.detach(), grid))
        return iou * encoded.targets.valid[..., None]

    def _ignored(self, iou: Tensor) -> Tensor:
        """(B, A): predictions good enough not to be pushed down although they are nobody's. Strictly above, as in Darknet."""
        return (iou > self.ignore_iou).any(1)

    def _objectness_target(self, iou: Tensor, encoded: EncodedTargets) -> Tensor | float:
        if self.objectness_target == "one" or iou.shape[1] == 0:
            return 1.0
        return iou.gather(1, encoded.matched.clamp(min=0)[:, None]).squeeze(1)  # (B, A)

    def _class_error(self, outputs: HeadOutputs, encoded: EncodedTargets) -> Tensor:
        """Cross-entropy summed over the truths that own an anchor; class logits are read only there.

        With "logistic", truths that meet in one anchor add up to a multi-hot target, as in Darknet.
        """
        labels, assigned = encoded.targets.labels, encoded.assigned  # (B, M)
        owns = self._owns(encoded)
        logits = _rows(outputs.class_logits, assigned)  # (B, M, C)
        if self.class_activation == "softmax":
            error = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
        else:
            one_hot = F.one_hot(labels, logits.shape[-1]).to(logits.dtype)  # (B, M, C)
            target = (_meets(assigned).to(logits.dtype) @ one_hot).clamp(max=1)
            error = F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(-1)
        return (error * owns).sum()

    def _owns(self, encoded: EncodedTargets) -> Tensor:
        """(B, M): whether the truth won the anchor it was assigned to."""
        order = torch.arange(encoded.assigned.shape[1], device=encoded.assigned.device)
        winner = encoded.matched.gather(1, encoded.assigned.clamp(min=0))
        return (encoded.assigned >= 0) & (winner == order)

    @torch.no_grad()
    def statistics(self, outputs: HeadOutputs, encoded: EncodedTargets, grid: AnchorGrid) -> dict[str, Tensor]:
        """The numbers that Darknet prints: Avg IOU, Class, Obj, No Obj, Avg Recall (IoU > .5), count.

        As there, means are over all truths, also those that another one overwrote; without truths they are NaN. With "logistic", a truth
        that meets an earlier one in its anchor counts in the mean of class_probability but adds nothing to it, as there.
        """
        assigned, labels = encoded.assigned, encoded.targets.labels
        given = (assigned >= 0).to(outputs.offsets.dtype)
        iou = self._truth_iou(outputs, encoded, grid).gather(2, assigned.clamp(min=0)[..., None]).squeeze(-1)  # (B, M)
        logits = _rows(outputs.class_logits, assigned)
        classes = logits.softmax(-1) if self.class_activation == "softmax" else logits.sigmoid()
        objectness = outputs.objectness.sigmoid()
        count = given.sum()
        seen = given if self.class_activation == "softmax" else given * ~_meets(assigned).tril(-1).any(-1)
        return {
            "truth_iou": (iou * given).sum() / count,
            "class_probability": (classes.gather(-1, labels[..., None]).squeeze(-1) * seen).sum() / count,
            "objectness": (objectness.gather(1, assigned.clamp(min=0)) * given).sum() / count,
            "no_objectness": objectness.mean(),
            "recall": ((iou > 0.5) * given).sum() / count,
            "truths": count,
        }


class MultiBoxLoss(nn.Module):
    """SSD's loss, equations 1 to 3, with Caffe's semantics (multibox_loss_layer.cpp, branch ssd, 4817bf8).

    L = (cross-entropy over positives and mined negatives + box_scale * smooth L1 over positives) / max(1, positives in the batch).

    Negatives are mined per image: negatives_per_positive for each positive, those with the largest -log p(background). An image without
    truths contributes nothing; a batch without truths gives 0. torchvision differs: it counts positives twice when negatives run out.
    """

    def __init__(self, *, negatives_per_positive: float = 3.0, box_scale: float = 1.0):
        super().__init__()
        if negatives_per_positive < 0:
            raise ValueError(f"negatives_per_positive={negatives_per_positive}: 0 or more is needed; the paper has 3")
        self.negatives_per_positive = negatives_per_positive
        self.box_scale = box_scale

    def forward(self, outputs: HeadOutputs, encoded: EncodedTargets, grid: AnchorGrid) -> dict[str, Tensor]:
        """Terms box and class. outputs.class_logits: (B, A, C + 1), background first."""
        positive = encoded.positive  # (B, A)
        logits, columns = outputs.class_logits, encoded.labels + 1  # column 0 is background, and labels are -1 there
        error = F.cross_entropy(logits.flatten(0, 1), columns.flatten(), reduction="none").view_as(columns)  # (B, A)
        smooth = F.smooth_l1_loss(outputs.offsets, encoded.offsets, reduction="none").sum(-1)
        count = positive.sum().clamp(min=1)
        return {
            "box": (smooth * positive).sum() * self.box_scale / count,
            "class": ((error * positive).sum() + self._mined(error, encoded)) / count,
        }

    def _mined(self, error: Tensor, encoded: EncodedTargets) -> Tensor:
        """Sum of the hardest negatives. error: (B, A) cross-entropy, which for the anchors of the background is -log p(background).

        A negative's cross-entropy is its own mining key, so the sum over the k largest needs no index: sort once, keep ranks below k.
        """
        rank = torch.arange(error.shape[1], device=error.device)
        background = encoded.matched == BACKGROUND
        hardest = torch.where(background, error, -1).sort(1, descending=True).values
        return (hardest * (rank < self._negatives(encoded, background))).sum()

    def _negatives(self, encoded: EncodedTargets, background: Tensor) -> Tensor:
        """(B, 1) negatives to mine in each image; background: (B, A) bool."""
        wanted = self.negatives_per_positive * encoded.positive.sum(1, keepdim=True)
        return torch.minimum(wanted, background.sum(1, keepdim=True))

    @torch.no_grad()
    def statistics(self, outputs: HeadOutputs, encoded: EncodedTargets, grid: AnchorGrid) -> dict[str, Tensor]:
        """negatives_per_positive: what mining really gave; below the setting where negatives ran out."""
        return {
            "negatives_per_positive": self._negatives(encoded, encoded.matched == BACKGROUND).sum() / encoded.positive.sum().clamp(min=1)
        }


def _meets(assigned: Tensor) -> Tensor:
    """(B, M) anchor of each truth, -1 for none -> (B, M, M) whether two truths have the same anchor."""
    return (assigned[:, :, None] == assigned[:, None, :]) & (assigned >= 0)[:, None, :]


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """(B, A, C) values, (B, M) anchor numbers (-1 reads row 0) -> (B, M, C)."""
    return values.gather(1, index.clamp(min=0)[..., None].expand(-1, -1, values.shape[-1]))
