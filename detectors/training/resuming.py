"""Which checkpoint a run goes on from, under which settings, and what a resume refuses."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from detectors.config.check import check
from detectors.config.composing import merged
from detectors.config.run_folders import resumed_folder
from detectors.config.schema import AUTO, Config, to_plain
from detectors.training import assemble
from detectors.training import checkpoint as ckpt
from detectors.training.budgets import Ending, ending, lacks_evaluation
from detectors.training.checkpoint_checks import stored_progress
from detectors.training.run_checkpoints import kept_checkpoints, newest_whole

logger = logging.getLogger(__name__)

# Settings of `data` that do not affect learning.
HARMLESS = ("root", "cache", "workers", "prefetch", "timeout", "image_cache")
# Beginnings of names that have a dot behind them. What `init` does is done at the start.
CHANGEABLE = (
    "trainer.",
    "paths.",
    "init.",
    "builders.",
    "optimizer.rate.",
    *(f"data.{n}." for n in HARMLESS),
)

# Group, its settings that a resume cannot change ((): all of them), and why.
FIXED = (
    (
        "trainer",
        ("freeze",),
        "the optimizer's state is that of the parameters that train; leave it out, "
        "or start a new run with init.from",
    ),
    (
        "paths",
        (),
        "the places that follow from it are stored; set data.root or data.cache themselves",
    ),
)


def stored_run(resume: str | None, folder: Path) -> ckpt.Checkpoint | None:
    """The checkpoint that trainer.resume names; None for a new run. folder: where the run writes.

    ValueError if a new run would mix with another one in its folder, or a resumed one leaves its own.
    """
    if resume is None:
        _refuse_used_folder(folder)
        return None
    if resume == "":
        raise ValueError("trainer.resume is empty: name a run folder or a checkpoint, or leave it out")
    if resume == AUTO:
        return _newest(folder)
    own = resumed_folder(resume)
    if own is not None and own.resolve() != folder.resolve():
        raise ValueError(
            f"trainer.resume={resume}: the run goes on in {own}, not in {folder}: leave out "
            "hydra.run.dir, or start a new run from its weights with init.from"
        )
    return _named(Path(resume))


def _named(place: Path) -> ckpt.Checkpoint:
    """last.pt of a run folder, or a checkpoint. An error also names another checkpoint that can be used."""
    try:
        return ckpt.load_checkpoint(ckpt.find_checkpoint(place, ckpt.LAST))
    except (FileNotFoundError, ValueError) as error:
        whole = newest_whole(place if place.is_dir() else place.parent)[0]
        if whole is None:
            raise
        raise ValueError(
            f"{error}; the newest whole checkpoint is of step {whole.step}: trainer.resume={whole.path}"
        ) from error


def _newest(folder: Path) -> ckpt.Checkpoint | None:
    """For trainer.resume=auto: the newest whole checkpoint. Damaged ones are named, and moved aside."""
    stored, damaged = newest_whole(folder)
    for path, problem in damaged.items():
        aside = path.with_name(f"{path.name}.damaged")
        path.replace(aside)
        logger.warning(f"{problem}; passed over, and renamed to {aside.name}")
    start = "none yet: a new run" if stored is None else f"{stored.path}, step {stored.step}"
    logger.info(f"trainer.resume=auto: {start}")
    return stored


def _refuse_used_folder(folder: Path) -> None:
    fix = "or choose another hydra.run.dir"
    if any((folder / name).exists() for name in (ckpt.LAST, ckpt.BEST)) or kept_checkpoints(folder):
        raise ValueError(f"{folder}: holds a run; go on with it: trainer.resume={folder}, {fix}")
    if any(folder.glob("events.out.tfevents.*")):
        raise ValueError(
            f"{folder}: holds the curves of a run without a checkpoint; start it again with "
            f"trainer.resume=auto, {fix}"
        )


def best_problem(stored: ckpt.Checkpoint) -> str | None:
    """What is wrong with best.pt beside a checkpoint whose run has had a best evaluation, or None.

    The better weights cannot be computed again, so the user has to know.
    """
    path = stored.path.with_name(ckpt.BEST)
    score = stored.progress.get("best", -1.0)
    if score < 0 or stored.path == path:
        return None
    lost = f"the run's best evaluation so far, {score:.4f}, has no checkpoint; the next better one writes it"
    try:
        best = ckpt.load_checkpoint(path)
    except FileNotFoundError:
        return f"{path} is missing: {lost}"
    except ValueError as error:
        return f"{error}; {lost}"
    if best.progress.get("best", -1.0) < score:
        return f"{path} is of an evaluation with {best.progress.get('best', -1.0):.4f}: {lost}"
    return None


def finished(stored: ckpt.Checkpoint, config: Config) -> Ending | None:
    """Why a resume has nothing to do; None if steps or the last evaluation are left.

    ValueError if the run is past trainer.steps.
    """
    if not stored.optimizer:  # weights alone
        return None
    progress = stored_progress(stored.progress, stored.step, str(stored.path))
    if progress.step > (steps := config.trainer.steps):
        raise ValueError(
            f"trainer.steps={steps}: the run of {stored.path} is at step {stored.step} already; "
            "set more, or leave it out"
        )
    return None if lacks_evaluation(config.trainer, progress) else ending(config.trainer, progress)


def resumed_config(stored: ckpt.Checkpoint, overrides: Sequence[str]) -> Config:
    """The checkpoint's configuration with the overrides over it. ValueError for one that affects learning."""
    overrides = [override.lstrip("+") for override in overrides]
    changes = [override for override in overrides if not override.startswith("trainer.resume=")]
    for change in changes:
        name = change.partition("=")[0]
        if name.startswith("init."):
            raise ValueError(
                f"{change}: a resumed run goes on with the weights of {stored.path}; {name} is for a new run"
            )
        if not may_change(name):
            raise ValueError(
                f"{change}: a resumed run keeps the configuration of {stored.path}; "
                f"only trainer.*, optimizer.rate and data.{{{','.join(HARMLESS)}}} may change"
            )
    assemble.stored_config(stored)  # what is wrong in the file is not blamed on the overrides
    config = merged(stored.config, changes)
    _refuse_changes(stored, config)
    return check(config)


def may_change(name: str) -> bool:
    """Whether a resumed run may change a setting: its place and its speed, not what it learns."""
    return f"{name}.".startswith(CHANGEABLE) or (name.startswith("data.mix.") and name.endswith(".root"))


def _refuse_changes(stored: ckpt.Checkpoint, now: Mapping[str, Any]) -> None:
    """ValueError for a changed setting that would not do in a resumed run what it says."""
    for group, names, reason in FIXED:
        old, new = stored.config.get(group, {}), now.get(group, {})
        for name in names or new:
            if name in old and new[name] != old[name]:
                what = f"{group}.{name}={new[name]}: the run of {stored.path} has {group}.{name}={old[name]}"
                raise ValueError(f"{what}, and a resume cannot change it: {reason}")


def continued_config(stored: ckpt.Checkpoint, config: Config) -> Config:
    """For trainer.resume=auto: the configuration of the command itself, which is the one of the start.

    ValueError if the checkpoint is of another run: if a setting that affects learning differs.
    """
    for name, old, now in _differences(to_plain(assemble.stored_config(stored)), to_plain(config)):
        if name == "trainer.freeze" or not may_change(name):
            raise ValueError(
                f"{name}={now}: the run of {stored.path} has {name}={old}, and a resume keeps it; "
                "for a new run choose another hydra.run.dir"
            )
    # What was found at the start stays.
    was = assemble.stored_config(stored).trainer
    trainer = config.trainer
    if trainer.find_batch_size:
        trainer = replace(
            trainer, batch_size=was.batch_size, accumulate=was.accumulate, find_batch_size=False
        )
    if trainer.memory_format == AUTO:
        trainer = replace(trainer, memory_format=was.memory_format)
    return replace(config, trainer=trainer)


def _differences(old: Any, new: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, old, new) of each setting that differs."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        if old != new:
            yield place, old, new
        return
    for name in {**old, **new}:
        yield from _differences(old.get(name), new.get(name), f"{place}.{name}" if place else name)
