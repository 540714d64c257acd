"""The numbers of a run, last and best: the table at its end, and summary.json."""

from __future__ import annotations

import torch

from detectors.config.schema import to_yaml
from detectors.data.files import write_json, write_text
from detectors.tables import cell, text_table
from detectors.training import checkpoint as ckpt
from detectors.training.run import Evaluation, Run
from detectors.training.run_files import SUMMARY


def outcome(run: Run, evaluation: Evaluation) -> str:
    """The table of the last evaluation, and its numbers beside those of the best one."""
    if not evaluation.images:
        return "no evaluation: data.val is empty"
    progress = run.progress
    numbers = {
        ckpt.LAST: (progress.step, evaluation.scalars),
        ckpt.BEST: (progress.best_step, best_scalars(run)),
    }
    rows = [
        (name, cell(step), *[cell(scalars.get(key), ".4f") for key in run.task.headline])
        for name, (step, scalars) in numbers.items()
    ]
    lines = text_table(("checkpoint", "step", *run.task.headline), rows)
    return "\n".join([f"evaluation after step {progress.step}, the last:", evaluation.table(), *lines])


def best_scalars(run: Run) -> dict[str, float | None]:
    """The numbers of the best evaluation so far; the deciding one alone after a resume of an older run."""
    progress = run.progress
    return {run.task.metric: progress.best if progress.best >= 0 else None, **progress.best_scalars}


def device_name(device: torch.device) -> str:
    """The hardware behind a timing."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"


def devices_name(run: Run) -> str:
    """The hardware of all processes: '2 x cpu, 1 threads'."""
    count = run.processes.world_size
    return f"{count} x {device_name(run.device)}" if count > 1 else device_name(run.device)


def write_summary(run: Run, evaluation: Evaluation) -> None:
    """summary.json: facts about the training for comparisons; the last evaluation (`validation`), the best.

    config.yaml: the settings of the run.
    """
    config = run.config
    progress = run.progress
    summary = {
        "name": config.name,
        **run.task.summary(),
        "seed": config.seed,
        "steps": progress.step,
        "images_seen": progress.images_seen,
        "train_seconds": progress.train_seconds,
        "train_images_per_second": progress.images_seen / max(progress.train_seconds, 1e-9),
        "device": devices_name(run),
        "validation": {"step": progress.step, **evaluation.as_dict()},
        "best": {"step": progress.best_step, **best_scalars(run)},
    }
    write_json(run.folder / SUMMARY, summary)
    write_text(run.folder / "config.yaml", to_yaml(config))
