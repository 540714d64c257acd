"""The loss on the validation split, from the outputs that an evaluation makes anyway."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor

from detectors.models.detector import Detector
from detectors.structures import HeadOutputs, Targets


class ValidationLoss:
    """Mean loss terms of a split.

    The loss is training's, on batches in evaluation mode, without augmentation. Each batch counts with its
    number of images: where the loss is itself a mean over images, as YOLOv2's is, the result is the mean over
    the split's images. The terms stay on the device until sums_on_host(). Of several processes, each has its
    share of the batches.
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

    def sums_on_host(self) -> tuple[dict[str, float], int]:
        """The sum of each term over all images, and their number; no term without a batch."""
        if not self.sums:
            return {}, 0
        sums = torch.stack(self.sums).cpu().double().sum(0)
        return dict(zip(self.names, sums.tolist(), strict=True)), self.images


def loss_means(parts: Iterable[tuple[dict[str, float], int]]) -> dict[str, float]:
    """The mean of each term, and `total`, their sum; empty without an image. parts: of all processes."""
    sums: Counter[str] = Counter()
    images = 0
    for part, count in parts:
        sums.update(part)
        images += count
    means = {name: value / images for name, value in sums.items()}
    return {"total": sum(means.values()), **means} if means else {}
