"""SSD's loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from detectors.losses.shared_loss import SharedLoss, check_choice
from detectors.structures import BACKGROUND, IGNORED, AnchorGrid, EncodedTargets, HeadOutputs, builder


@builder("loss")
class MultiBoxLoss(SharedLoss):
    """SSD's loss, equations 1 to 3; by default as in Caffe (multibox_loss_layer.cpp, branch ssd, 4817bf8).

    L = (cross-entropy over positives and mined negatives + box_scale * smooth L1 over positives) / n,
    n = max(1, positives in the batch)

    Negatives are mined per image: for each positive, negatives_per_positive of those with the largest
    -log p(background). An image without boxes contributes nothing; a batch without boxes gives 0.
    """

    def __init__(
        self,
        *,
        negatives_per_positive: float = 3.0,
        box_scale: float = 1.0,
        normalizer: str = "batch",
        recount_positives: bool = False,
    ):
        """normalizer: "batch" divides by max(1, positives). "images" divides each image's loss by max(1, its
            positives), and takes the mean over images. "floor" divides by the sum over images of max(1, its
            positives).
        recount_positives: if an image has too few negatives, its first positives make up the number, so that
            their class error counts twice (torchvision).
        """
        super().__init__()
        if negatives_per_positive < 0:
            raise ValueError(
                f"negatives_per_positive={negatives_per_positive}: 0 or more is needed; the paper has 3"
            )
        check_choice(
            "normalizer", normalizer, batch="Caffe, torchvision", images="NVIDIA", floor="mmdetection"
        )
        self.negatives_per_positive = negatives_per_positive
        self.box_scale = box_scale
        self.normalizer = normalizer
        self.recount_positives = recount_positives

    def forward(self, outputs: HeadOutputs, encoded: EncodedTargets, grid: AnchorGrid) -> dict[str, Tensor]:
        """Terms box and class. outputs.class_logits: (B, A, C + 1), background first."""
        positive = encoded.positive  # (B, A)
        count = positive.sum(1, keepdim=True)  # (B, 1)
        columns = encoded.labels + 1  # (B, A); column 0 is background, whose label is -1
        logits = outputs.class_logits.flatten(0, 1)
        error = F.cross_entropy(logits, columns.flatten(), reduction="none").view_as(columns)  # (B, A)
        smooth = F.smooth_l1_loss(outputs.offsets, encoded.offsets, reduction="none").sum(-1)
        divisor = self._normalizer(count)
        share = positive / divisor  # (B, A)
        return {
            "box": (smooth * share).sum() * self.box_scale,
            "class": (error * share).sum() + (self._mined(error, encoded, count) / divisor).sum(),
        }

    def _normalizer(self, count: Tensor) -> Tensor:
        """(B, 1) positives of each image -> () or (B, 1) divisor of the errors."""
        if self.normalizer == "batch":
            positives = self._shared(count.sum())
            return torch.where(positives > 0, positives, 1)  # a mean over processes can be below 1
        if self.normalizer == "floor":
            return self._shared(count.clamp(min=1).sum())
        return count.clamp(min=1) * len(count)

    def _mined(self, error: Tensor, encoded: EncodedTargets, count: Tensor) -> Tensor:
        """(B, A) errors of the hardest negatives, largest first, then zeros. error: (B, A) cross-entropy.

        The cross-entropy of a negative, -log p(background), is its own mining key, so the k largest need no
        index: sort once and keep ranks below k.
        """
        background = encoded.matched == BACKGROUND
        if self.recount_positives:
            # After the negatives come the positives (key -1), then ignored anchors (key -3).
            key = torch.where(background, error, encoded.matched.clamp(max=0).to(error.dtype) - 1)
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
        """negatives_per_positive: the ratio that mining reaches; it is lower where negatives run out."""
        count = encoded.positive.sum(1, keepdim=True)
        return {"negatives_per_positive": self._negatives(encoded, count).sum() / count.sum().clamp(min=1)}
