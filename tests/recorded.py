"""The recordings in tests/fixtures, one dict per case.

What their numbers mean is known to detectors/verification only.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

FIXTURES = Path(__file__).parent / "fixtures"


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
    return {
        name: dict(np.load(folder / f"{name}.npz")) | {"about": about} for name, about in manifest.items()
    }


def copy(target: Path, *patterns: str, source: str = "darknet") -> Path:
    """Links to files of tests/fixtures, in folders of the same names."""
    for pattern in patterns:
        for path in sorted((FIXTURES / source).glob(pattern)):
            link = target / path.relative_to(FIXTURES / source)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    return target


def write_cases(target: Path, stem: str, names: dict[str, str]) -> Path:
    """Some cases of a json and its npz under new names (old -> new)."""
    settings = json.loads((FIXTURES / f"darknet/{stem}.json").read_text())
    arrays = np.load(FIXTURES / f"darknet/{stem}.npz")
    target.mkdir(exist_ok=True)
    (target / f"{stem}.json").write_text(json.dumps({new: settings[old] for old, new in names.items()}))
    chosen = {key: key.split("/", 1) for key in arrays.files if key.split("/", 1)[0] in names}
    np.savez(
        target / f"{stem}.npz",
        **{f"{names[case]}/{rest}": arrays[key] for key, (case, rest) in chosen.items()},
    )
    return target
