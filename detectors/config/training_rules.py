"""Rules about the settings of `schedule` and `trainer` that do not go together."""

from __future__ import annotations

import types
from collections.abc import Iterator

from detectors.config.data_rules import SettingProblem
from detectors.config.schema import Config, CurveConfig


def _one_length(config: Config) -> Iterator[SettingProblem]:
    steps = config.trainer.steps
    epochs = config.trainer.epochs
    if steps is not None and epochs is not None:
        what = f"trainer.steps={steps} and trainer.epochs={epochs}"
        yield "trainer", f"{what}: a run has one length; set one of them to null"
    if steps is None and epochs is None:
        yield "trainer", "trainer.steps=null: a run needs a length; set trainer.steps or trainer.epochs"


def _stops_after_evaluations(config: Config) -> Iterator[SettingProblem]:
    patience = config.trainer.stop_patience
    if patience is not None and not (config.trainer.eval_every and config.data.val):
        what = f"trainer.stop_patience={patience}: counts evaluations, and this run has none but the last"
        yield "trainer", f"{what}; set trainer.eval_every and data.val"


def _warmup_fits(config: Config) -> Iterator[SettingProblem]:
    warmup = config.schedule.warmup_steps
    steps = config.trainer.steps
    if steps is not None and warmup > steps:
        what = f"schedule.warmup_steps={warmup}: longer than the whole run, trainer.steps={steps}"
        yield "schedule", f"{what}; set schedule.warmup_steps={steps // 10}, or more trainer.steps"


def _histograms_at_log_points(config: Config) -> Iterator[SettingProblem]:
    every = config.trainer.histograms_every
    log_every = config.trainer.log_every
    if every % log_every:
        what = f"trainer.histograms_every={every}: not a multiple of trainer.log_every={log_every}"
        yield "trainer", f"{what}; set trainer.histograms_every={-(-every // log_every) * log_every}"


def _milestones_fit(config: Config) -> Iterator[SettingProblem]:
    schedule = config.schedule
    yield from _milestones_of(schedule, "schedule")
    if schedule.name == "step" and not schedule.milestones:
        yield (
            "schedule",
            "schedule.milestones=[]: the step schedule needs some; "
            "set schedule.milestones=[80000,100000], or schedule=constant",
        )


def _milestones_of(curve: CurveConfig, place: str) -> Iterator[SettingProblem]:
    if len(curve.milestones) != len(curve.factors):
        what = f"{place}.milestones={curve.milestones} and {place}.factors={curve.factors}"
        yield "schedule", f"{what}: each milestone needs one factor; give both lists the same length"
    if sorted(set(curve.milestones)) != curve.milestones:
        yield (
            "schedule",
            f"{place}.milestones={curve.milestones}: must increase; sort them and drop duplicates",
        )


def _phases_follow_each_other(config: Config) -> Iterator[SettingProblem]:
    """Each phase but the last one names its last step."""
    schedule = config.schedule
    phases = schedule.phases
    steps = config.trainer.steps
    if steps is None:  # trainer.epochs: checked again when the number of images is known
        return
    if (schedule.name == "phases") != bool(phases):
        what = f"schedule.name={schedule.name} with {len(phases)} schedule.phases"
        yield "schedule", f"{what}: phases go with schedule.name=phases; set both, or neither"
    if not phases:
        return
    *ends, last = [phase.until for phase in phases]
    if last is not None:
        yield (
            "schedule",
            f"schedule.phases: until={last} of the last phase: it ends with the run; leave it out",
        )
    if None in ends or sorted(set(ends)) != ends or max(ends, default=0) >= steps:
        what = f"schedule.phases: until={ends}: each phase but the last one needs its last step"
        yield "schedule", f"{what}; they must rise, and be less than trainer.steps={steps}"
        return
    edges = [0, *ends, steps]
    if schedule.warmup_steps > edges[1]:
        what = f"schedule.warmup_steps={schedule.warmup_steps}: longer than the first of schedule.phases"
        yield "schedule", f"{what}; set {edges[1]} or fewer"
    for number, phase in enumerate(phases):
        place = f"schedule.phases[{number}]"
        yield from _milestones_of(phase, place)
        begin, end = edges[number : number + 2]
        if phase.name == "step" and not all(begin < step <= end for step in phase.milestones or [begin]):
            what = f"{place}.milestones={phase.milestones}: must be steps of this phase"
            yield "schedule", f"{what}, {begin + 1} to {end}"


def _graphs_of_compiled_steps(config: Config) -> Iterator[SettingProblem]:
    """Gradients of a batch lie in its graph's memory, which the next batch's graph writes."""
    trainer = config.trainer
    if trainer.cuda_graphs and not trainer.compile:
        what = "trainer.cuda_graphs=true with trainer.compile=false"
        yield "trainer", f"{what}: the graphs are those of compiled steps; set trainer.compile=true"
    if trainer.cuda_graphs and trainer.accumulate > 1:
        what = f"trainer.cuda_graphs=true with trainer.accumulate={trainer.accumulate}"
        yield (
            "trainer",
            f"{what}: a graph has memory for the gradients of one batch; set trainer.accumulate=1",
        )


# Rule -> the sections it reads, see CONFIG_RULES in check.py
TRAINING_RULES: dict[types.FunctionType, tuple[str, ...]] = {
    _one_length: ("trainer",),
    _stops_after_evaluations: ("trainer", "data"),
    _warmup_fits: ("schedule", "trainer"),
    _histograms_at_log_points: ("trainer",),
    _graphs_of_compiled_steps: ("trainer",),
    _milestones_fit: ("schedule",),
    _phases_follow_each_other: ("schedule", "trainer"),
}
