"""A refused run leaves no folder: Hydra makes the run's folder before our code can look at the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

HYDRAS_FILES = {Path(".hydra") / name for name in ("config.yaml", "hydra.yaml", "overrides.yaml")}


class FolderNote(Callback):
    """Notes whether a run's folder was there before Hydra made it; conf/train.yaml names it to Hydra."""

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
        FolderNote.fresh = None if folder.exists() else folder.absolute()


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
