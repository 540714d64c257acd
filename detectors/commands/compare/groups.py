"""Which runs are of one detector: those whose settings differ in the seed alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectors.commands.compare.analysis import ComparedDetector, Measurement
from detectors.commands.compare.run_names import UNNAMED, distinctly_named
from detectors.training.detections_file import read_detections

SEED = "seed"


def grouped_by_seed(
    runs: Sequence[dict[str, Any]], settings: Sequence[Mapping[str, Any]], evaluations: Sequence[Path]
) -> tuple[list[ComparedDetector], list[str]]:
    """The detectors that the runs are of, with their saved detections, and notes if these cannot be used.

    settings: of each run, see read_settings; a run without any is a detector of its own. evaluations: the
    evaluation file of each run, beside which the detections lie.
    """
    if len({run.get("truths_hash") for run in runs}) > 1:
        return [], []  # nothing can be paired
    files = [detections_of(path) for path in evaluations]
    if absent := [run["name"] for run, path in zip(runs, files, strict=True) if not path.exists()]:
        return [], [
            "no intervals, differences and reasons, because these runs have no saved detections; evaluate "
            f"them again: {', '.join(absent)}"
        ]
    places: dict[object, list[int]] = {}
    for place, (run, own) in enumerate(zip(runs, settings, strict=True)):
        places.setdefault(_recipe(own) if own else run["folder"], []).append(place)
    firsts = [group[0] for group in places.values()]
    named = distinctly_named(
        [dict(runs[place]) | {"name": _plain_name(runs[place], settings[place])} for place in firsts],
        [{key: value for key, value in settings[place].items() if key != SEED} for place in firsts],
    )
    detectors = []
    for run, group in zip(named, places.values(), strict=True):
        members = [
            Measurement(runs[place], settings[place].get(SEED), *_read(files[place], evaluations[place]))
            for place in group
        ]
        detectors.append(ComparedDetector(run["name"], members))
    return detectors, []


def detections_of(evaluation: Path) -> Path:
    """evaluation_test.json -> detections_test.npz"""
    return evaluation.with_name(f"detections{evaluation.stem.removeprefix('evaluation')}.npz")


def _read(path: Path, evaluation: Path):
    return read_detections(path, f"write it again: python evaluate.py run={evaluation.parent}")


def _recipe(settings: Mapping[str, Any]) -> tuple:
    return tuple(
        sorted(
            (key, repr(value))
            for key, value in settings.items()
            if key != SEED and not key.startswith(tuple(name for name in UNNAMED if name != "name"))
        )
    )


def _plain_name(run: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """The name of the run's recipe, without what tells it from its other seeds."""
    return str(settings.get("name", run["name"]))
