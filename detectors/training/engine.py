"""The training loop that every task shares. Flat: one training step, then what happens once in a while.

The loop knows losses, checkpoints and curves, but neither boxes nor classes: those belong to its task
(detection.py).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm
from tqdm import tqdm

from detectors.config.schema import to_plain
from detectors.tables import cell
from detectors.training import checkpoint as ckpt
from detectors.training.checkpoint_checks import checked_optimizer_state, stored_progress
from detectors.training.optim import rate_factor, set_rate
from detectors.training.outcome import write_summary
from detectors.training.progress import Clock, Recent, StopRequests, is_due, stop_requests
from detectors.training.run import Evaluation, Run
from detectors.training.run_log import log_progress, shows_bar

logger = logging.getLogger(__name__)


def train(run: Run) -> Evaluation:
    """Trains to config.trainer.steps, which the run has not reached, and returns the last evaluation.

    Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 end the run after the current step, or in the middle of an evaluation,
    with a usable last.pt and raise KeyboardInterrupt. Other errors leave a last.pt of the last whole step.
    A loss or weight that is not finite raises FloatingPointError with the step, and what is known of it.
    Losses stay on the device until they are logged: there is no host synchronisation in a step.
    """
    trainer = run.config.trainer
    progress = run.progress
    module = run.task.module
    batches = iter(run.train_loader)
    recent = run.recent
    clock = Clock(progress)
    evaluation = None
    with stop_requests() as stop, progress_bar(run) as bar, saved_on_error(run, clock):
        if progress.lacks_evaluation(trainer.steps, trainer.eval_every):
            evaluation = interruptible_evaluation(run, stop)
        assert evaluation or progress.step < trainer.steps, (
            "a finished run must not write its last points again"
        )
        module.train()
        clock.resume()
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
            clock.in_step = False
            bar.update()

            # Once in a while: log, save, evaluate.
            ended = progress.step == trainer.steps
            if ended or is_due(trainer.log_every, progress.step):
                norm = gradient_norm(module) if grad_norm is None else grad_norm
                log(run, recent, clock, bar, {"rate": rate, "grad_norm": norm, **run.task.statistics()})
            evaluates = ended or is_due(trainer.eval_every, progress.step)
            if evaluates or is_due(trainer.save_every, progress.step):
                clock.pause()
                save_run(run, ckpt.LAST)
                if evaluates:
                    evaluation = interruptible_evaluation(run, stop)
                    module.train()
                clock.resume()
        if stop and progress.step < trainer.steps:
            clock.pause()
            save_run(run, ckpt.LAST)
            raise KeyboardInterrupt(go_on(run))
    return evaluation


def progress_bar(run: Run) -> tqdm:
    steps = run.config.trainer.steps
    hidden = not shows_bar(run.config.trainer.progress)
    return tqdm(total=steps, initial=run.progress.step, disable=hidden, unit="step")


def go_on(run: Run) -> str:
    return f"stopped after step {run.progress.step}; go on with: python train.py trainer.resume={run.folder}"


def interruptible_evaluation(run: Run, stop: StopRequests) -> Evaluation:
    """Evaluates and saves. A request to stop is not held back until the end: last.pt was written before."""
    stop.at_once = True
    try:
        if stop:
            raise KeyboardInterrupt
        started = perf_counter()
        evaluation = run.task.evaluate()
        seconds = perf_counter() - started
    except KeyboardInterrupt:
        raise KeyboardInterrupt(go_on(run)) from None
    finally:
        stop.at_once = False
    record_evaluation(run, evaluation, seconds)
    return evaluation


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


def clip_gradients(module: nn.Module, limit: float | None) -> Tensor | None:
    """L2 norm over all gradients before clipping; None without a limit."""
    return clip_grad_norm_(module.parameters(), limit) if limit else None


def gradient_norm(module: nn.Module) -> Tensor:
    """L2 norm over all gradients."""
    return get_total_norm([p.grad for p in module.parameters() if p.grad is not None])


def log(run: Run, recent: Recent, clock: Clock, bar: tqdm, numbers: dict[str, float | Tensor]) -> None:
    """Scalars to the tracker, the log and the bar. This is where the host waits for the device."""
    losses = recent.means()
    rates = clock.rates()
    scalars = {f"train/loss/{name}": value for name, value in losses.items()}
    scalars |= {f"train/{name}": float(value) for name, value in numbers.items()}
    scalars |= {f"train/{name}": value for name, value in rates.items()}
    scalars["train/images_seen"] = run.progress.images_seen
    if broken := len(run.train_loader.problems):
        scalars["train/broken_images"] = broken
    run.tracker.scalars(scalars, run.progress.step)
    terms = ", ".join(f"{name} {value:.4g}" for name, value in losses.items() if name != "total")
    log_progress(
        f"step {run.progress.step} of {run.config.trainer.steps}: loss {losses['total']:.4g} ({terms}), "
        f"rate {scalars['train/rate']:.4g}, grad_norm {scalars['train/grad_norm']:.4g}, "
        f"{rates['images_per_second']:.1f} images/s, data_wait {rates['data_wait']:.2f}",
        run.config.trainer.progress,
    )
    bar.set_postfix(loss=f"{losses['total']:.3f}", images_per_s=f"{rates['images_per_second']:.1f}")


def record_evaluation(run: Run, evaluation: Evaluation, seconds: float) -> None:
    """Logs numbers and pictures, and writes best.pt, if it is the best so far, the summary and last.pt.

    last.pt comes last: where it is at the final step, a resume finds nothing left to write.
    """
    run.tracker.scalars({**run.task.curves(), "time/evaluation": seconds}, run.progress.step)
    for tag, images in run.task.pictures().items():
        run.tracker.images(tag, images, run.progress.step)
    score = evaluation.scalars[run.task.metric]
    best = score is not None and score > run.progress.best
    if best:
        run.progress.best = score
        run.progress.best_step = run.progress.step
        run.progress.best_scalars = dict(evaluation.scalars)
        save_run(run, ckpt.BEST)
    if evaluation.images:
        numbers = ", ".join(f"{name} {cell(evaluation.scalars[name], '.4f')}" for name in run.task.headline)
        log_progress(
            f"evaluation after step {run.progress.step}: {numbers}, {evaluation.images} images in "
            f"{seconds:.1f} s{', the best so far' if best else ''}",
            run.config.trainer.progress,
        )
    write_summary(run, evaluation)
    run.progress.evaluated = run.progress.step
    save_run(run, ckpt.LAST)


def save_run(run: Run, name: str) -> None:
    """Writes the whole state of a run as the checkpoint `name` in its folder.

    FloatingPointError, and nothing is written, if a loss since the last log line or the state is not finite.
    """
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
        )
    )
    if name == ckpt.LAST:
        run.saved_step = run.progress.step


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
    run.task.resume(run.progress.images_seen)
    ckpt.set_random_state(checkpoint.random, checkpoint.path)
