"""What a training is made of: its parts, the task that it learns, and what an evaluation gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from detectors.annotations import Annotations
from detectors.config.schema import Config
from detectors.data.loading import BatchLoader
from detectors.metrics.pr_curves import PrCurve
from detectors.structures import Batch
from detectors.training.device_copies import DeviceCopies
from detectors.training.distributed import ALONE, Processes
from detectors.training.ema import Ema
from detectors.training.hooks import Hooks
from detectors.training.nonfinite import StepGuard
from detectors.training.precision import LossScaler
from detectors.training.progress import Progress, Recent
from detectors.training.tracking import Tracker


class Evaluation(Protocol):
    """What a task measured on its validation split; Report and ClassReport of metrics/ are such."""

    scalars: Mapping[str, float | None]  # None where there is no ground truth to measure on
    images: int  # 0 without a validation split

    def as_dict(self) -> dict[str, Any]: ...  # for summary.json

    def table(self) -> str: ...  # for the terminal


class Task(Protocol):
    """What is learned. `step` must not wait for the device."""

    metric: str  # key of Evaluation.scalars that decides which checkpoint is the best; higher is better
    headline: Sequence[str]  # keys of Evaluation.scalars for tables of runs
    module: nn.Module  # what is trained and saved
    gflops: float  # of one image
    evaluated: nn.Module  # what `evaluate` measures: `module`, or its average
    class_names: Sequence[str]

    # Named, already weighted loss terms of a batch. exchange: the backward pass averages the gradients over
    # the processes.
    def step(self, batch: Batch, exchange: bool = True) -> dict[str, Tensor]: ...

    def resume(self, images_seen: int) -> None: ...  # tells it how many images the run has already seen

    def statistics(self) -> dict[str, Tensor]: ...  # log-only numbers about the batch that `step` saw last

    def evaluate(self) -> Evaluation: ...

    def curves(self) -> Mapping[str, float]: ...  # tag -> number of the last evaluation

    def pictures(self) -> Mapping[str, Sequence[np.ndarray]]: ...  # tag -> images of the last evaluation

    def precision_recall(self) -> Mapping[str, PrCurve]: ...  # class -> curve of the last evaluation

    def summary(self) -> dict[str, Any]: ...  # facts about the model, for summary.json

    # What a run says at its start of the network, and of its training images.
    def described(self, annotations: Annotations) -> tuple[str, str]: ...


@dataclass
class Run:
    """The parts of a training, built by commands/train.py."""

    config: Config
    folder: Path
    task: Task
    optimizer: torch.optim.Optimizer
    train_loader: BatchLoader
    device: torch.device
    tracker: Tracker = field(default_factory=Tracker)
    ema: Ema | None = None
    progress: Progress = field(default_factory=Progress)
    recent: Recent = field(default_factory=Recent)
    saved_step: int = 0  # of last.pt
    saved_at: float = field(default_factory=perf_counter)  # when it was written
    saved: Path | None = None  # the checkpoint of that step; None: nothing was saved yet
    guard: StepGuard | None = field(init=False, default=None)  # with trainer.on_nonfinite=skip
    hooks: Hooks = field(default_factory=Hooks)  # the user's functions
    processes: Processes = ALONE
    scaler: LossScaler = field(init=False)
    to_device: DeviceCopies = field(init=False)

    def __post_init__(self):
        self.to_device = DeviceCopies(self.device)
        self.scaler = LossScaler(self.optimizer, self.config.trainer.precision, self.device)
        if self.config.trainer.on_nonfinite == "skip":
            self.guard = StepGuard(
                self.task.module,
                self.optimizer,
                self.device,
                average=self.processes.mean,
                averaged=self.ema and self.ema.module,
            )
            self.recent.skips = True
