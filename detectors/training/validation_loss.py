"""The loss on the validation split, from the outputs that an evaluation makes anyway."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from detectors.models.detector import Detector
from detectors.structures import HeadOutputs, Targets


class LossSums:
    """Loss terms of batches, summed over their images.

    Each batch counts with its number of images: where the loss is itself a mean over images, as YOLOv2's and
    a classifier's are, the mean is that over the split's images. The terms stay on the device until
    sums_on_host(). Of several processes, each has its share of the batches.
    """

    def __init__(self):
        self.names: list[str] = []
        self.sums: list[Tensor] = []  # one (number of terms,) a batch: its terms times its images
        self.images = 0

    def add_terms(self, terms: Mapping[str, Tensor], images: int) -> None:
        """The terms of a batch of so many images."""
        self.names = list(terms)
        self.sums.append(torch.stack(list(terms.values())) * images)
        self.images += images

    def sums_on_host(self) -> tuple[dict[str, float], int]:
        """The sum of each term over all images, and their number; no term without a batch."""
        if not self.sums:
            return {}, 0
        sums = torch.stack(self.sums).cpu().double().sum(0)
        return dict(zip(self.names, sums.tolist(), strict=True)), self.images


class ValidationLoss(LossSums):
    """A detector's mean loss terms of a split: training's loss, on batches in evaluation mode, without
    augmentation.
    """

    def __init__(self, detector: Detector):
        super().__init__()
        self.detector = detector

    @torch.no_grad()
    def add(self, outputs: HeadOutputs, targets: Targets, size: tuple[int, int]) -> None:
        """A batch. size: (height, width) of the model input."""
        grid = self.detector.grid(size)
        terms = self.detector.loss(outputs, self.detector.encoder(targets, grid, outputs), grid)
        self.add_terms(terms, len(targets.boxes))


def loss_means(parts: Iterable[tuple[dict[str, float], int]]) -> dict[str, float]:
    """The mean of each term, and `total`, their sum; empty without an image. parts: of all processes."""
    sums: Counter[str] = Counter()
    images = 0
    for part, count in parts:
        sums.update(part)
        images += count
    means = {name: value / images for name, value in sums.items()}
    return {"total": sum(means.values()), **means} if means else {}
