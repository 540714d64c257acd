"""Runs that are started in the same second get a folder each, and a refused run leaves none: Hydra makes a
run's folder before our code can look at the settings. A multirun's folders are named by what differs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from detectors.config.run_folders import quoted_for_hydra
from detectors.config.schema import AUTO

OWN_SWEEP = "++hydra.sweep.dir="  # what the command line does not say, but FolderNote
LONGEST_VALUE = 60  # characters of a value in a folder's name
LONGEST_NAME = 200  # of the whole name; a file system takes 255 bytes
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
        swept, constant = swept_settings(config.hydra)
        listed = ",".join(map(quoted_for_hydra, constant))
        for_jobs = [f"hydra.job.config.override_dirname.exclude_keys=[{listed}]"]
        if not names_folder(config.hydra):
            plain = Path(config.hydra.sweep.dir)
            names = [plain.name, *(key.rpartition(".")[2] for key in swept)]
            folder = claimed(plain.with_name("_".join(names)[:LONGEST_NAME]))
            for_jobs.append(f"{OWN_SWEEP}{quoted_for_hydra(str(folder))}")
            with open_dict(config.hydra):
                config.hydra.sweep.dir = str(folder)
        # Each job composes its settings anew, from these.
        with open_dict(config.hydra):
            config.hydra.overrides.hydra.extend(for_jobs)


def swept_settings(hydra: Any) -> tuple[list[str], list[str]]:
    """The settings that differ between the jobs of a multirun, and those that do not. hydra: its settings."""
    overrides = OverridesParser.create().parse_overrides(_as_typed(hydra.overrides.task))
    swept = dict.fromkeys(hydra.sweeper.get("params") or ())
    swept |= dict.fromkeys(override.key_or_group for override in overrides if override.is_sweep_override())
    return list(swept), [it.key_or_group for it in overrides if it.key_or_group not in swept]


def job_folder(number: int, overrides: ListConfig, constant: Sequence[str]) -> str:
    """The name of a job's folder, such as 3_model=ssd160_seed=1: settings that are not constant, as typed.

    Of a path its last part counts. All characters can be typed in a shell and on a command line of Hydra.
    """
    parts = [str(number)]
    for override in _as_typed(overrides):
        key, _, value = override.lstrip("+~").partition("=")
        if key not in constant:
            text = re.sub(r"[^\w.+-]+", "-", value.strip("'\"/").rpartition("/")[2]).strip("-")
            parts.append(f"{key}={text[:LONGEST_VALUE]}")
    return "_".join(parts)[:LONGEST_NAME]


def names_folder(hydra: Any) -> bool:
    """Whether the command line says where the run, or all runs of a multirun, write. hydra: its settings."""
    setting = "hydra.sweep.dir=" if hydra.mode == RunMode.MULTIRUN else "hydra.run.dir="
    typed = [override for override in _as_typed(hydra.overrides.hydra) if not override.startswith(OWN_SWEEP)]
    return any(override.lstrip("+").startswith(setting) for override in typed)


def _as_typed(overrides: ListConfig) -> list[str]:
    """Overrides with their interpolations unresolved."""
    return OmegaConf.to_container(overrides, resolve=False)


OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)


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
