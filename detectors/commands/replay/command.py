"""Repeats the step at which a run was no longer finite, and says what was so first.

detectors replay RUN/replay_step_000123 [--device cpu]

The folder is written when a run stops because of NaN or infinity; see docs/runs.md. Exit status: 0 what was
not finite first is named; 1 all repeated steps are finite; 2 the folder or its data cannot be used.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from detectors.commands.replay.options import options
from detectors.commands.replay.repeat import FirstBad, anomaly, find_first_bad, repeated_config, watched
from detectors.config.build import trust
from detectors.config.check import ConfigError, check
from detectors.config.composing import latest_or
from detectors.config.entry import verb
from detectors.config.schema import Config
from detectors.kernels.dispatch import set_kernels
from detectors.training import assemble
from detectors.training import checkpoint as ckpt
from detectors.training.hooks import users_hooks
from detectors.training.outcome import device_name
from detectors.training.replay_folder import (
    BEFORE,
    REPLAY,
    REPLAY_FIX,
    START,
    Replay,
    initial_place,
    read_replay,
)

NAMES_SHOWN = 5  # names of tensors


@verb
def main(arguments: list[str] | None = None) -> None:
    args = options(arguments)
    trust(args.builder)
    replay = read_replay(_folder_of(args.folder))
    config = _config(replay, args.device)
    absent = [name for name in config.trainer.on_step if name not in args.on_step]
    config.trainer.on_step = args.on_step
    hooks = users_hooks(config.trainer, {"on_step": args.on_step, "on_evaluation": []})
    torch.set_num_threads(replay.threads)
    set_kernels(config.trainer.kernels)
    start = start_state(replay.folder, replay.step)
    print("\n".join(_announcement(replay, config, start, absent)), flush=True)
    try:
        found = find_first_bad(replay, config, start, hooks)
        if found is not None:
            print("\n".join(_explain(replay, config, start, found)))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(130) from None
    if found is None:
        print(
            f"all steps to {replay.step} are finite here. The last digits depend on the device, the versions "
            "and the threads, and on a GPU on chance: what only just grew too large need not do so again"
        )
        raise SystemExit(1)


def _folder_of(place: Path) -> Path:
    """The place as it was typed; for `latest`, the replay folder that the newest run with one wrote last."""
    run = latest_or(place, f"*/{REPLAY}", "a replay folder")
    if run == place:
        return place
    return max(run.glob(f"*/{REPLAY}"), key=lambda file: file.stat().st_mtime).parent


def _config(replay: Replay, device: str | None) -> Config:
    """ValueError if what replay.json holds is not a valid configuration."""
    path = replay.folder / REPLAY
    try:
        config = check(replay.config)
    except ConfigError as error:
        raise ValueError(f"{path}: its configuration: {'; '.join(error.problems)}; {REPLAY_FIX}") from error
    if replay.step > config.trainer.steps:
        raise ValueError(
            f"{path}: step is {replay.step}, after the run's end, {config.trainer.steps}; {REPLAY_FIX}"
        )
    config = repeated_config(config, device=device, names=replay.class_names, processes=replay.processes)
    return replace(config, init=replace(config.init, from_=initial_place(replay.folder)))


def start_state(folder: Path, step: int) -> ckpt.Checkpoint | None:
    """The state from which the steps are repeated; None: the beginning of the run.

    ValueError for one that is not before `step`.
    """
    for path in (folder / BEFORE, folder / START):
        if path.exists():
            start = ckpt.load_checkpoint(path)
            if start.step >= step:
                raise ValueError(f"{path}: at step {start.step}, must be before {step}; {REPLAY_FIX}")
            return start
    return None


def _announcement(
    replay: Replay, config: Config, start: ckpt.Checkpoint | None, absent: list[str]
) -> Iterator[str]:
    yield f"{replay.folder}: {replay.error.splitlines()[0]}"
    here = f"{device_name(assemble.choose_device(config.trainer.device))}, torch {torch.__version__}"
    there = f"{replay.device}, torch {replay.torch}"
    place = here if here == there else f"{here} (the run: {there})"
    yield f"repeating steps {start.step + 1 if start else 1} to {replay.step} on {place}"
    if replay.processes > 1:
        yield (
            f"the run had {replay.processes} processes; here one takes all images of a batch: the same "
            "within round-off, but for BatchNorm's statistics"
        )
    if absent:
        options = " ".join(f"--on-step {name}" for name in absent)
        yield f"the run called hooks that are not called here; to call them: {options}"


def _explain(replay: Replay, config: Config, start: ckpt.Checkpoint | None, found: FirstBad) -> Iterator[str]:
    """Lines about the first bad step, the first finding first. Keeps the state before it in the folder."""
    names = ", ".join(found.after[:NAMES_SHOWN])
    more = f" and {len(found.after) - NAMES_SHOWN} more" if len(found.after) > NAMES_SHOWN else ""
    if found.by_hooks:
        yield f"step {found.step}: finite itself; a hook of yours left what is not: {names}{more}"
        return
    before = start
    if found.before is not None:
        ckpt.save_checkpoint(replace(found.before, path=replay.folder / BEFORE))
        before = ckpt.load_checkpoint(replay.folder / BEFORE)  # its tensors are on the CPU, as a resume needs
    watch = watched(config, before, found.images)
    function = anomaly(config, before)
    yield f"step {found.step} is the first that is not finite, in this order:"
    findings = [watch.data, watch.forward, watch.backward, function and f"autograd: {function}"]
    yield from (f"  {finding}" for finding in findings if finding)
    yield f"  after the step: {names}{more}"
    batch = watch.bad_batch or len(found.images)
    yield f"images of batch {batch} of {len(found.images)}:"
    yield from (f"  {path}" for path in found.images[batch - 1])
