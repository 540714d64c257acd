"""A run's whole state to a checkpoint and back, and what an error in the loop leaves behind."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from detectors.config.schema import to_plain
from detectors.training import checkpoint as ckpt
from detectors.training.checkpoint_checks import checked_optimizer_state, stored_progress
from detectors.training.progress import Clock
from detectors.training.run import Run

logger = logging.getLogger(__name__)


def save_run(run: Run, name: str) -> None:
    """Writes the whole state of a run as the checkpoint `name` in its folder; the first process does.

    FloatingPointError, and nothing is written, if a loss since the last log line or the state is not finite.
    """
    if not run.processes.first:
        return
    run.recent.check()
    run.tracker.flush()  # a resume does not write points of earlier steps
    model = run.task.module.state_dict()
    optimizer = run.optimizer.state_dict()
    if (name_of_bad := first_not_finite(model, optimizer)) is not None:
        raise FloatingPointError(
            f"step {run.progress.step}: {name_of_bad} holds NaN or infinity, so it is not saved. Try a lower "
            "optimizer.rate, more schedule.warmup_steps or trainer.clip_grad_norm; the checkpoints in "
            f"{run.folder} are from before"
        )
    ckpt.save_checkpoint(
        ckpt.Checkpoint(
            path=run.folder / name,
            step=run.progress.step,
            config=to_plain(run.config),
            class_names=tuple(run.task.class_names),
            model=model,
            progress=dict(vars(run.progress)),
            optimizer=optimizer,
            random=ckpt.random_state(),
            recent=run.recent.state(),
            scaler=run.scaler.state(),
        )
    )
    if name == ckpt.LAST:
        run.saved_step = run.progress.step


def go_on(run: Run) -> str:
    return f"stopped after step {run.progress.step}; go on with: python train.py trainer.resume={run.folder}"


@contextmanager
def saved_on_error(run: Run, clock: Clock) -> Iterator[None]:
    """Saves last.pt if an error ends the loop, unless a step has begun or numbers are not finite.

    A broken image, a lost worker or a tracker that fails then costs no step that was made. Nothing is saved
    twice: within an evaluation, the last.pt from before is the one whose resume evaluates again.
    """
    try:
        yield
    except FloatingPointError:
        raise
    except Exception:
        if run.progress.step != run.saved_step and not clock.in_step:
            try:
                save_run(run, ckpt.LAST)
            except (FloatingPointError, OSError) as error:
                logger.warning(f"{run.folder / ckpt.LAST}: not written ({error})")
            else:
                logger.warning(go_on(run))
        raise


def first_not_finite(model: Mapping[str, Tensor], optimizer: Mapping[str, Any]) -> str | None:
    """The name of the first tensor of a state with a NaN or infinity. Waits for the device once."""
    tensors = dict(model)
    for number, state in optimizer["state"].items():
        tensors |= {f"{key} of parameter {number} in the optimizer": value for key, value in state.items()}
    tensors = {name: value for name, value in tensors.items() if isinstance(value, Tensor)}
    floating = {name: value for name, value in tensors.items() if value.is_floating_point()}
    device = next(iter(floating.values())).device
    finite = torch.stack([value.isfinite().all().to(device) for value in floating.values()]).tolist()
    return next((name for name, good in zip(floating, finite, strict=True) if not good), None)


def restore(run: Run, checkpoint: ckpt.Checkpoint) -> None:
    """Puts a checkpoint's optimiser, progress and random state into a run whose module already has its
    weights.

    ValueError for a checkpoint of weights alone, or of another model's training.
    """
    if not checkpoint.optimizer:
        raise ValueError(
            f"{checkpoint.path}: it holds weights alone, as convert writes them, so a run cannot go on from "
            "it; start a new run with trainer.init_from instead of trainer.resume"
        )
    place = str(checkpoint.path)
    run.optimizer.load_state_dict(checked_optimizer_state(run.optimizer, checkpoint.optimizer, place))
    run.progress = stored_progress(checkpoint.progress, checkpoint.step, place)
    run.saved_step = run.progress.step
    run.recent.restore(checkpoint.recent, run.device)
    run.scaler.restore(checkpoint.scaler)
    run.task.resume(run.progress.images_seen)
    ckpt.set_random_state(checkpoint.random, checkpoint.path)
