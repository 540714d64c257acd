"""The jobs of a multirun: each leaves a line in jobs.jsonl in the sweep's folder, and the table at the end
says which of them failed and why.

A file, because jobs may run in other processes and on other machines.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from detectors.tables import cell, text_table

JOBS = "jobs.jsonl"


class SweepNote(Callback):
    """Notes where this process's multirun records its jobs; conf/train.yaml names it to Hydra."""

    file: Path | None = None  # None in a single run
    start = 0  # bytes in the file that an earlier multirun in the same folder has left

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        SweepNote.file = Path(config.hydra.sweep.dir) / JOBS
        SweepNote.start = SweepNote.file.stat().st_size if SweepNote.file.exists() else 0

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        SweepNote.file = None

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        jobs = recorded_jobs()
        print(*job_table(jobs), sep="\n")
        if config.hydra.job.name == "train" and len(jobs) > 1:
            print(f"to compare them: detectors compare {shlex.quote(str(SweepNote.file.parent))}")


def record_job(result: Mapping[str, Any]) -> None:
    """Adds a line about the job that this process runs. result: `value`, its metric, or `error`, a text."""
    config = HydraConfig.get()
    row = {
        "job": config.job.num,
        "overrides": list(config.overrides.task),
        "folder": config.runtime.output_dir,
        **result,
    }
    with (Path(config.sweep.dir) / JOBS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def recorded_jobs() -> list[dict[str, Any]]:
    """The jobs of this process's multirun that have ended, by number."""
    if SweepNote.file is None or not SweepNote.file.exists():
        return []
    lines = SweepNote.file.read_bytes()[SweepNote.start :].decode("utf-8").splitlines()
    return sorted(map(json.loads, lines), key=lambda row: row["job"])


def job_table(jobs: list[dict[str, Any]]) -> list[str]:
    """A line for each job: what distinguishes it, and its metric or why it failed."""
    common = set(jobs[0]["overrides"]).intersection(*(job["overrides"] for job in jobs)) if jobs else set()
    rows = [
        (
            str(job["job"]),
            " ".join(text for text in job["overrides"] if text not in common),
            " ".join(f"failed: {job['error']}".split()) if "error" in job else cell(job["value"], ".4f"),
        )
        for job in jobs
    ]
    failed = sum("error" in job for job in jobs)
    title = f"{len(jobs) - failed} jobs done, {failed} failed; {SweepNote.file}"
    return [title, *text_table(("job", "settings", "result"), rows, left=(0, 1, 2))]
