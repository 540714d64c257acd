"""What a training loop watches: its progress, recent losses, where time goes, and requests to stop."""

from __future__ import annotations

import signal
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor

from detectors.structures import Batch
from detectors.training.distributed import ALONE, Processes
from detectors.training.nonfinite import NotFiniteError
from detectors.training.spans import span

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
REPEAT = 1.0  # seconds
LATER = 0.05  # seconds


def is_due(every: int, step: int) -> bool:
    """Whether something that happens every N steps (0: never) happens after this one."""
    return every > 0 and step % every == 0


@dataclass
class Progress:
    """What a run has done. With weights, optimiser and random state, it is all that a resume needs."""

    step: int = 0  # optimiser steps
    images_seen: int = 0
    train_seconds: float = 0.0  # in training steps and waiting for data, without evaluation
    best: float = -1.0  # the task's metric in the best evaluation
    best_step: int | None = None  # of the best evaluation; unknown in older checkpoints
    best_scalars: dict[str, float | None] = field(default_factory=dict)  # all numbers of the best evaluation
    evaluated: int = 0  # step of the last evaluation
    stop_best: dict[str, float] = field(default_factory=dict)  # trainer.stop_metric: its best number
    stop_waited: int = 0  # evaluations since then
    skipped_steps: int = 0  # left out, because they were not finite
    skipped_in_a_row: int = 0  # of them, those since the last step that was not left out


class Recent:
    """Loss terms since the last log line, on the device.

    skips: batches with a term that is not finite do not count, instead of ending the run. average: over the
    processes that train together.
    """

    def __init__(self, average: Callable[[Tensor], Tensor] = lambda terms: terms):
        self.average = average
        self.skips = False
        self.clear()

    def clear(self) -> None:
        self.names: list[str] = []
        self.terms: list[Tensor] = []  # one (number of terms,) a batch
        self.origin: list[tuple[int, list[str]]] = []  # the step and the images of each batch

    def state(self) -> dict[str, list[str] | Tensor]:
        """For a checkpoint: `names`, and `terms` (batches, terms) on the host."""
        return {"names": self.names, "terms": self.stacked().cpu()} if self.terms else {}

    def restore(self, state: dict[str, list[str] | Tensor], device: torch.device) -> None:
        """Takes up what state() returned; the terms were finite then, so their images are not needed."""
        self.names = list(state.get("names", []))
        self.terms = list(state["terms"].to(device)) if state else []
        self.origin = [(0, [])] * len(self.terms)

    def add(self, terms: dict[str, Tensor], step: int, batch: Batch) -> None:
        self.names = list(terms)
        self.terms.append(self.average(torch.stack([term.detach() for term in terms.values()])))
        self.origin.append((step, [info.path for info in batch.infos]))

    def stacked(self) -> Tensor:
        """(batches, terms) on the device"""
        return torch.stack(self.terms) if self.terms else torch.zeros(0, len(self.names))

    def means(self, values: Tensor, processes: Processes = ALONE) -> dict[str, float]:
        """Mean of each term and of their total since the last call; NaN if no batch counts.

        values: what stacked() returned, on the host. See check.
        """
        values = self.check(values, processes)
        names = self.names
        self.clear()
        return {
            "total": values.sum(1).mean().item(),
            **dict(zip(names, values.mean(0).tolist(), strict=True)),
        }

    def check(self, values: Tensor, processes: Processes = ALONE) -> Tensor:
        """(batches, terms) that count. values: what stacked() returned, on the host.

        NotFiniteError names the first step with a non-finite term, its terms and its images: those of all
        processes if they call it together. With `skips`, such batches are dropped.
        """
        bad = (~values.isfinite()).any(1)
        if bad.any() and self.skips:
            kept = (~bad).nonzero()[:, 0].tolist()
            self.terms = [self.terms[n] for n in kept]
            self.origin = [self.origin[n] for n in kept]
            return values[kept]
        if bad.any():
            first = int(bad.nonzero()[0])
            step, paths = self.origin[first]
            paths = [path for part in processes.gathered(paths) for path in part]
            terms = ", ".join(
                f"{name}={value:g}" for name, value in zip(self.names, values[first].tolist(), strict=True)
            )
            raise NotFiniteError(
                f"step {step}: the loss is not finite ({terms}). Images of the batch:\n  "
                + "\n  ".join(paths),
                step,
            )
        return values


class Clock:
    """Seconds of training without evaluation, and how many of them the loop waited for data."""

    def __init__(self, progress: Progress, processes: Processes = ALONE):
        self.progress = progress
        self.processes = processes
        self.in_step = False  # whether a forward pass of the next step may have changed the module
        self.waited = 0.0
        self.images = progress.images_seen
        self.seconds = progress.train_seconds
        self.started = perf_counter()

    def wait_for(self, batches: Iterator[Batch], count: int, stop: StopRequests) -> list[Batch]:
        """The next `count` batches, with which a step begins. KeyboardInterrupt on a request to stop."""
        before = perf_counter()
        # No process begins a step that another one cannot make.
        with span("data"), self.processes.together(), stop.at_once():
            stop.raise_if_any()
            fetched = [next(batches) for _ in range(count)]
        self.waited += perf_counter() - before
        self.in_step = True
        return fetched

    def end_step(self, *, agree: bool) -> None:
        """agree: all processes take the first one's time, so that a budget ends them after the same step."""
        self.in_step = False
        self.pause()
        self.resume()
        if agree:
            self.progress.train_seconds = self.processes.of_first(self.progress.train_seconds)

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


class StopRequests:
    """The signals that ask a run to stop. Outside of the main thread there are none."""

    def __init__(self):
        self.signals: list[int] = []
        self.raises = False  # see at_once
        self.noted = 0.0  # when the first one came

    def __bool__(self) -> bool:
        return bool(self.signals)

    def raise_if_any(self) -> None:
        if self:
            raise KeyboardInterrupt

    def note(self, number: int, frame: types.FrameType | None) -> None:
        """A second signal ends the program; within REPEAT seconds it counts as the first.

        A launcher passes on what its whole process group has got anyway.
        """
        repeated = bool(self.signals) and perf_counter() - self.noted < REPEAT
        if not self.signals:
            self.noted = perf_counter()
        self.signals.append(number)
        if not repeated:
            self.interrupt(number, frame)

    def interrupt(self, number: int, frame: types.FrameType | None) -> None:
        """Raises, if it is time to; a little later where Python would drop the exception."""
        if not self.raises and len(self.signals) < 2:
            return
        if drops_exceptions(frame):
            signal.setitimer(signal.ITIMER_REAL, LATER)  # SIGALRM comes back to here
            return
        raise KeyboardInterrupt("stopped at once; what was saved before is still there")

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Where a request does not wait for the end of the step: it raises KeyboardInterrupt."""
        self.raises = True
        try:
            yield
        finally:
            self.raises = False


def drops_exceptions(frame: types.FrameType | None) -> bool:
    """Whether Python ignores an exception that is raised in this frame.

    It does in what a fork calls (os.register_at_fork), in the middle of starting a loading process, and in
    destructors.
    """
    while frame is not None:
        if frame.f_code.co_name in ("__del__", "_launch"):  # multiprocessing forks in Popen._launch
            return True
        frame = frame.f_back
    return False


@contextmanager
def stopped_at_once(message: str) -> Iterator[None]:
    """A block in which the first request to stop raises KeyboardInterrupt with this message."""
    try:
        with stop_requests() as stop, stop.at_once():
            yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(message) from None


@contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """Notes Ctrl-C, SIGTERM, SIGUSR1 (SLURM's warning) and, unless it is ignored (nohup), SIGHUP."""
    requests = StopRequests()
    handlers = dict.fromkeys(STOP_SIGNALS, requests.note) | {signal.SIGALRM: requests.interrupt}
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        del handlers[signal.SIGHUP]
    before = {}
    with suppress(ValueError):  # only the main thread may handle signals
        for number, handler in handlers.items():
            before[number] = signal.signal(number, handler)
    try:
        yield requests
    finally:
        if before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
