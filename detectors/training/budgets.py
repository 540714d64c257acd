"""What ends a run: its steps, a budget of images or minutes, or evaluations that do not get better."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from math import ceil
from typing import NamedTuple

from detectors.config.check import check
from detectors.config.schema import Config, TrainerConfig, to_plain
from detectors.data.suggestions import did_you_mean
from detectors.training.distributed import ALONE, Processes
from detectors.training.progress import Progress, is_due
from detectors.training.tags import TAGS, is_known

logger = logging.getLogger(__name__)


class Ending(NamedTuple):
    reason: str
    to_go_on: str  # the setting with which the run would train on


def ending(trainer: TrainerConfig, progress: Progress) -> Ending | None:
    """Why a run ends after the step that is done; None if it goes on.

    A function of the settings and the stored progress alone, so that a resume ends where the run would have.
    """
    if progress.step >= trainer.steps:
        return Ending(f"trainer.steps={trainer.steps}", f"trainer.steps={2 * progress.step}")
    if trainer.max_images is not None and progress.images_seen >= trainer.max_images:
        return Ending(
            f"trainer.max_images={trainer.max_images}", f"trainer.max_images={2 * trainer.max_images}"
        )
    if trainer.max_minutes is not None and progress.train_seconds >= 60 * trainer.max_minutes:
        more = 2 * trainer.max_minutes
        return Ending(f"trainer.max_minutes={trainer.max_minutes:g}", f"trainer.max_minutes={more:g}")
    patience = trainer.stop_patience
    if patience is not None and progress.stop_waited >= patience:
        best = progress.stop_best.get(trainer.stop_metric, float("nan"))
        reason = (
            f"{trainer.stop_metric} is not better than {best:.4g} after {progress.stop_waited} more "
            f"evaluations (trainer.stop_patience={patience})"
        )
        return Ending(reason, f"trainer.stop_patience={2 * progress.stop_waited}")
    return None


def lacks_evaluation(trainer: TrainerConfig, progress: Progress) -> bool:
    """Whether the run stopped in the evaluation of its last step."""
    due = ending(trainer, progress) is not None or is_due(trainer.eval_every, progress.step)
    return due and progress.evaluated < progress.step


def note_evaluation(trainer: TrainerConfig, progress: Progress, numbers: Mapping[str, float]) -> None:
    """Counts evaluations without a better trainer.stop_metric. numbers: an evaluation's curves, by tag.

    Better is higher, but for a loss lower, by more than trainer.stop_min_delta. ValueError if `numbers` lacks
    it.
    """
    if trainer.stop_patience is None:
        return
    metric = trainer.stop_metric
    if metric not in numbers:
        raise ValueError(
            f"trainer.stop_metric={metric}: this evaluation has no such number, without ground truth for it; "
            f"there are: {', '.join(numbers)}"
        )
    value = numbers[metric]
    best = progress.stop_best.get(metric)
    gain = 0.0 if best is None else (best - value if metric.startswith("val/loss/") else value - best)
    if best is None or gain > trainer.stop_min_delta:
        progress.stop_best = {metric: value}
        progress.stop_waited = 0
    else:
        progress.stop_waited += 1


def check_stop_metric(trainer: TrainerConfig) -> None:
    """ValueError for a trainer.stop_metric that no evaluation can have."""
    metric = trainer.stop_metric
    if trainer.stop_patience is not None and not (metric.startswith("val") and is_known(metric)):
        hint = did_you_mean(metric, [tag for tag in TAGS if tag.startswith("val")], listed=True)
        raise ValueError(f"trainer.stop_metric={metric}: no evaluation has this number{hint}")


def in_steps(config: Config, images: int, processes: Processes = ALONE) -> Config:
    """The configuration with trainer.epochs as trainer.steps; it is checked again. images: of an epoch."""
    trainer = config.trainer
    if trainer.epochs is None:
        return config
    per_step = trainer.batch_size * trainer.accumulate * processes.world_size
    steps = ceil(round(trainer.epochs * images / per_step, 6))
    logger.info(
        f"trainer.epochs={trainer.epochs:g} of {images} images are trainer.steps={steps} of {per_step} images"
    )
    return check(to_plain(replace(config, trainer=replace(trainer, steps=steps, epochs=None))))
