"""Repeats a run's steps with the training loop itself, up to the first one that is not finite."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from detectors.commands.replay.watch import StepWatch
from detectors.commands.train import build_run
from detectors.config.schema import Config
from detectors.training import checkpoint as ckpt
from detectors.training import engine
from detectors.training.hooks import Hooks
from detectors.training.nonfinite import not_finite
from detectors.training.precision import backend_switches
from detectors.training.replay_folder import REPLAY, Replay, batches_of
from detectors.training.run import Run
from detectors.training.saving import checkpoint_of


class LoopLeft(BaseException):
    """Leaves the training loop from within a hook; it is neither an error nor a request to stop."""


@dataclass
class FirstBad:
    """The first step after which something is not finite.

    after: what, by name. by_hooks: the step itself was finite, the user's hooks were not. images: paths, a
    list for each batch. before: the state before the step; None: the one that the replay began with.
    """

    step: int
    after: list[str]
    by_hooks: bool
    images: list[list[str]]
    before: ckpt.Checkpoint | None


class Search:
    """Called after each step, calls the user's hooks; leaves the loop after step `until` at the latest."""

    def __init__(self, hooks: Hooks, until: int):
        self.hooks = hooks
        self.until = until
        self.before: ckpt.Checkpoint | None = None
        self.found: FirstBad | None = None

    def __call__(self, run: Run) -> None:
        self._look(run, by_hooks=False)
        self.hooks.after_step(run)
        self._look(run, by_hooks=True)
        if run.progress.step >= self.until:
            raise LoopLeft
        self.before = copy.deepcopy(checkpoint_of(run, run.folder))

    def _look(self, run: Run, by_hooks: bool) -> None:
        if bad := bad_parts(run):
            batches = run.recent.origin[-run.config.trainer.accumulate :]
            images = [paths for _, paths in batches]
            self.found = FirstBad(run.progress.step, bad, by_hooks, images, self.before)
            raise LoopLeft


def bad_parts(run: Run) -> list[str]:
    """Names of what is not finite after a step: its loss terms, and what a checkpoint stores.

    Gradients are not looked at: float16's loss scale leaves out a step whose gradients overflow.
    """
    recent = run.recent
    losses = torch.stack(recent.terms[-run.config.trainer.accumulate :]).unbind(1)
    tensors = {f"the loss term {name}": values for name, values in zip(recent.names, losses, strict=True)}
    tensors |= run.task.module.state_dict()
    names = {parameter: name for name, parameter in run.task.module.named_parameters()}
    for parameter, state in run.optimizer.state.items():
        tensors |= {f"{key} of {names[parameter]} in the optimizer": value for key, value in state.items()}
    return not_finite(tensors)


def find_first_bad(
    replay: Replay, config: Config, start: ckpt.Checkpoint | None, hooks: Hooks
) -> FirstBad | None:
    """Repeats the steps from `start`, or from the run's beginning. None: all up to replay.step are finite.

    ValueError if that step does not have the images that it had in the run.
    """
    search = Search(hooks, replay.step)
    with one_run(config, start) as run:
        _require_same_images(replay, batches_of(run, replay.step))
        run.hooks = Hooks(step=[search])
        train_until_left(run)
    return search.found


def _require_same_images(replay: Replay, batches: list[list[list]]) -> None:
    """Rows and names of files must agree; the folder of a data set may have moved."""
    names = [[[*row[:3], Path(row[3]).name] for row in batch] for batch in batches]
    recorded = [[[*row[:3], Path(row[3]).name] for row in batch] for batch in replay.batches]
    if names != recorded:
        raise ValueError(
            f"{replay.folder / REPLAY}: step {replay.step} has other images here than in the run: the data "
            "set has changed since; it must be what it was"
        )


def watched(config: Config, before: ckpt.Checkpoint | None, images: list[list[str]]) -> StepWatch:
    """Repeats one step, not compiled, and watches it from within. images: see FirstBad."""
    with one_run(replace(config, trainer=replace(config.trainer, compile=False)), before) as run:
        watch = StepWatch(run.task.train_step, images)
        run.hooks = Hooks(step=[_leave])
        train_until_left(run)
    return watch


def anomaly(config: Config, before: ckpt.Checkpoint | None) -> str | None:
    """Repeats one step with PyTorch's anomaly detection. Returns its message; None if it finds nothing."""
    with one_run(config, before) as run, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the forward stack; StepWatch names the module
        run.hooks = Hooks(step=[_leave])
        try:
            with torch.autograd.set_detect_anomaly(True):
                train_until_left(run)
        except RuntimeError as error:
            if "returned nan values" not in str(error):
                raise
            return str(error).splitlines()[0]
    return None


def _leave(run: Run) -> None:
    raise LoopLeft


def train_until_left(run: Run) -> None:
    try:
        engine.train(run)
    except LoopLeft:
        return
    raise AssertionError("a hook leaves the loop before its end")


@contextmanager
def one_run(config: Config, start: ckpt.Checkpoint | None) -> Iterator[Run]:
    """A run in a folder of its own, which is removed at the end, with the state of `start`."""
    with TemporaryDirectory(prefix="detectors_replay_") as folder:
        run = build_run(config, Path(folder), copy.deepcopy(start))  # the optimiser changes it in place
        with backend_switches(config.trainer):
            yield run


def repeated_config(config: Config, *, device: str | None, names: list[str], processes: int) -> Config:
    """A run's checked configuration for its repetition: the same steps, and nothing written or evaluated.

    names: the run's classes. processes: of the run; one repeats the steps of all with a larger batch.
    """
    trainer = replace(
        config.trainer,
        batch_size=config.trainer.batch_size * processes,
        device=device or config.trainer.device,
        kernels="auto" if device else config.trainer.kernels,
        on_nonfinite="stop",
        eval_every=0,
        save_every=0,
        log_every=config.trainer.steps + 1,
        probe_images=0,
        trackers=[],
        progress=False,
        resume=None,
        on_evaluation=[],
        epochs=None,  # the steps were computed from them
        max_images=None,
        max_minutes=None,
        stop_patience=None,
        histograms_every=0,
        profile_steps=0,
    )
    data = replace(config.data, val=[], class_names=names, allow_empty_classes=True)
    return replace(config, trainer=trainer, data=data)
