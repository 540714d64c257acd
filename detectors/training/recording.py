"""What a run says while it trains: the progress bar, a log point, an evaluation."""

from __future__ import annotations

import resource
import sys

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from detectors.tables import cell
from detectors.training import checkpoint as ckpt
from detectors.training.budgets import note_evaluation
from detectors.training.host_copy import on_host
from detectors.training.outcome import write_summary
from detectors.training.progress import Clock, Recent, is_due
from detectors.training.run import Evaluation, Run
from detectors.training.run_log import log_progress, shows_bar
from detectors.training.saving import count_skipped, guard_counts, save_run
from detectors.training.update import weight_norm


def progress_bar(run: Run) -> tqdm:
    steps = run.config.trainer.steps
    hidden = not (run.processes.first and shows_bar(run.config.trainer.progress))
    return tqdm(total=steps, initial=run.progress.step, disable=hidden, unit="step")


def log(run: Run, recent: Recent, clock: Clock, bar: tqdm, numbers: dict[str, float | Tensor]) -> None:
    """Scalars to the tracker, the log and the bar. This is where the host waits for the device, once.

    numbers: of this process; all processes call it, and their means are logged.
    """
    on_device = {"weight_norm": weight_norm(run.task.module), "terms": recent.stacked()}
    on_device |= {**run.scaler.tensors(), **guard_counts(run)}
    of_step = {("step", name): value for name, value in numbers.items() if isinstance(value, Tensor)}
    host = on_host(on_device | of_step)
    numbers = {name: float(host.get(("step", name), value)) for name, value in numbers.items()}
    numbers = run.processes.means(numbers)
    run.processes.share_problems(run.train_loader)
    losses = recent.means(host["terms"], run.processes)
    count_skipped(run, host)
    rates = clock.rates()
    scalars = {f"train/loss/{name}": value for name, value in losses.items()}
    scalars |= {f"train/{name}": value for name, value in {**numbers, **run.scaler.numbers(host)}.items()}
    scalars |= {f"train/{name}": value for name, value in rates.items()}
    scalars |= group_rates(run.optimizer, scalars["train/rate"])
    scalars["train/weight_norm"] = float(host["weight_norm"])
    scalars["train/peak_memory"] = peak_memory(run.device)
    scalars["train/images_seen"] = run.progress.images_seen
    if broken := len(run.train_loader.problems):
        scalars["train/broken_images"] = broken
    if run.progress.skipped_steps:
        scalars["train/skipped_steps"] = run.progress.skipped_steps
    run.tracker.scalars(scalars, run.progress.step)
    if is_due(run.config.trainer.histograms_every, run.progress.step):
        run.tracker.histograms(histogram_values(run.task.module), run.progress.step)
    terms = ", ".join(f"{name} {value:.4g}" for name, value in losses.items() if name != "total")
    log_progress(
        f"step {run.progress.step} of {run.config.trainer.steps}: loss {losses['total']:.4g} ({terms}), "
        f"rate {scalars['train/rate']:.4g}, grad_norm {scalars['train/grad_norm']:.4g}, "
        f"{rates['images_per_second']:.1f} images/s, data_wait {rates['data_wait']:.2f}",
        run.config.trainer.progress,
    )
    bar.set_postfix(loss=f"{losses['total']:.3f}", images_per_s=f"{rates['images_per_second']:.1f}")


def histogram_values(module: nn.Module) -> dict[str, np.ndarray]:
    """Tag -> the finite numbers of each weight, and of its gradient as the optimiser used it."""
    values = {}
    for name, parameter in module.named_parameters():
        for kind, tensor in (("weights", parameter.detach()), ("gradients", parameter.grad)):
            if tensor is not None:
                values[f"{kind}/{name}"] = tensor[tensor.isfinite()].float().cpu().numpy()
    return values


def group_rates(optimizer: torch.optim.Optimizer, rate: float) -> dict[str, float]:
    """Tag -> rate of each parameter group whose rate is not the run's."""
    groups = {group.get("name", number): group["lr"] for number, group in enumerate(optimizer.param_groups)}
    return {f"train/rate/{name}": own for name, own in groups.items() if own != rate}


def peak_memory(device: torch.device) -> float:
    """GiB: on a GPU the most that tensors have had at once, on a CPU the most that the process has had."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def record_evaluation(run: Run, evaluation: Evaluation, seconds: float) -> None:
    """Writes best.pt, if it is the best so far, curves and pictures, and the summary, calls the user's hooks,
    and writes last.pt.

    last.pt comes last: where it is at the final step, a resume finds nothing left to write.
    """
    score = evaluation.scalars[run.task.metric]
    best = score is not None and score > run.progress.best
    if best:
        run.progress.best = score
        run.progress.best_step = run.progress.step
        run.progress.best_scalars = dict(evaluation.scalars)
        save_run(run, ckpt.BEST)
    record_curves(run, seconds)
    note_evaluation(run.config.trainer, run.progress, run.task.curves())
    if evaluation.images:
        numbers = ", ".join(f"{name} {cell(evaluation.scalars[name], '.4f')}" for name in run.task.headline)
        log_progress(
            f"evaluation after step {run.progress.step}: {numbers}, {evaluation.images} images in "
            f"{seconds:.1f} s{', the best so far' if best else ''}",
            run.config.trainer.progress,
        )
    if run.processes.first:
        write_summary(run, evaluation)
    run.hooks.after_evaluation(run, evaluation)
    run.progress.evaluated = run.progress.step
    save_run(run, ckpt.LAST)


def record_curves(run: Run, seconds: float) -> None:
    """Numbers and pictures of the last evaluation, which took `seconds`, to the tracker."""
    step = run.progress.step
    scores = {name: run.progress.best_scalars.get(name) for name in run.task.headline}
    best = {f"best/{name}": score for name, score in scores.items() if score is not None}
    run.tracker.scalars({**run.task.curves(), **best, "time/evaluation": seconds}, step)
    for tag, images in run.task.pictures().items() if run.processes.first else ():
        run.tracker.images(tag, images, step)
    run.tracker.pr_curves({f"pr/{name}": curve for name, curve in run.task.precision_recall().items()}, step)
