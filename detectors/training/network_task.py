"""What the tasks of a run share: a network, its validation split, the training step and facts."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import nn

from detectors.annotations import Annotations
from detectors.config.schema import Config
from detectors.data.loading import BatchLoader
from detectors.metrics.tree_report import TaughtNodes
from detectors.models.image_network import ImageNetwork
from detectors.training.compilation import compile_step
from detectors.training.distributed import ALONE, Processes, parallel, without_exchange


class NetworkTask:
    """The part of run.Task that does not depend on what is learned."""

    step_class: type[nn.Module]  # (network, precision) -> the training step as one module

    def __init__(
        self,
        network: ImageNetwork,
        *,
        config: Config,
        device: torch.device,
        val_loader: BatchLoader,
        val_annotations: Annotations,
        processes: Processes = ALONE,
        averaged: nn.Module | None = None,
        tree: TaughtNodes | None = None,
    ):
        """averaged: the network's average, Ema.module, which is evaluated in its place.
        tree: of the classes.
        """
        self.module = network
        self.evaluated = network if averaged is None else averaged
        self.config = config
        self.device = device
        self.val_loader = val_loader
        self.val_annotations = val_annotations
        self.class_names = val_annotations.class_names
        self.processes = processes
        self.tree = tree
        self._last_losses: dict[str, float] = {}  # of the last evaluation

    @cached_property
    def train_step(self) -> nn.Module:
        """All processes make it at their first step, when none has failed before: they compare parameters."""
        config = self.config
        step = self.step_class(self.module, config.trainer.precision)
        if config.trainer.compile:
            scales = config.input.multi_scale
            compile_step(
                step,
                self.device,
                sizes=len(scales.sides()) if scales else 1,
                cuda_graphs=config.trainer.cuda_graphs,
            )
        return parallel(step, self.processes)

    def exchanging(self, exchange: bool) -> AbstractContextManager:
        """For a call of train_step, see run.Task.step."""
        return nullcontext() if exchange else without_exchange(self.train_step)

    def measured_curves(self, numbers: Mapping[str, float | None]) -> dict[str, float]:
        """Tags and numbers of an evaluation, those without ground truth left out, and what all tasks add."""
        curves = {tag: value for tag, value in numbers.items() if value is not None}
        curves |= {f"val/loss/{name}": value for name, value in self._last_losses.items()}
        if broken := len(self.val_loader.problems):
            curves["val/broken_images"] = broken
        return curves

    @cached_property
    def gflops(self) -> float:
        """GFLOPs of one image at the configured input size. Counting them takes a copy of the network."""
        return self.module.flops(self.config.input.size) / 1e9

    def summary(self) -> dict[str, Any]:
        """What summary.json says about the model and its data."""
        return {
            "model": self.config.model["_target_"].rpartition(".")[2],
            "data": self.config.data.name,
            "input_size": self.config.input.size,
            "parameters": sum(parameter.numel() for parameter in self.module.parameters()),
            "gflops": self.gflops,
        }
