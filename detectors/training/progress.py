"""What a training loop watches: its progress, recent losses, where time goes, and requests to stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor

from detectors.structures import Batch


@dataclass
class Progress:
    """What a run has done. With weights, optimiser and random state, it is all that a resume needs."""

    step: int = 0  # optimiser steps
    images_seen: int = 0
    train_seconds: float = 0.0  # in training steps and waiting for data, without evaluation
    best: float = -1.0  # the task's metric in the best evaluation
    best_step: int | None = None  # of the best evaluation; unknown in older checkpoints
    best_scalars: dict[str, float | None] = field(default_factory=dict)  # all numbers of the best evaluation


class Recent:
    """Loss terms since the last log line, on the device. Reading them is the loop's only synchronisation."""

    def __init__(self):
        self.clear()

    def clear(self) -> None:
        self.names: list[str] = []
        self.terms: list[Tensor] = []  # one (number of terms,) a batch
        self.origin: list[tuple[int, list[str]]] = []  # the step and the images of each batch

    def add(self, terms: dict[str, Tensor], step: int, batch: Batch) -> None:
        self.names = list(terms)
        self.terms.append(torch.stack([term.detach() for term in terms.values()]))
        self.origin.append((step, [info.path for info in batch.infos]))

    def means(self) -> dict[str, float]:
        """Mean of each term and of their total since the last call.

        FloatingPointError if one is not finite.
        """
        values = self.check()
        names = self.names
        self.clear()
        return {
            "total": values.sum(1).mean().item(),
            **dict(zip(names, values.mean(0).tolist(), strict=True)),
        }

    def check(self) -> Tensor:
        """(batches, terms) on the host.

        FloatingPointError names the first step with a non-finite term, its terms and its images.
        """
        values = torch.stack(self.terms).cpu() if self.terms else torch.zeros(0, len(self.names))
        bad = (~values.isfinite()).any(1)
        if bad.any():
            first = int(bad.nonzero()[0])
            step, paths = self.origin[first]
            terms = ", ".join(
                f"{name}={value:g}" for name, value in zip(self.names, values[first].tolist(), strict=True)
            )
            raise FloatingPointError(
                f"step {step}: the loss is not finite ({terms}). Try a lower optimizer.rate, more "
                "schedule.warmup_steps or trainer.clip_grad_norm; the last checkpoint is from before. "
                "Images of the batch:\n  " + "\n  ".join(paths)
            )
        return values


class Clock:
    """Seconds of training without evaluation, and how many of them the loop waited for data."""

    def __init__(self, progress: Progress):
        self.progress = progress
        self.waited = 0.0
        self.images = progress.images_seen
        self.seconds = progress.train_seconds
        self.started = perf_counter()

    def wait_for(self, batches: Iterator[Batch]) -> Batch:
        before = perf_counter()
        batch = next(batches)
        self.waited += perf_counter() - before
        return batch

    def pause(self) -> None:
        self.progress.train_seconds += perf_counter() - self.started

    def resume(self) -> None:
        self.started = perf_counter()

    def rates(self) -> dict[str, float]:
        """Images a second, and the share of time spent waiting for data, since the last call."""
        self.pause()
        self.resume()
        seconds = max(self.progress.train_seconds - self.seconds, 1e-9)
        images = self.progress.images_seen - self.images
        waited = self.waited
        self.waited = 0.0
        self.images = self.progress.images_seen
        self.seconds = self.progress.train_seconds
        return {"images_per_second": images / seconds, "data_wait": waited / seconds}


@contextmanager
def stop_requests() -> Iterator[list]:
    """A list that is empty until Ctrl-C or SIGTERM arrives. A second signal ends the program at once.

    Outside of the main thread it stays empty.
    """
    requests: list[int] = []

    def note(number: int, frame: object) -> None:
        if requests:
            raise KeyboardInterrupt
        requests.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # only the main thread may handle signals
        before = {}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
