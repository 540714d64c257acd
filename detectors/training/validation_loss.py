"""The loss on the validation split, from the outputs that an evaluation makes anyway."""

from __future__ import annotations

import torch
from torch import Tensor

from detectors.models.detector import Detector
from detectors.structures import HeadOutputs, Targets


class ValidationLoss:
    """Mean loss terms of a split.

    The loss is training's, on batches in evaluation mode, without augmentation. Each batch counts with its
    number of images: where the loss is itself a mean over images, as YOLOv2's is, the result is the mean over
    the split's images. The terms stay on the device until means().
    """

    def __init__(self, detector: Detector):
        self.detector = detector
        self.names: list[str] = []
        self.sums: list[Tensor] = []  # one (number of terms,) a batch: its terms times its images
        self.images = 0

    @torch.no_grad()
    def add(self, outputs: HeadOutputs, targets: Targets, size: tuple[int, int]) -> None:
        """A batch. size: (height, width) of the model input."""
        grid = self.detector.grid(size)
        terms = self.detector.loss(outputs, self.detector.encoder(targets, grid, outputs), grid)
        images = len(targets.boxes)
        self.names = list(terms)
        self.sums.append(torch.stack(list(terms.values())) * images)
        self.images += images

    def means(self) -> dict[str, float]:
        """Each term, and `total`, their sum; empty without a batch."""
        if not self.sums:
            return {}
        means = torch.stack(self.sums).cpu().double().sum(0) / self.images
        return {"total": means.sum().item(), **dict(zip(self.names, means.tolist(), strict=True))}
