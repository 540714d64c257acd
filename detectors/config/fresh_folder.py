"""Runs that are started in the same second get a folder each, and a refused run leaves none: Hydra makes a
run's folder before our code can look at the settings.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from detectors.config.schema import AUTO

HYDRAS_FILES = {Path(".hydra") / name for name in ("config.yaml", "hydra.yaml", "overrides.yaml")}


class FolderNote(Callback):
    """Claims a run's folder, and notes whether it was there before; conf/train.yaml names it to Hydra."""

    fresh: Path | None = None  # the folder that Hydra makes in this process; None if it was there before

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """A multirun's folders are made before this; a new one holds Hydra's files, and no log yet."""
        if config.hydra.mode == RunMode.MULTIRUN:
            folder = Path(config.hydra.runtime.output_dir)
            fresh = {path.relative_to(folder) for path in folder.rglob("*")} <= HYDRAS_FILES | {
                Path(".hydra")
            }
            FolderNote.fresh = folder.absolute() if fresh else None

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.run.dir)
        if config.trainer.resume in (None, AUTO) and not names_folder(config.hydra):
            folder = claimed(folder)
            with open_dict(config.hydra):
                config.hydra.run.dir = str(folder)
            FolderNote.fresh = folder.absolute()
        else:
            FolderNote.fresh = None if folder.exists() else folder.absolute()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if not names_folder(config.hydra):
            with open_dict(config.hydra):
                config.hydra.sweep.dir = str(claimed(Path(config.hydra.sweep.dir)))


def names_folder(hydra: Any) -> bool:
    """Whether the command line says where the run, or all runs of a multirun, write. hydra: its settings."""
    setting = "hydra.sweep.dir=" if hydra.mode == RunMode.MULTIRUN else "hydra.run.dir="
    return any(override.lstrip("+").startswith(setting) for override in hydra.overrides.hydra)


def claimed(folder: Path) -> Path:
    """Makes a folder that no other process has: this one, or with _2, _3, ... behind its name."""
    for number in count(1):
        candidate = folder if number == 1 else folder.with_name(f"{folder.name}_{number}")
        try:
            candidate.mkdir(parents=True)
        except FileExistsError:
            continue
        return candidate
    raise AssertionError("count() does not end")


def remove_if_fresh(folder: Path, log: str) -> None:
    """Removes a folder that this process made, if it holds Hydra's own files and the log alone."""
    if folder.absolute() != FolderNote.fresh:
        return
    files = {path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()}
    folders = {path.relative_to(folder) for path in folder.rglob("*")} - files
    if files <= HYDRAS_FILES | {Path(log)} and folders <= {Path(".hydra")}:
        for file in files:
            (folder / file).unlink()
        for inner in (*folders, "."):
            (folder / inner).rmdir()
