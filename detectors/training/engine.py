"""The training loop that every task shares. Flat: one training step, then what happens once in a while.

The loop knows losses, checkpoints and curves, but neither boxes nor classes: those belong to its task
(detection.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm
from tqdm import tqdm

from detectors.config.schema import Config, to_plain, to_yaml
from detectors.data.files import write_json, write_text
from detectors.data.loading import BatchLoader
from detectors.structures import Batch
from detectors.training import checkpoint as ckpt
from detectors.training.optim import rate_factor, set_rate
from detectors.training.progress import Clock, Progress, Recent, stop_requests
from detectors.training.tracking import Tracker


class Evaluation(Protocol):
    """What a task measured on its validation split; metrics.report.Report is one."""

    scalars: Mapping[str, float | None]  # None where there is no ground truth to measure on
    images: int  # 0 without a validation split

    def as_dict(self) -> dict[str, Any]: ...  # for summary.json

    def table(self) -> str: ...  # for the terminal


class Task(Protocol):
    """What is learned. `step` must not wait for the device."""

    metric: str  # key of Evaluation.scalars that decides which checkpoint is the best; higher is better
    headline: Sequence[str]  # keys of Evaluation.scalars for tables of runs
    module: nn.Module  # what is trained and saved
    class_names: Sequence[str]

    def step(self, batch: Batch) -> dict[str, Tensor]: ...  # named, already weighted loss terms of a batch

    def resume(self, images_seen: int) -> None: ...  # tells it how many images the run has already seen

    def statistics(self) -> dict[str, Tensor]: ...  # log-only numbers about the batch that `step` saw last

    def evaluate(self) -> Evaluation: ...

    def curves(self) -> Mapping[str, float]: ...  # tag -> number of the last evaluation

    def pictures(self) -> Mapping[str, Sequence[np.ndarray]]: ...  # tag -> images of the last evaluation

    def summary(self) -> dict[str, Any]: ...  # facts about the model, for summary.json


@dataclass
class Run:
    """The parts of a training, built by commands/train.py."""

    config: Config
    folder: Path
    task: Task
    optimizer: torch.optim.Optimizer
    train_loader: BatchLoader
    tracker: Tracker
    device: torch.device
    progress: Progress = field(default_factory=Progress)


def train(run: Run) -> Evaluation:
    """Trains to config.trainer.steps and returns the last evaluation.

    Ctrl-C and SIGTERM end the run after the current step with a usable last.pt and raise KeyboardInterrupt.
    A loss that is not finite raises FloatingPointError with the step, the terms and the images.
    Losses stay on the device until they are logged: there is no host synchronisation in a step.
    """
    trainer = run.config.trainer
    progress = run.progress
    module = run.task.module
    batches = iter(run.train_loader)
    recent = Recent()
    clock = Clock(progress)
    bar = tqdm(total=trainer.steps, initial=progress.step, disable=not trainer.progress, unit="step")
    evaluation = None
    module.train()
    with stop_requests() as stop, bar:
        while progress.step < trainer.steps and not stop:
            # One training step.
            rate = run.config.optimizer["rate"] * rate_factor(
                run.config.schedule, progress.step + 1, trainer.steps
            )
            set_rate(run.optimizer, rate)
            run.optimizer.zero_grad(set_to_none=True)
            for _ in range(trainer.accumulate):
                batch = clock.wait_for(batches).to(run.device, non_blocking=True)
                terms = run.task.step(batch)
                (sum(terms.values()) / trainer.accumulate).backward()
                recent.add(terms, progress.step + 1, batch)
            grad_norm = clip_gradients(module, trainer.clip_grad_norm)
            run.optimizer.step()
            progress.step += 1
            progress.images_seen += trainer.accumulate * len(batch.infos)
            bar.update()

            # Once in a while: log, evaluate, save.
            ended = progress.step == trainer.steps
            if ended or progress.step % trainer.log_every == 0:
                norm = gradient_norm(module) if grad_norm is None else grad_norm
                log(run, recent, clock, bar, {"rate": rate, "grad_norm": norm, **run.task.statistics()})
            if ended or (trainer.eval_every and progress.step % trainer.eval_every == 0):
                recent.check()
                clock.pause()
                evaluation = evaluate_and_save(run)
                module.train()
                clock.resume()
        if stop:
            recent.check()
            clock.pause()
            save_run(run, ckpt.LAST)
            raise KeyboardInterrupt(
                f"stopped after step {progress.step}; go on with: python train.py trainer.resume={run.folder}"
            )
    return evaluation if evaluation is not None else evaluate_and_save(run)


def clip_gradients(module: nn.Module, limit: float | None) -> Tensor | None:
    """L2 norm over all gradients before clipping; None without a limit."""
    return clip_grad_norm_(module.parameters(), limit) if limit else None


def gradient_norm(module: nn.Module) -> Tensor:
    """L2 norm over all gradients."""
    return get_total_norm([p.grad for p in module.parameters() if p.grad is not None])


def log(run: Run, recent: Recent, clock: Clock, bar: tqdm, numbers: dict[str, float | Tensor]) -> None:
    """Scalars to the tracker and the bar. This is where the host waits for the device."""
    losses = recent.means()
    rates = clock.rates()
    scalars = {f"train/loss/{name}": value for name, value in losses.items()}
    scalars |= {f"train/{name}": float(value) for name, value in numbers.items()}
    scalars |= {f"train/{name}": value for name, value in rates.items()}
    scalars["train/images_seen"] = run.progress.images_seen
    if broken := len(run.train_loader.problems):
        scalars["train/broken_images"] = broken
    run.tracker.scalars(scalars, run.progress.step)
    bar.set_postfix(loss=f"{losses['total']:.3f}", images_per_s=f"{rates['images_per_second']:.1f}")


def evaluate_and_save(run: Run) -> Evaluation:
    """Evaluates, logs numbers and pictures, and writes last.pt and, after the best evaluation so far,
    best.pt.
    """
    started = perf_counter()
    evaluation = run.task.evaluate()
    seconds = perf_counter() - started
    run.tracker.scalars({**run.task.curves(), "time/evaluation": seconds}, run.progress.step)
    for tag, images in run.task.pictures().items():
        run.tracker.images(tag, images, run.progress.step)
    score = evaluation.scalars[run.task.metric]
    best = score is not None and score > run.progress.best
    if best:
        run.progress.best = score
    save_run(run, ckpt.LAST)
    if best:
        save_run(run, ckpt.BEST)
    write_summary(run, evaluation)
    return evaluation


def device_name(device: torch.device) -> str:
    """The hardware behind a timing."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"


def save_run(run: Run, name: str) -> None:
    """Writes the whole state of a run as the checkpoint `name` in its folder."""
    ckpt.save_checkpoint(
        ckpt.Checkpoint(
            path=run.folder / name,
            step=run.progress.step,
            config=to_plain(run.config),
            class_names=tuple(run.task.class_names),
            model=run.task.module.state_dict(),
            progress=dict(vars(run.progress)),
            optimizer=run.optimizer.state_dict(),
            random=ckpt.random_state(),
        )
    )


def restore(run: Run, checkpoint: ckpt.Checkpoint) -> None:
    """Puts a checkpoint's optimiser, progress and random state into a run whose module already has its
    weights.

    ValueError for a checkpoint of weights alone.
    """
    if not checkpoint.optimizer:
        raise ValueError(
            f"{checkpoint.path}: it holds weights alone, as convert writes them, so a run cannot go on from "
            "it; start a new run with trainer.init_from instead of trainer.resume"
        )
    run.optimizer.load_state_dict(checkpoint.optimizer)
    run.progress = Progress(**checkpoint.progress)
    run.task.resume(run.progress.images_seen)
    ckpt.set_random_state(checkpoint.random)


def write_summary(run: Run, evaluation: Evaluation) -> None:
    """summary.json: facts about the training for comparisons. config.yaml: the settings of the run."""
    config = run.config
    progress = run.progress
    summary = {
        "name": config.name,
        **run.task.summary(),
        "seed": config.seed,
        "steps": progress.step,
        "images_seen": progress.images_seen,
        "train_seconds": progress.train_seconds,
        "train_images_per_second": progress.images_seen / max(progress.train_seconds, 1e-9),
        "device": device_name(run.device),
        "validation": evaluation.as_dict(),
    }
    write_json(run.folder / "summary.json", summary)
    write_text(run.folder / "config.yaml", to_yaml(config))
