"""The task of finding objects: one step from images to loss terms, evaluation, pictures and the facts about a
detector.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from detectors.annotations import Annotations
from detectors.data.loading import BatchLoader
from detectors.metrics.confusion import confusion_matrix
from detectors.metrics.pr_curves import PrCurve
from detectors.metrics.report import Report, report
from detectors.metrics.tree_report import most_specific
from detectors.models.detector import Detector
from detectors.structures import AnchorGrid, Batch, Detections, EncodedTargets, HeadOutputs, Targets
from detectors.training.compilation import GRAPH_COLUMNS, with_variable_count
from detectors.training.confusion_picture import confusion_picture
from detectors.training.detection_fetcher import DetectionFetcher
from detectors.training.network_task import NetworkTask
from detectors.training.precision import network_precision
from detectors.training.probes import Probes
from detectors.training.run_log import shows_bar
from detectors.training.spans import span
from detectors.training.validation_loss import ValidationLoss, loss_means
from detectors.wordtree.tree_scores import TreeScores

PROBE_SCORE = 0.3  # detections below this are not drawn, and not in the confusion matrix
CONFUSION_CAPTION = f"rows: true; columns: detected (score >= {PROBE_SCORE}, IoU > 0.5); shade: share of row"


class TrainStep(nn.Module):
    """Images, targets and anchors -> loss terms, and the outputs and encoded targets behind them.

    Offsets, targets and losses are float32 whatever the precision of the network. It is one graph for
    torch.compile (tests/training/test_compiled_step.py).
    """

    def __init__(self, detector: Detector, precision: str):
        super().__init__()
        self.detector = detector
        self.precision = precision

    def forward(
        self, images: Tensor, targets: Targets, grid: AnchorGrid
    ) -> tuple[dict[str, Tensor], HeadOutputs, EncodedTargets]:
        detector = self.detector
        with network_precision(self.precision, images.device):
            outputs = detector(images)
        with span("loss"):
            encoded = detector.encoder(targets, grid, outputs)
            return detector.loss(outputs, encoded, grid), outputs, encoded

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """The loss terms of a batch."""
        return self(batch.images, batch.targets, self.detector.grid(batch.images.shape[-2:]))[0]


class DetectionTask(NetworkTask):
    """A detector and its validation split, as run.Task describes a task."""

    metric = "AP"  # COCO's
    headline = ("AP", "AP50_voc07", "AP50_voc10")

    step_class = TrainStep

    def __init__(self, detector: Detector, **parts: Any):
        """parts: see NetworkTask."""
        super().__init__(detector, **parts)
        self.probes = Probes(self.val_loader, self.val_annotations, self.config.trainer.probe_images)
        self._last_step: tuple | None = None  # outputs, encoded targets and anchors, for `statistics`
        self._last_detections: Detections | None = None  # of the last evaluation, for `pictures`
        self._last_report: Report | None = None
        self._anchors_shown = False

    def step(self, batch: Batch, exchange: bool = True) -> dict[str, Tensor]:
        """Loss terms of a batch. exchange: the backward pass averages all gradients over the processes."""
        grid = self.module.grid(batch.images.shape[-2:])
        trainer = self.config.trainer
        targets = batch.targets
        if trainer.compile:
            targets = with_variable_count(targets, GRAPH_COLUMNS if trainer.cuda_graphs else 1)
        with span("forward"), self.exchanging(exchange):
            terms, outputs, encoded = self.train_step(batch.images, targets, grid)
        self._last_step = (outputs, encoded, grid)
        return terms

    def resume(self, images_seen: int) -> None:
        """Gives the number to a loss that depends on it: YOLOv2's prior term ends after some images."""
        for module in (self.module, self.evaluated):
            counter = dict(module.loss.named_buffers()).get("images_seen")
            if counter is not None:
                counter.fill_(images_seen)

    @torch.no_grad()
    def statistics(self) -> dict[str, Tensor]:
        """Log-only numbers about the last step, on the device."""
        encoder = self.module.encoder.statistics(*self._last_step)
        return {**encoder, **self.module.loss.statistics(*self._last_step)}

    def evaluate(self) -> Report:
        """Average precision on the validation split. Leaves `evaluated` in evaluation mode.

        Each process takes its share of the images; the first one computes.
        """
        show = self.config.trainer.progress
        precision = self.config.trainer.precision
        processes = self.processes
        processes.copy_from_first(self.evaluated)
        losses = ValidationLoss(self.evaluated)
        with processes.together():
            own, _ = detect(
                self.evaluated,
                self.val_loader,
                self.device,
                progress=show,
                precision=precision,
                losses=losses,
            )
        processes.share_problems(self.val_loader)
        detections, sums = zip(*processes.gathered((own, losses.sums_on_host())), strict=True)
        self._last_losses = loss_means(sums)
        self._last_detections = Detections.concatenate(detections).by_image()
        with processes.together():
            measured = None
            if processes.first:
                measured = report(self.val_annotations, self._last_detections, tree=self.tree)
        self._last_report = processes.of_first(measured)
        return self._last_report

    def curves(self) -> dict[str, float]:
        """Precision and recall by definition, size and class; losses. No number lacks ground truth."""
        numbers = {f"val/{name}": value for name, value in self._last_report.scalars.items()}
        for name, row in self._last_report.per_class.items():
            numbers |= {f"val_class/{name}/{key}": row[key] for key in ("AP", "AP50")}
        return self.measured_curves(numbers)

    def pictures(self) -> dict[str, list[np.ndarray]]:
        """The probe images and the confusion matrix of the last evaluation.

        Anchors are drawn at the first one only, unless their matching depends on predictions.
        """
        if not len(self.val_annotations):
            return {}
        detections = self._last_detections
        if self.tree is not None:
            detections = most_specific(detections.above(PROBE_SCORE), self.tree)
        pictures = {"probe/detections": self.probes.with_detections(detections, PROBE_SCORE)}
        if not self._anchors_shown or self.module.encoder.matcher.needs_predictions:
            self._anchors_shown = True
            pictures["probe/anchors"] = self.probes.with_anchors(self.module)
        if self.tree is None:  # of nodes that lie below each other, none is taken for the other
            matrix = confusion_matrix(self.val_annotations, detections, score=PROBE_SCORE)
            pictures["val/confusion"] = [confusion_picture(matrix, self.class_names, CONFUSION_CAPTION)]
        return pictures

    def precision_recall(self) -> dict[str, PrCurve]:
        """By class, for those with ground truth."""
        return self._last_report.pr_curves

    def described(self, annotations: Annotations) -> tuple[str, str]:
        """What a run says of the network, and of its training images, beside what all tasks share."""
        grid = self.module.grid(self.config.input.size)
        levels = ", ".join(f"{level.rows}x{level.columns}x{level.per_location}" for level in grid.levels)
        labels = annotations.image_labels
        alone = 0 if labels is None else np.count_nonzero(labels >= 0)
        return (
            f"{grid.num_anchors} anchors ({levels})",
            f"with {len(annotations.labels)} boxes of {len(annotations.class_names)} classes"
            + (f", {alone} of them with a label alone" if alone else ""),
        )


@contextmanager
def every_node_scored(detector: Detector, device: torch.device) -> Iterator[None]:
    """Scores of all nodes of a tree, whatever model.tree_rule says, so that each has an average precision.

    model.detection_map, which chooses nodes, stays. A detector without a tree stays as it is, and an exported
    one, whose suppression is inside of its file.
    """
    postprocess = getattr(detector, "postprocess", None)
    rule = getattr(postprocess, "score_rule", None)
    if not isinstance(rule, TreeScores) or rule.columns is not None:
        yield
        return
    postprocess.score_rule = TreeScores(rule.tree, rule="every_node", least=rule.least).to(device)
    try:
        yield
    finally:
        postprocess.score_rule = rule


@torch.no_grad()
def detect(
    detector: Detector,
    loader: BatchLoader,
    device: torch.device,
    *,
    progress: bool,
    precision: str = "float32",
    losses: ValidationLoss | None = None,
    clip: bool = True,
) -> tuple[Detections, float]:
    """Detections of every image of the loader, in the original frame; `image` is the row of its Annotations.

    precision: trainer.precision of the run. losses: gets every batch. clip: boxes are cut to their images.
    Also returns the seconds spent without loading. Leaves the detector in evaluation mode.
    """
    detector.eval()
    fetcher = DetectionFetcher(detector, device, clip=clip)
    seconds = 0.0
    with every_node_scored(detector, device):
        for batch in tqdm(loader, disable=not shows_bar(progress), desc="evaluate", leave=False):
            started = perf_counter()
            images = batch.images.to(device, non_blocking=True)
            with network_precision(precision, device):
                outputs = detector(images)
            fetcher.add(outputs, batch.infos, images.shape[-2:])
            seconds += perf_counter() - started
            if losses is not None:
                losses.add(outputs, batch.targets.to(device, non_blocking=True), images.shape[-2:])
        started = perf_counter()
        detections = fetcher.finish()
    return detections, seconds + perf_counter() - started
