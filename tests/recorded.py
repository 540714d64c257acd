"""Reads the recordings in tests/fixtures. detectors/commands/verify documents their layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

FIXTURES = Path(__file__).parent / "fixtures"


def region_cases(fixtures: Path) -> dict[str, dict]:
    """Every case of region_train by name: the settings of the JSON file and the arrays of the npz file."""
    settings = json.loads((fixtures / "darknet/region_train.json").read_text())
    arrays = np.load(fixtures / "darknet/region_train.npz")
    for name, case in settings.items():
        case |= {key.split("/", 1)[1]: arrays[key] for key in arrays.files if key.startswith(f"{name}/")}
    return settings


def course_cases(fixtures: Path) -> dict[str, dict]:
    """Every recording of the Keras course's loss by name: its arrays, and its manifest entry as `about`."""
    folder = fixtures / "evaluation/keras_yolo2_loss"
    manifest = json.loads((folder / "manifest.json").read_text())
    return {
        name: dict(np.load(folder / f"{name}.npz")) | {"about": about} for name, about in manifest.items()
    }


def copy(target: Path, *patterns: str, source: str = "darknet") -> Path:
    """Links files of tests/fixtures/SOURCE into `target`, in the same subfolders. Returns `target`."""
    for pattern in patterns:
        for path in sorted((FIXTURES / source).glob(pattern)):
            link = target / path.relative_to(FIXTURES / source)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    return target


def write_cases(target: Path, stem: str, names: dict[str, str]) -> Path:
    """Writes some cases of a JSON file and its npz file. names: old name -> new name. Returns `target`."""
    settings = json.loads((FIXTURES / f"darknet/{stem}.json").read_text())
    arrays = np.load(FIXTURES / f"darknet/{stem}.npz")
    target.mkdir(exist_ok=True)
    (target / f"{stem}.json").write_text(json.dumps({new: settings[old] for old, new in names.items()}))
    renamed = {}
    for key in arrays.files:
        case, array = key.split("/", 1)
        if case in names:
            renamed[f"{names[case]}/{array}"] = arrays[key]
    np.savez(target / f"{stem}.npz", **renamed)
    return target
