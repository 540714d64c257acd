"""What stands on the command line of a comparison: run folders, evaluation files, and folders of runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detectors.commands.compare.fairness import PROTOCOL_SETTINGS
from detectors.config.composing import latest_or
from detectors.config.run_folders import is_run_folder, runs_below
from detectors.training.run_files import SUMMARY


def file_of(place: Path, split: str) -> Path:
    """The evaluation file of a place on the command line."""
    folder = run_folder_of(place)
    suffix = "" if split == "val" else f"_{split}"
    return place if place != folder else folder / f"evaluation{suffix}.json"


def run_folder_of(place: Path) -> Path:
    """The run folder of a place on the command line: itself, or the folder of an evaluation file."""
    return place.parent if place.suffix == ".json" and not place.is_dir() else place


def with_runs_of_folders(places: Sequence[Path], split: str) -> tuple[list[Path], list[str]]:
    """The places, with the evaluated runs below it for a multirun's or a duel's folder; and notes that name
    the runs below it that are not evaluated.

    A run that is named twice counts once. ValueError for a folder without runs, or without evaluated ones.
    """
    listed, notes = [], []
    for typed in places:
        file = file_of(Path("run"), split).name
        place = latest_or(typed, file, file)
        if not place.is_dir() or is_run_folder(place) or any(place.glob("evaluation*.json")):
            listed.append(place)
            continue
        runs = list(runs_below(place))
        if not runs:
            raise ValueError(f"{place}: neither a run folder nor a folder of runs: none is in it or below it")
        evaluated = [run for run in runs if file_of(run, split).exists()]
        if others := [run for run in runs if run not in evaluated]:
            alike = () if evaluated else PROTOCOL_SETTINGS
            command = _how_to_evaluate(others, split, alike)
            note = f"not evaluated on {split}: {', '.join(map(str, others))}{command}"
            if not evaluated:
                raise ValueError(f"{place}: none of its runs can be compared; {note}")
            notes.append(f"left out of {place}, because they are {note}")
        listed += evaluated
    once: dict[Path, Path] = {}
    for place in listed:
        once.setdefault(place.resolve(), place)
    return list(once.values()), notes


def _how_to_evaluate(runs: Sequence[Path], split: str, settings: Sequence[str] = ()) -> str:
    """The command that evaluates those of the runs that are trained; "" without any."""
    trained = [f"'{run}'" if "," in str(run) else str(run) for run in runs if (run / SUMMARY).exists()]
    if not trained:
        return ""
    several = " -m" if len(trained) > 1 else ""
    setting = f"run={','.join(trained)}"
    setting = f'"{setting}"' if "'" in setting else setting
    return " ".join([f"; evaluate them: python evaluate.py{several} {setting} split={split}", *settings])
