"""What makes the trainings of a duel equally long: in images, in seconds, or in FLOPs."""

from __future__ import annotations

from collections.abc import Sequence

from detectors.commands.compare.fairness import BUDGET_SLACK
from detectors.config.check import check
from detectors.config.composing import composed
from detectors.config.schema import Config
from detectors.training import assemble, ground_truth
from detectors.training.budgets import in_steps

ENDLESS = 1_000_000  # steps of a run that its minutes end


def budget_settings(budget: str, models: Sequence[str], common: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Model -> the settings that give it the budget. common: settings of all runs.

    ValueError for settings that would end the runs after unequal budgets.
    """
    configs = {model: check(composed([f"model={model}", *common])) for model in models}
    for config in configs.values():
        _refuse_early_ends(budget, config)
    if budget == "images":
        return dict.fromkeys(models, ())
    if budget == "seconds":
        return dict.fromkeys(models, _until_the_minutes_are_over(common))
    return _with_equal_flops(configs)


def _refuse_early_ends(budget: str, config: Config) -> None:
    trainer = config.trainer
    if trainer.stop_patience is not None:
        raise ValueError(
            "trainer.stop_patience ends each run at a step of its own: a duel needs equal budgets"
        )
    if budget == "seconds" and trainer.max_minutes is None:
        raise ValueError("--budget seconds: say how long each run trains, such as trainer.max_minutes=10")
    if budget != "seconds" and trainer.max_minutes is not None:
        raise ValueError(f"trainer.max_minutes={trainer.max_minutes:g}: it needs --budget seconds")
    if budget == "flops" and trainer.max_images is not None:
        raise ValueError(f"trainer.max_images={trainer.max_images}: it needs --budget images")


def _until_the_minutes_are_over(common: Sequence[str]) -> tuple[str, ...]:
    """Nobody knows at which step that is, so a rate that falls towards the last step is left to the user."""
    typed = {text.lstrip("+").partition("=")[0] for text in common}
    steps = () if typed & {"trainer.steps", "trainer.epochs"} else (f"trainer.steps={ENDLESS}",)
    return (*steps, *(("schedule=constant",) if steps and "schedule" not in typed else ()))


def _with_equal_flops(configs: dict[str, Config]) -> dict[str, tuple[str, ...]]:
    """The first model keeps its steps; the others get as many as cost the same. Evaluations stay as many."""
    settings: dict[str, tuple[str, ...]] = {}
    whole, first_steps = 0, 0
    for model, config in configs.items():
        annotations = ground_truth.read_annotations(config.data, "train")
        trainer = in_steps(config, len(annotations)).trainer
        flops = assemble.seeded_detector(config, len(annotations.class_names)).flops(config.input.size)
        per_step = trainer.batch_size * trainer.accumulate * flops
        assert trainer.steps is not None  # in_steps() gives them
        first_steps = first_steps or trainer.steps
        whole = whole or first_steps * per_step
        steps = max(1, round(whole / per_step))
        if abs(steps * per_step / whole - 1) > BUDGET_SLACK:
            raise ValueError(
                f"trainer.steps={first_steps}: too few for {model} to have the same FLOPs within "
                f"{BUDGET_SLACK:.0%}: it would need {whole / per_step:.2f} steps; set more"
            )
        every = trainer.eval_every and max(1, round(trainer.eval_every * steps / first_steps))
        settings[model] = (f"trainer.steps={steps}", "trainer.epochs=null", f"trainer.eval_every={every}")
    return settings
