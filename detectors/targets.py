"""The target-encoding layer that both detectors share: truths of a batch -> what every anchor should predict."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detectors.boxes import paired_iou
from detectors.structures import AnchorGrid, BoxCoder, EncodedTargets, HeadOutputs, Matcher, Targets


class TargetEncoder(nn.Module):
    """A matcher and a coder, on the device, for the whole batch at once, with no loop over images and no host synchronisation."""

    def __init__(self, matcher: Matcher, coder: BoxCoder):
        super().__init__()
        self.matcher = matcher
        self.coder = coder

    @torch.no_grad()
    def forward(
        self, targets: Targets, grid: AnchorGrid, outputs: HeadOutputs | None = None
    ) -> EncodedTargets:
        """targets: boxes (B, M, 4) xyxy pixels of the model input. `outputs` is read only if the matcher needs predictions.

        An anchor without a truth gets its own box as target, so that every number is finite; for YOLO its offsets are then
        (0.5, 0.5, 0, 0), which is what Darknet's prior term pulls towards.
        """
        predicted = (
            self.coder.decode(outputs.offsets.detach(), grid) if self.matcher.needs_predictions else None
        )
        matched, assigned = self.matcher(targets, grid, predicted)
        boxes, labels = (
            grid.boxes.expand(len(matched), -1, -1),
            matched,
        )  # (B, A, 4), (B, A); both as they are when nothing matches
        if targets.labels.shape[1]:
            row, positive = matched.clamp(min=0), matched >= 0
            boxes = torch.where(
                positive[..., None], targets.boxes.gather(1, row[..., None].expand(-1, -1, 4)), boxes
            )
            labels = torch.where(positive, targets.labels.gather(1, row), -1)
        return EncodedTargets(matched, assigned, boxes, self.coder.encode(boxes, grid), labels, targets)

    @torch.no_grad()
    def statistics(
        self, outputs: HeadOutputs, encoded: EncodedTargets, grid: AnchorGrid
    ) -> dict[str, Tensor]:
        """Log-only: positives per image, and the mean IoU of what the positive anchors predict with their truths (0 without positives)."""
        positive = encoded.positive
        count = positive.sum()
        iou = paired_iou(self.coder.decode(outputs.offsets, grid), encoded.boxes)  # (B, A)
        mean = torch.where(positive, iou, 0).sum() / count.clamp(min=1)
        return {"positives_per_image": count / len(positive), "mean_matched_iou": mean}
