"""A checkpoint to start from, and a new detector that starts from a file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from detectors.config.schema import Config, to_plain
from detectors.training import assemble
from detectors.training import checkpoint as ckpt
from detectors.training.initial.initial_weights import initial_weights, initialise
from tests.test_configs import checked

NAMES = ("a", "b", "c")


def configured(*overrides: str, model: str = "ssd160") -> Config:
    return checked(f"model={model}", "model.width=0.125", *overrides)


def shifted(config: Config, classes: int) -> dict[str, Tensor]:
    """The state dict of a detector whose parameters and statistics are another one's plus 1."""
    detector = assemble.build_detector(config, classes)
    return {name: t + 1 if t.is_floating_point() else t for name, t in detector.state_dict().items()}


def stored(config: Config, path: Path, class_names: tuple[str, ...] = NAMES) -> ckpt.Checkpoint:
    """A checkpoint of a detector that is not drawn from the run's seed, and has seen 1,000 images."""
    model = shifted(config, len(class_names))
    empty = {"progress": {"images_seen": 1000}, "optimizer": {}, "random": {}}
    ckpt.save_checkpoint(
        ckpt.Checkpoint(
            path=path, step=7, config=to_plain(config), class_names=class_names, model=model, **empty
        )
    )
    return ckpt.load_checkpoint(path)


def started(
    config: Config, place: Path, class_names: tuple[str, ...] = NAMES
) -> tuple[dict[str, Tensor], dict[str, Tensor], str]:
    """State dicts before and after, and what was printed."""
    torch.manual_seed(5)
    detector = assemble.build_detector(config, len(class_names))
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    lines = initialise(detector, initial_weights(str(place)), config, class_names)
    return before, detector.state_dict(), "\n".join(lines)
