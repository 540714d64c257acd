"""What a run's row in a table of runs says: the settings that people vary, under short names, without paths.

All settings are in the text run/config.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from detectors.config.build import find_target
from detectors.config.schema import Config
from detectors.training.tracking import Setting


def varied_settings(config: Config, world_size: int = 1) -> dict[str, Setting]:
    """Numbers and texts, the same names for every run; "none" for a setting that a run does not have.

    world_size: processes that train together, whose images make up the batch of a step.
    """
    trainer = config.trainer
    settings = {
        "model": _short_name(config.model),
        "data": config.data.name,
        "seed": config.seed,
        "rate": config.optimizer["rate"],
        "batch": trainer.batch_size * trainer.accumulate * world_size,
        "steps": trainer.steps,
        "width": config.model.get("width"),
        "loss": _described(config.loss, "loss"),
        "augment": _described(config.augment, "augment"),
        "optimizer": _short_name(config.optimizer),
        "weight_decay": config.optimizer.get("weight_decay"),
        "schedule": config.schedule.name,
        "warmup": config.schedule.warmup_steps,
        "input": "x".join(map(str, config.input.size)),
        "precision": trainer.precision,
        "clip": trainer.clip_grad_norm,
        "ema": trainer.ema_decay,
        "freeze": ", ".join(trainer.freeze) or None,
    }
    return {name: "none" if value is None else value for name, value in settings.items()}


def row_metrics(headline: Sequence[str]) -> list[str]:
    """The tags whose last values a row shows. headline: the task's most important numbers."""
    return [*(f"{kind}/{name}" for name in headline for kind in ("val", "best")), "train/loss/total"]


def _short_name(node: Mapping[str, Any]) -> str:
    """The builder of a group without its module."""
    return node["_target_"].rpartition(".")[2]


def _described(node: Mapping[str, Any], group: str) -> str:
    """The builder of a group, and the settings in which it differs from the builder's defaults."""
    defaults = inspect.signature(find_target(node["_target_"], group)).parameters
    others = [
        f"{key}={value}" for key, value in node.items() if key in defaults and value != defaults[key].default
    ]
    return ", ".join([_short_name(node), *others])
