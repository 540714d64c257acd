"""From a command line to a configuration: the yaml files of conf/ with overrides, as Hydra composes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from detectors.config.build import trust
from detectors.config.habits import EVALUATE_NAMES, TRAIN_NAMES, Habits, with_one_length
from detectors.config.run_folders import (
    LATEST,
    names_latest,
    newest_run,
    refuse_namesake,
    resumed_folder,
    with_latest_run,
)
from detectors.config.schema import AUTO, CONF, HINTS, Config, DataConfig, EvaluateConfig
from detectors.config.typed import composable, setting_hints, with_quoted_texts
from detectors.data.class_names import CLASS_LISTS
from detectors.models.pixels import backbone_pixels


def run_folder(resume: str | None, fresh: str) -> str:
    """Where a run writes: a resumed one into the folder of its checkpoint, so that its curves go on; any
    other into a fresh one.

    So does one that train.py is about to refuse, without a checkpoint: it leaves nothing in a user's folder.
    """
    if resume in (None, "", AUTO):
        return fresh
    return str(resumed_folder(resume) or fresh)


def hydra_subdir(resume: str | None, folder: str) -> str | None:
    """Where Hydra records what was typed: the record of a run's start stays as it is.

    So a resume writes none, nor does a new run that train.py is about to refuse because of another one.
    """
    if resume not in (None, AUTO) or any(Path(folder).glob("*.pt")):
        return None
    return ".hydra"


def folder_of(file: str | None) -> str:
    """The folder that a file is in; '???', a missing value, without a file."""
    return str(Path(file).parent) if file else "???"


def shared_or(shared: str | None, folder: str, otherwise: str) -> str:
    """Where a data set lies that can be in paths.shared: below it, if one is given."""
    return f"{shared}/{folder}" if shared else otherwise


OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)
OmegaConf.register_new_resolver("hydra_subdir", hydra_subdir, replace=True)
OmegaConf.register_new_resolver("known_classes", lambda name: list(CLASS_LISTS[name]), replace=True)
OmegaConf.register_new_resolver(
    "backbone_pixels", lambda *names: OmegaConf.create({"it": backbone_pixels(*names)}).it, replace=True
)  # a list of OmegaConf, which --resolve needs
OmegaConf.register_new_resolver("folder_of", folder_of, replace=True)
OmegaConf.register_new_resolver("shared_or", shared_or, replace=True)
ConfigStore.instance().store(name="train_schema", node=composable(Config))
ConfigStore.instance().store(name="evaluate_schema", node=composable(EvaluateConfig))


class HydraProgram(NamedTuple):
    """What Hydra runs."""

    schema: type
    names: dict[str, str]  # habits.TRAIN_NAMES or EVALUATE_NAMES
    runs: tuple[str, ...]  # settings that name a run


HYDRA_PROGRAMS = {
    "train": HydraProgram(Config, TRAIN_NAMES, ("trainer.resume", "init.from")),
    "evaluate": HydraProgram(EvaluateConfig, EVALUATE_NAMES, ("run",)),
}


def as_typed(overrides: Sequence[str]) -> list[str]:
    """Overrides whose texts stay what was typed, see with_quoted_texts."""
    return with_quoted_texts(overrides, HINTS)


def yaml_names(group: str) -> list[str]:
    """What can be chosen for a group of conf/, sorted: the models for "model"."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def prepared(arguments: Sequence[str], program: str) -> list[str]:
    """A command line for Hydra. ValueError that names our settings for those of other programs.

    program: train or evaluate. `latest` has become the newest run's folder.
    """
    schema, names, runs = HYDRA_PROGRAMS[program]
    settings = [*setting_hints(schema), *(f"data.{field.name}" for field in fields(DataConfig))]
    groups = {path.parent.name for path in CONF.glob("*/*.yaml")}
    if program == "evaluate":
        groups = {"data", "paths"}
    choices = {group: yaml_names(group) for group in groups}
    overrides = Habits(settings, choices, names).ordered(arguments)
    if names_latest(overrides, runs):
        places = [override for override in overrides if override.lstrip("+").startswith("paths.")]
        overrides = with_latest_run(overrides, runs, output_folder(places))
    return as_typed(with_one_length(overrides) if program == "train" else overrides)


def composed(overrides: Sequence[str]) -> dict[str, Any]:
    """train.py's configuration with these overrides, unchecked, for commands that Hydra does not run."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(compose("train", prepared(overrides, "train")), resolve=True)
    trust(config["builders"])
    return config


def output_folder(overrides: Sequence[str] = ()) -> Path:
    """paths.output as train.py has it, for commands that Hydra does not run: all of them write there."""
    return Path(composed(overrides)["paths"]["output"])


def latest_or(place: Path, holds: str = "*.pt", what: str = "a checkpoint") -> Path:
    """The place of a run as it was typed; for `latest`, the newest run that holds a file of this pattern.

    what: such a file, for messages.
    FileNotFoundError without any; ValueError if the current folder holds something of that name.
    """
    if str(place) != LATEST:
        return place
    refuse_namesake()
    return newest_run(output_folder(), holds, what)


def merged(stored: Mapping[str, Any], changes: Sequence[str]) -> DictConfig:
    """A checkpoint's configuration with changes of the form key=value over it."""
    settings = [change.lstrip("+") for change in as_typed(changes)]
    return OmegaConf.merge(stored, OmegaConf.from_dotlist(settings))
