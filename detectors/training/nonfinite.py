"""NaN and infinity in a training: the error that ends a run, and steps that are left out instead."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

SKIPS_IN_A_ROW = 20  # steps left out one after another, at which a run ends


class NotFiniteError(FloatingPointError):
    """Losses or the state of a run are not finite. step: the latest at which they can have become so."""

    def __init__(self, text: str, step: int):
        super().__init__(text)
        self.step = step


def first_not_finite(model: Mapping[str, Tensor], optimizer: Mapping[str, Any]) -> str | None:
    """The name of the first tensor of a state with a NaN or infinity. Waits for the device once."""
    tensors = dict(model)
    for number, state in optimizer["state"].items():
        tensors |= {f"{key} of parameter {number} in the optimizer": value for key, value in state.items()}
    return next(iter(not_finite(tensors)), None)


def not_finite(tensors: Mapping[str, Any]) -> list[str]:
    """The names of those tensors that hold a NaN or infinity, in order. Waits for the device once."""
    tensors = {name: value for name, value in tensors.items() if isinstance(value, Tensor)}
    floating = {name: value for name, value in tensors.items() if value.is_floating_point()}
    if not floating:
        return []
    device = next(iter(floating.values())).device
    finite = torch.stack([value.isfinite().all().to(device) for value in floating.values()]).tolist()
    return [name for name, good in zip(floating, finite, strict=True) if not good]


class StepGuard:
    """trainer.on_nonfinite=skip: undoes each step that gives a NaN or infinity, without waiting.

    A step begins with a copy of all that a checkpoint stores of the module, its average and the optimiser,
    BatchNorm's statistics included, and ends with a choice between the copy and the new values. Law: the
    state after a bad step equals the state before it, bit for bit (tests/training/test_nonfinite.py). What
    the optimiser counts on the host while the weights are on a GPU, such as Adam's steps, is not undone.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        average: Callable[[Tensor], Tensor] = lambda number: number,
        averaged: nn.Module | None = None,
    ):
        """averaged: the network of averaged weights, if there is one. average: over the processes that train
        together, which leave out the same steps.
        """
        self.module = module
        self.averaged = averaged
        self.optimizer = optimizer
        self.device = device
        self.average = average
        self.before: dict[Hashable, Tensor] = {}
        self.resume(0, 0)

    def resume(self, skipped: int, in_a_row: int) -> None:
        """Takes up the counts of an earlier process."""
        self.counts = torch.tensor([skipped, in_a_row, in_a_row], device=self.device)  # and the longest row

    @torch.no_grad()
    def remember(self) -> None:
        """To be called before the first forward pass of a step."""
        self.before = {name: value.clone() for name, value in self._state().items()}

    @torch.no_grad()
    def settle(self, losses: Sequence[Tensor]) -> None:
        """To be called after the optimiser's step. losses: of all the step's batches."""
        state = self._state()
        numbers = [value for value in state.values() if value.is_floating_point() and value.numel()]
        bad = ~self.average(get_total_norm([*losses, *numbers], norm_type=math.inf)).isfinite()
        for name, value in state.items():
            # PyTorch's optimisers create their state in the first step, from zeros.
            before = self.before[name] if name in self.before else torch.zeros_like(value)
            torch.where(bad, before, value, out=value)
        skipped, in_a_row, longest = self.counts.unbind()
        in_a_row = (in_a_row + 1) * bad
        self.counts = torch.stack([skipped + bad, in_a_row, torch.maximum(longest, in_a_row)])
        self.before = {}

    def read(self, counts: Tensor, step: int) -> tuple[int, int]:
        """Steps left out so far, in all and in the current row. counts: self.counts, on the host.

        NotFiniteError if SKIPS_IN_A_ROW were left out one after another. step: that was made last.
        """
        skipped, in_a_row, longest = counts.tolist()
        if longest >= SKIPS_IN_A_ROW:
            raise NotFiniteError(
                f"step {step}: {longest} steps one after another were not finite and left out", step
            )
        return skipped, in_a_row

    def _state(self) -> dict[Hashable, Tensor]:
        """What a checkpoint stores of the module, its average and the optimiser, if it is on the device."""
        tensors: dict[Hashable, Any] = dict(self.module.state_dict())
        if self.averaged is not None:
            tensors |= {("averaged", name): value for name, value in self.averaged.state_dict().items()}
        for parameter, state in self.optimizer.state.items():
            tensors |= {(id(parameter), key): value for key, value in state.items()}
        return {
            name: value
            for name, value in tensors.items()
            if isinstance(value, Tensor) and value.device.type == self.device.type
        }
