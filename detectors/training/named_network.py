"""The network that a command's RUN_OR_MODEL names: a run's, or a new one of a yaml of conf/model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from detectors.config.check import check
from detectors.config.schema import Config, composed, latest_or, yaml_names
from detectors.models.classifier import Classifier
from detectors.models.detector import Detector
from detectors.training import assemble
from detectors.training.checkpoint import Checkpoint, find_checkpoint, load_checkpoint

UNNAMED_CLASSES = 20  # of a new network whose data set does not name its classes


class NamedNetwork(NamedTuple):
    """A network in evaluation mode on the CPU."""

    network: Detector | Classifier
    config: Config
    class_names: tuple[str, ...]
    checkpoint: Checkpoint | None  # None for a new network


def named_network(place: str, overrides: Sequence[str], *, seed: int | None = None) -> NamedNetwork:
    """A run's network, or a new one of a yaml with settings of train.py.

    place: a yaml of conf/model, a run folder, `latest` or a checkpoint. seed: of a new network's weights, unless the
    overrides have one.
    ValueError for settings beside a run; FileNotFoundError for a place that is neither.
    """
    known = yaml_names("model")
    if place in known:
        seeded = [] if seed is None else [f"seed={seed}"]
        config = check(composed([f"model={place}", *seeded, *overrides]))
        names = tuple(config.data.class_names or map(str, range(UNNAMED_CLASSES)))
        return NamedNetwork(assemble.build_detector(config, len(names)).eval(), config, names, None)
    if overrides:
        raise ValueError(
            f"{overrides[0]}: a run keeps its settings; only a model takes others: {', '.join(known)}"
        )
    try:
        path = find_checkpoint(latest_or(Path(place)))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; nor is it a model: {', '.join(known)}") from error
    stored = load_checkpoint(path)
    network, config = assemble.load_network(stored, torch.device("cpu"))
    return NamedNetwork(network, config, stored.class_names, stored)
