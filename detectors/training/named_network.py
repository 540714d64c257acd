"""The network that a command's RUN_OR_MODEL names: a run's, or a new one of a yaml of conf/model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from detectors.config.check import check
from detectors.config.composing import composed, latest_or, yaml_names
from detectors.config.run_folders import LATEST
from detectors.config.schema import Config
from detectors.models.classifier import Classifier
from detectors.models.detector import Detector
from detectors.models.exported import EXPORT_SUFFIXES
from detectors.training import assemble
from detectors.training.checkpoint import Checkpoint, find_checkpoint, load_checkpoint
from detectors.training.initial.initial_weights import initial_weights, initialise

UNNAMED_CLASSES = 20  # of a new network whose data set does not name its classes


class NamedNetwork(NamedTuple):
    """A network in evaluation mode on the CPU."""

    network: Detector | Classifier
    config: Config
    class_names: tuple[str, ...]
    checkpoint: Checkpoint | None  # None for a new network
    notes: list[str]  # what init.from gave a new network, for the user


def named_network(place: str, overrides: Sequence[str], *, seed: int | None = None) -> NamedNetwork:
    """A run's network, or a new one of a yaml with settings of train.py, init.from among them.

    place: a yaml of conf/model, a run folder, `latest` or a checkpoint. seed: of a new network's weights,
    unless the overrides have one.
    ValueError for settings beside a run, for a model that a run in the current folder is named like, and for
    an exported file; FileNotFoundError for a place that is neither run nor model.
    """
    known = yaml_names("model")
    if place in known:
        _refuse_run_of_that_name(place)
        return _new_network(place, overrides if seed is None else [f"seed={seed}", *overrides])
    if overrides:
        raise ValueError(
            f"{overrides[0]}: a run keeps its settings; only a model takes others: {', '.join(known)}"
        )
    path = Path(place)
    if path.suffix in EXPORT_SUFFIXES:
        raise ValueError(f"{place}: this is an exported file; name the run or the checkpoint it was made of")
    try:
        file = find_checkpoint(latest_or(path))
    except FileNotFoundError as error:
        if path.exists() or place == LATEST:
            raise
        raise FileNotFoundError(f"{error}; nor is it a model: {', '.join(known)}") from error
    stored = load_checkpoint(file)
    network, config = assemble.load_network(stored, torch.device("cpu"))
    return NamedNetwork(network, config, stored.class_names, stored, [])


def _new_network(model: str, overrides: Sequence[str]) -> NamedNetwork:
    config = check(composed([f"model={model}", *overrides]))
    names = tuple(config.data.class_names or map(str, range(UNNAMED_CLASSES)))
    network = assemble.build_detector(config, len(names)).eval()
    notes = initialise(network, initial_weights(config.init.from_), config, names)
    return NamedNetwork(network, config, names, None, notes)


def _refuse_run_of_that_name(model: str) -> None:
    """ValueError if the current folder holds a run or a file of that name, so that it has two meanings."""
    try:
        found = find_checkpoint(model)
    except FileNotFoundError:
        return
    raise ValueError(
        f"{model}: is a model of conf/model, and {Path.cwd()} holds {found}; for that one type ./{model}, "
        "for the model go to another folder"
    )
