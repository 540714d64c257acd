"""The target-encoding layer that both detectors share: ground truth -> what every anchor should predict."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detectors.boxes import paired_iou
from detectors.structures import AnchorGrid, BoxCoder, EncodedTargets, HeadOutputs, Matcher, Targets


class TargetEncoder(nn.Module):
    """A matcher and a coder for a whole batch on its device. No loop over images, no synchronisation."""

    def __init__(self, matcher: Matcher, coder: BoxCoder):
        super().__init__()
        self.matcher = matcher
        self.coder = coder

    @torch.no_grad()
    def forward(
        self, targets: Targets, grid: AnchorGrid, outputs: HeadOutputs | None = None
    ) -> EncodedTargets:
        """targets: boxes (B, M, 4) xyxy pixels of the model input.
        outputs: needed only if matcher.needs_predictions.
        """
        predicted = None
        if self.matcher.needs_predictions:
            assert outputs is not None
            predicted = self.coder.decode(outputs.offsets.detach(), grid)
        matched, assigned = self.matcher(targets, grid, predicted)
        return EncodedTargets(matched, assigned, targets, grid, self.coder)

    @torch.no_grad()
    def statistics(
        self, outputs: HeadOutputs, encoded: EncodedTargets, grid: AnchorGrid
    ) -> dict[str, Tensor]:
        """For the log: positives per image, and the mean IoU of positive predictions with their boxes.

        The mean is 0 without positives.
        """
        positive = encoded.positive
        count = positive.sum()
        iou = paired_iou(self.coder.decode(outputs.offsets, grid), encoded.boxes)  # (B, A)
        mean = torch.where(positive, iou, 0).sum() / count.clamp(min=1)
        return {"positives_per_image": count / len(positive), "mean_matched_iou": mean}
