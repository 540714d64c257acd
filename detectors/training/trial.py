"""A training whose weights nobody keeps: to try rates, or how much memory a step takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detectors.config.build import build
from detectors.config.schema import Config
from detectors.structures import Batch
from detectors.training import assemble
from detectors.training.freezing import freeze, train_mode
from detectors.training.optim import set_rate
from detectors.training.precision import LossScaler, suited
from detectors.training.tasks import task_class
from detectors.training.update import clip_gradients


class TrialTraining:
    """The steps of a new training: train.py's, with frozen parameters, gradient clipping and precision, but
    without schedule, average and evaluation. They are not compiled.
    """

    def __init__(self, config: Config, num_classes: int, device: torch.device):
        trainer = config.trainer
        self.clip_grad_norm = trainer.clip_grad_norm
        self.detector = assemble.seeded_detector(config, num_classes).to(device)
        freeze(self.detector, trainer.freeze)
        train_mode(self.detector, freeze_statistics=trainer.freeze_statistics)
        self.losses = task_class(config).step_class(self.detector, trainer.precision)
        self.optimizer = suited(build(config.optimizer, self.detector), trainer.precision, device)
        self.scaler = LossScaler(self.optimizer, trainer.precision, device)

    def step(self, batches: Sequence[Batch], rate: float) -> Tensor:
        """One optimiser step over batches on the device. Returns the mean loss, on the device."""
        set_rate(self.optimizer, rate)
        loss = self.gradients(batches)
        self.scaler.unscale()
        clip_gradients(self.detector, self.clip_grad_norm)
        self.scaler.step()
        return loss

    def gradients(self, batches: Sequence[Batch]) -> Tensor:
        """The forward and backward passes of a step alone. Returns the mean loss, on the device."""
        self.optimizer.zero_grad(set_to_none=True)
        losses = []
        for batch in batches:
            loss = sum(self.losses.terms(batch).values()) / len(batches)
            self.scaler.scale(loss).backward()
            losses.append(loss.detach())
        return torch.stack(losses).sum()
