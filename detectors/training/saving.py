"""A run's whole state to a checkpoint and back, and what an error in the loop leaves behind."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

from torch import Tensor

from detectors.config.entry import message
from detectors.config.schema import to_plain
from detectors.training import checkpoint as ckpt
from detectors.training.checkpoint_checks import checked_optimizer_state, stored_progress
from detectors.training.host_copy import on_host
from detectors.training.nonfinite import NotFiniteError, first_not_finite
from detectors.training.optim import lay_out_state
from detectors.training.progress import Clock, is_due
from detectors.training.provenance import other_versions, program_versions
from detectors.training.replay_folder import write_replay
from detectors.training.run import Run
from detectors.training.run_checkpoints import keep_older

logger = logging.getLogger(__name__)


def save_run(run: Run, name: str) -> None:
    """Writes the whole state of a run as the checkpoint `name` in its folder; the first process does.

    NotFiniteError, and nothing is written, if a loss since the last log line or the state is not finite.
    """
    if name == ckpt.LAST:
        run.saved_at = perf_counter()
    if not run.processes.first:
        return
    numbers = on_host({"terms": run.recent.stacked(), **guard_counts(run)})
    run.recent.check(numbers["terms"])
    count_skipped(run, numbers)
    if not run.folder.exists():
        logger.warning(
            f"{run.folder} was deleted: it is made again for checkpoints, but its log and curves are lost"
        )
    run.tracker.flush()  # a resume does not write points of earlier steps
    checkpoint = checkpoint_of(run, run.folder / name)
    averaged = {f"{name} of the average": tensor for name, tensor in checkpoint.ema.items()}
    if (bad := first_not_finite(checkpoint.model | averaged, checkpoint.optimizer)) is not None:
        step = run.progress.step
        raise NotFiniteError(f"step {step}: {bad} holds NaN or infinity, so it is not saved", step)
    keep = run.config.trainer.keep
    if keep and run.saved == checkpoint.path and name == ckpt.LAST and run.saved_step != run.progress.step:
        keep_older(run.folder, run.saved_step, keep)
    ckpt.save_checkpoint(checkpoint)
    if name == ckpt.LAST:
        run.saved_step = run.progress.step
        run.saved = checkpoint.path


def save_is_due(run: Run) -> bool:
    """Whether last.pt is to be written after this step although no evaluation is due."""
    minutes = run.config.trainer.save_minutes
    late = minutes is not None and perf_counter() - run.saved_at >= 60 * minutes
    return late or is_due(run.config.trainer.save_every, run.progress.step)


def checkpoint_of(run: Run, path: Path) -> ckpt.Checkpoint:
    """A run's whole state. Its tensors are the run's own, which the next step changes."""
    return ckpt.Checkpoint(
        path=path,
        step=run.progress.step,
        config=to_plain(run.config),
        class_names=tuple(run.task.class_names),
        model=run.task.module.state_dict(),
        progress=dict(vars(run.progress)),
        optimizer=run.optimizer.state_dict(),
        random=ckpt.random_state(),
        recent=run.recent.state(),
        versions=program_versions(),
        scaler=run.scaler.state(),
        ema=run.ema.module.state_dict() if run.ema else {},
    )


def guard_counts(run: Run) -> dict[str, Tensor]:
    """What count_skipped needs, still on the device."""
    return {} if run.guard is None else {"guard": run.guard.counts}


def count_skipped(run: Run, numbers: Mapping[str, Tensor]) -> None:
    """Notes the number of steps left out. NotFiniteError if there were too many in a row.

    numbers: those of guard_counts, on the host.
    """
    if run.guard is not None:
        skipped, in_a_row = run.guard.read(numbers["guard"], run.progress.step)
        run.progress.skipped_steps = skipped
        run.progress.skipped_in_a_row = in_a_row


def go_on(run: Run) -> str:
    return f"stopped after step {run.progress.step}; go on with: python train.py trainer.resume={run.folder}"


@contextmanager
def saved_on_error(run: Run, clock: Clock) -> Iterator[None]:
    """Saves last.pt if an error ends the loop, unless a step has begun.

    A broken image, a lost worker or a tracker that fails then costs no step that was made. Nothing is saved
    twice: within an evaluation, the last.pt from before is the one whose resume evaluates again. Numbers that
    are not finite are not saved: their error says how to go on, also with a replay folder.
    """
    try:
        yield
    except FloatingPointError as error:
        if not run.processes.first:
            raise
        raise FloatingPointError(f"{error}\n{how_to_go_on(run, error)}") from None
    except Exception:
        if run.progress.step != run.saved_step and not clock.in_step:
            try:
                save_run(run, ckpt.LAST)
            except (FloatingPointError, OSError) as error:
                logger.warning(
                    f"step {run.progress.step} could not be saved ({message(error)}); {whats_left(run)}"
                )
            else:
                logger.warning(go_on(run))
        raise


def whats_left(run: Run) -> str:
    """What a run that could not be saved can go on from."""
    if run.saved is None:
        return "nothing was saved before"
    return f"{run.saved} holds step {run.saved_step}: python train.py trainer.resume={run.folder}"


def how_to_go_on(run: Run, error: FloatingPointError) -> str:
    """What the user can do after a run that was no longer finite. Writes a replay folder."""
    step = error.step if isinstance(error, NotFiniteError) else run.progress.step
    try:
        cause = f"What was not finite first: detectors replay {write_replay(run, step, str(error))}"
    except OSError as problem:
        cause = f"There is no folder for detectors replay, it could not be written: {problem}"
    if run.saved is None:
        return (
            "Nothing was saved yet: start again with a lower optimizer.rate, more schedule.warmup_steps or "
            f"trainer.clip_grad_norm. {cause}"
        )
    place = run.folder if run.saved == run.folder / ckpt.LAST else run.saved
    return (
        f"Go on from step {run.saved_step} with a lower rate: python train.py trainer.resume={place} "
        f"optimizer.rate={run.config.optimizer['rate'] / 2:g}; trainer.clip_grad_norm=10 and "
        f"trainer.on_nonfinite=skip can help, too. {cause}"
    )


def restore(run: Run, checkpoint: ckpt.Checkpoint) -> None:
    """Puts a checkpoint's optimiser, average, progress and random state into a run whose module already has
    its weights.

    ValueError for a checkpoint of weights alone, or of another model's training.
    """
    if not checkpoint.optimizer:
        raise ValueError(
            f"{checkpoint.path}: it holds weights alone, as convert writes them, so a run cannot go on from "
            "it; start a new run with init.from instead of trainer.resume"
        )
    place = str(checkpoint.path)
    run.optimizer.load_state_dict(checked_optimizer_state(run.optimizer, checkpoint.optimizer, place))
    lay_out_state(run.optimizer)
    if run.ema is not None:
        run.ema.restore(checkpoint.ema, place)
    run.progress = stored_progress(checkpoint.progress, checkpoint.step, place)
    run.saved_step = run.progress.step
    run.saved = checkpoint.path
    if run.guard is not None:
        run.guard.resume(run.progress.skipped_steps, run.progress.skipped_in_a_row)
    run.recent.restore(checkpoint.recent, run.device)
    run.scaler.restore(checkpoint.scaler)
    run.task.resume(run.progress.images_seen)
    ckpt.set_random_state(checkpoint.random, checkpoint.path)
    if others := other_versions(checkpoint.versions):
        logger.warning(f"{place} was written with {others}: the run goes on, but perhaps not bit for bit")
