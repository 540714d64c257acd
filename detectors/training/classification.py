"""The task of naming what an image shows: one step from images to loss terms, evaluation, pictures and the
facts about a classifier.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from detectors.annotations import Annotations
from detectors.data.loading import BatchLoader
from detectors.metrics.class_report import BEST_CLASSES, ClassReport, Guesses, class_report
from detectors.metrics.pr_curves import PrCurve
from detectors.models.classifier import Classifier
from detectors.structures import Batch
from detectors.training.mistakes_picture import confused_classes, mistakes_picture
from detectors.training.network_task import NetworkTask
from detectors.training.precision import network_precision
from detectors.training.run_log import shows_bar
from detectors.training.spans import span
from detectors.training.validation_loss import LossSums, loss_means


class ClassifierStep(nn.Module):
    """Images and labels -> loss terms, and the logits behind them.

    The loss is float32 whatever the precision of the network. It is one graph for torch.compile.
    """

    def __init__(self, classifier: Classifier, precision: str):
        super().__init__()
        self.classifier = classifier
        self.precision = precision

    def forward(self, images: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """(B, 3, H, W) uint8, (B,) -> terms, (B, C)"""
        with network_precision(self.precision, images.device):
            logits = self.classifier(images)
        with span("loss"):
            return self.classifier.loss(logits, labels), logits

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """The loss terms of a batch."""
        return self(batch.images, labels_of(batch))[0]


class ClassificationTask(NetworkTask):
    """A classifier and its validation split, as run.Task describes a task."""

    metric = "accuracy"
    headline = ("accuracy", "accuracy_top5", "accuracy_mean")

    step_class = ClassifierStep

    def __init__(self, classifier: Classifier, **parts: Any):
        """parts: see NetworkTask."""
        super().__init__(classifier, **parts)
        self._last_step: tuple[Tensor, Tensor] | None = None  # logits and labels, for `statistics`
        self._last_guesses: Guesses | None = None  # of the last evaluation, for `pictures`
        self._last_report: ClassReport | None = None

    def step(self, batch: Batch, exchange: bool = True) -> dict[str, Tensor]:
        """Loss terms of a batch. exchange: the backward pass averages all gradients over the processes."""
        labels = labels_of(batch)
        with span("forward"), self.exchanging(exchange):
            terms, logits = self.train_step(batch.images, labels)
        self._last_step = (logits, labels)
        return terms

    def resume(self, images_seen: int) -> None:
        """The loss does not depend on it."""

    @torch.no_grad()
    def statistics(self) -> dict[str, Tensor]:
        """Log-only numbers about the last step, on the device."""
        return self.module.loss.statistics(*self._last_step)

    def evaluate(self) -> ClassReport:
        """Accuracy on the validation split. Leaves `evaluated` in evaluation mode.

        Each process takes its share of the images.
        """
        processes = self.processes
        trainer = self.config.trainer
        processes.copy_from_first(self.evaluated)
        losses = LossSums()
        with processes.together():
            own, _ = guess(
                self.evaluated,
                self.val_loader,
                self.device,
                progress=trainer.progress,
                precision=trainer.precision,
                losses=losses,
            )
        processes.share_problems(self.val_loader)
        guesses, sums = zip(*processes.gathered((own, losses.sums_on_host())), strict=True)
        self._last_losses = loss_means(sums)
        joined = (np.concatenate(parts) for parts in zip(*guesses, strict=True))
        self._last_guesses = Guesses(*joined).by_row()
        self._last_report = class_report(self.val_annotations, self._last_guesses, self.tree)
        return self._last_report

    def curves(self) -> dict[str, float]:
        """Accuracy, of all images and by class; losses. No number lacks ground truth."""
        report = self._last_report
        numbers = {f"val/{name}": value for name, value in report.scalars.items()}
        numbers |= {f"val_class/{name}/accuracy": row["accuracy"] for name, row in report.per_class.items()}
        return self.measured_curves(numbers)

    def pictures(self) -> dict[str, list[np.ndarray]]:
        """The confusion matrix and the mistakes of the last evaluation."""
        if not len(self.val_annotations):
            return {}
        pictures = {"val/confusion": [confused_classes(self._last_report)]}
        mistakes = mistakes_picture(self.val_loader.dataset, self._last_guesses)
        return pictures | ({} if mistakes is None else {"val/mistakes": [mistakes]})

    def precision_recall(self) -> dict[str, PrCurve]:
        """A classifier has no threshold to vary."""
        return {}

    def summary(self) -> dict[str, Any]:
        """What summary.json says about the model and its data."""
        return {"task": self.config.task, **super().summary()}

    def described(self, annotations: Annotations) -> tuple[str, str]:
        """What a run says of the network, and of its training images, beside what all tasks share."""
        counts = np.bincount(annotations.labels, minlength=len(self.class_names))
        return (
            f"{len(self.class_names)} classes",
            f"of {len(annotations.class_names)} classes, {counts.min()} to {counts.max()} of each",
        )


def labels_of(batch: Batch) -> Tensor:
    """(B,) the label of each image: of its one box, see labelled_sets."""
    return batch.targets.labels[:, 0]


@torch.no_grad()
def guess(
    classifier: Classifier,
    loader: BatchLoader,
    device: torch.device,
    *,
    progress: bool,
    precision: str = "float32",
    losses: LossSums | None = None,
) -> tuple[Guesses, float]:
    """The best classes of every image of the loader, in its order.

    precision: trainer.precision of the run. losses: gets every batch.
    Also returns the seconds spent without loading. Leaves the classifier in evaluation mode.
    """
    classifier.eval()
    rows: list[int] = []
    found: list[tuple[Tensor, Tensor]] = []
    seconds = 0.0
    for batch in tqdm(loader, disable=not shows_bar(progress), desc="evaluate", leave=False):
        started = perf_counter()
        with network_precision(precision, device):
            logits = classifier(batch.images.to(device, non_blocking=True))
        probabilities, labels = classifier.best_classes(logits, BEST_CLASSES)
        found.append((labels, probabilities))
        rows += [info.index for info in batch.infos]
        seconds += perf_counter() - started
        if losses is not None:
            labels = labels_of(batch).to(device, non_blocking=True)
            losses.add_terms(classifier.loss(logits, labels), len(labels))
    started = perf_counter()
    empty = (torch.zeros(0, 1, dtype=torch.int64), torch.zeros(0, 1))
    labels, probabilities = (
        torch.cat(parts).cpu().numpy() for parts in zip(*(found or [empty]), strict=True)
    )
    guesses = Guesses(np.array(rows, np.int64), labels, probabilities)
    return guesses, seconds + perf_counter() - started
