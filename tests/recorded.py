"""The recordings in tests/fixtures, one dict per case. What their numbers mean is known to detectors/verification only."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np


def region_cases(fixtures: Path) -> dict[str, dict]:
    """Every case of region_train: the settings of the json and the arrays of the npz."""
    settings = json.loads((fixtures / "darknet/region_train.json").read_text())
    arrays = np.load(fixtures / "darknet/region_train.npz")
    for name, case in settings.items():
        case |= {key.split("/", 1)[1]: arrays[key] for key in arrays.files if key.startswith(f"{name}/")}
    return settings


def course_cases(fixtures: Path) -> dict[str, dict]:
    """Every recording of the course's Keras loss: its arrays, and its line of the manifest as `about`."""
    folder = fixtures / "evaluation/keras_yolo2_loss"
    manifest = json.loads((folder / "manifest.json").read_text())
    return {name: dict(np.load(folder / f"{name}.npz")) | {"about": about} for name, about in manifest.items()}
