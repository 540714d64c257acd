"""The training loop that every task shares. Flat: one training step, then what happens once in a while.

The loop knows losses, checkpoints and curves, but neither boxes nor classes: those belong to its task
(detection.py).
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from time import perf_counter

from detectors.structures import Batch
from detectors.training import checkpoint as ckpt
from detectors.training.budgets import ending, lacks_evaluation
from detectors.training.freezing import train_mode
from detectors.training.progress import Clock, StopRequests, is_due, stop_requests
from detectors.training.recording import log, progress_bar, record_evaluation
from detectors.training.run import Evaluation, Run
from detectors.training.saving import go_on, save_is_due, save_run, saved_on_error
from detectors.training.spans import span
from detectors.training.update import backward, begin_step, gradient_norm, update


def train(run: Run) -> Evaluation:
    """Trains until config.trainer ends the run, see budgets.ending, and returns the last evaluation.

    Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 end the run after the current step, or in the middle of an evaluation,
    with a usable last.pt and raise KeyboardInterrupt. Other errors leave a last.pt of the last whole step.
    A loss or weight that is not finite raises NotFiniteError with the step, and what is known of it, unless
    trainer.on_nonfinite=skip.
    Losses stay on the device until they are logged: there is no host synchronisation in a step.
    """
    trainer = run.config.trainer
    progress = run.progress
    module = run.task.module
    batches = iter(run.train_loader)
    recent = run.recent
    clock = Clock(progress, run.processes)
    evaluation = None
    with stop_requests() as stop, progress_bar(run) as bar, saved_on_error(run, clock):
        if lacks_evaluation(trainer, progress):
            evaluation = interruptible_evaluation(run, stop)
        ended = ending(trainer, progress)
        assert evaluation or not ended, "a finished run must not write its last points again"
        train_mode(module, freeze_statistics=trainer.freeze_statistics)
        clock.resume()
        while not ended and (fetched := batches_of_step(run, batches, clock, stop)):
            # One training step.
            rate = begin_step(run)
            for part, loaded in enumerate(fetched, 1):
                batch = run.to_device(loaded)
                terms = run.task.step(batch, exchange=part == trainer.accumulate)
                backward(run, terms)
                recent.add(terms, progress.step + 1, batch)
            grad_norm = update(run)
            progress.step += 1
            progress.images_seen += trainer.accumulate * len(batch.infos) * run.processes.world_size
            clock.end_step(agree=trainer.max_minutes is not None)
            bar.update()
            run.hooks.after_step(run)

            # Once in a while: log, save, evaluate.
            ended = ending(trainer, progress)
            if ended or is_due(trainer.log_every, progress.step):
                norm = gradient_norm(module) if grad_norm is None else grad_norm
                log(run, recent, clock, bar, {"rate": rate, "grad_norm": norm, **run.task.statistics()})
            evaluates = ended or is_due(trainer.eval_every, progress.step)
            if evaluates or save_is_due(run):
                clock.pause()
                save_run(run, ckpt.LAST)
                if evaluates:
                    evaluation = interruptible_evaluation(run, stop)
                    ended = ending(trainer, progress)
                    train_mode(module, freeze_statistics=trainer.freeze_statistics)
                clock.resume()
        if stop and not ended:
            clock.pause()
            save_run(run, ckpt.LAST)
            raise KeyboardInterrupt(go_on(run))
    return evaluation


def batches_of_step(run: Run, batches: Iterator[Batch], clock: Clock, stop: StopRequests) -> list[Batch]:
    """All batches of the next step, so that loading fails or hangs between two steps.

    [] on a request to stop, which is also heard while they are waited for.
    """
    try:
        return clock.wait_for(batches, run.config.trainer.accumulate, stop)
    except KeyboardInterrupt:  # of this process, or of another one of the run
        stop.signals.append(signal.SIGTERM)
        return []


def interruptible_evaluation(run: Run, stop: StopRequests) -> Evaluation:
    """Evaluates and saves. A request to stop is not held back until the end: last.pt was written before."""
    try:
        with run.processes.together():
            stop.raise_if_any()
        with stop.at_once(), span("evaluation"):
            started = perf_counter()
            evaluation = run.task.evaluate()
            seconds = perf_counter() - started
    except KeyboardInterrupt:
        raise KeyboardInterrupt(go_on(run)) from None
    record_evaluation(run, evaluation, seconds)
    return evaluation
