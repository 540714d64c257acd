"""An exponential moving average of a network's weights, which evaluates better than the last step's."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from detectors.training.checkpoint_checks import check_model_state


class Ema:
    """The average, as a network of its own in evaluation mode: `module`.

    average = d * average + (1 - d) * weights after each optimiser step t, with d = decay_at(t). BatchNorm's
    running mean and variance are averaged, too, so that they belong to the averaged weights; whole numbers
    (num_batches_tracked, images_seen) are copied.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    def decay_at(self, step: int) -> float:
        """min(decay, (1 + step) / (10 + step)), as TensorFlow's ExponentialMovingAverage has it.

        Without this warm-up the random weights of the start would stay in the average for 1 / (1 - decay)
        steps.
        """
        return min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """After optimiser step `step` of `module`, from 1. Nothing waits for the device."""
        averaged: list[Tensor] = []
        current: list[Tensor] = []
        for own, other in zip(_tensors(self.module), _tensors(module), strict=True):
            if own.is_floating_point():
                averaged.append(own)
                current.append(other)
            else:
                own.copy_(other)
        get_ema_multi_avg_fn(self.decay_at(step))(averaged, current, step)

    def restore(self, state: dict[str, Tensor], place: str) -> None:
        """Takes up a stored average; {} leaves it at the weights that it was made of.

        ValueError, with `place`, if it does not fit.
        """
        if state:
            check_model_state(self.module.state_dict(), state, f"{place}: ema")
            self.module.load_state_dict(state)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
