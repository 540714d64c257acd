"""TensorBoard reads every number of comparison.json, under tags that detectors share."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from detectors.commands.compare import command
from detectors.commands.compare.comparison_events import TABLES, folder_name, points, write_comparison_events
from tests.commands.compare.test_analysis import write_measured


def read_points(folder: Path) -> list[tuple[str, int, np.float32]]:
    """(tag, step, value) of a folder's scalars; it holds one event file."""
    (file,) = folder.iterdir()
    events = EventAccumulator(str(file), size_guidance={"scalars": 0})
    events.Reload()
    return [
        (tag, event.step, np.float32(event.value))
        for tag in events.Tags()["scalars"]
        for event in events.Scalars(tag)
    ]


def numbers_below(value: object) -> list[float]:
    if isinstance(value, dict):
        shown = [inner for key, inner in value.items() if key not in TABLES]
        return [number for inner in shown for number in numbers_below(inner)]
    if isinstance(value, list):
        return [number for inner in value for number in numbers_below(inner)]
    return [value] if type(value) in (int, float) else []


@pytest.fixture(scope="module")
def comparison(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("compared")
    for seed in (0, 1):
        write_measured(place / f"good{seed}", "a/good", seed, 3.0)
        write_measured(place / f"poor{seed}", "poor", seed, 20.0)
    places = [str(place / name) for name in ("good0", "good1", "poor0", "poor1")]
    command.main([*places, "--resamples", "40", "--output", str(place / "comparison")])
    return place / "comparison"


def test_every_number_of_the_file_is_there(comparison):
    content = json.loads(comparison.with_suffix(".json").read_text())
    root = Path(f"{comparison}_tensorboard")
    names = {group: sorted(path.name for path in (root / group).iterdir()) for group in ("detectors", "runs")}
    assert names["detectors"] == ["a_good", "poor"]
    assert len(names["runs"]) == 4 and "a_good (seed=0)" in names["runs"]
    for group in ("detectors", "runs", "differences"):
        for record, folder in zip(
            sorted(content[group], key=str), sorted((root / group).iterdir()), strict=True
        ):
            read = read_points(folder)
            assert Counter(value for *_, value in read) == Counter(map(np.float32, numbers_below(record)))
            assert len({(tag, step) for tag, step, _ in read}) == len(read) > 20


def test_the_tags_are_those_that_a_reader_expects(comparison):
    content = json.loads(comparison.with_suffix(".json").read_text())
    good = content["detectors"][0]
    read = {
        (tag, step): value
        for tag, step, value in read_points(Path(f"{comparison}_tensorboard/detectors/a_good"))
    }
    ap = good["estimates"]["AP"]
    wanted = {
        "AP": ap["value"],
        "AP_low": ap["over_images"][0],
        "AP_high": ap["over_images"][1],
        "AP_seeds_low": ap["over_images_and_seeds"][0],
        "per_class/disc": good["per_class"]["disc"]["value"],
        "error_costs/location": good["error_costs"]["location"],
        "d_ece": good["d_ece"],
    }
    for tag, value in wanted.items():
        assert read[f"compare/{tag}", 0] == np.float32(value)
    filled = next(n for n, part in enumerate(good["reliability"]) if part["count"])
    assert read["compare/reliability/precision", filled] == np.float32(
        good["reliability"][filled]["precision"]
    )


def test_what_is_added_to_the_file_comes_along():
    value = {
        "new": {"a": 1.5, "b": [2, None, [3, 4]]},
        "name": "x",
        "fast": True,
        "interval": [5, 6],
        "n": None,
    }
    assert list(points(value)) == [
        ("compare/new/a", 0, 1.5),
        ("compare/new/b", 0, 2),
        ("compare/new/b/0", 2, 3),
        ("compare/new/b/1", 2, 4),
        ("compare_low", 0, 5),
        ("compare_high", 0, 6),
    ]


def test_names_become_folders_that_differ():
    taken: set[str] = set()
    names = [folder_name(name, taken) for name in ("a/b", "a:b", "..", "x" * 300, "yolov2 (seed=0)")]
    assert names == ["a_b", "a_b_2", "_", "x" * 120, "yolov2 (seed=0)"]


def test_nothing_but_its_own_files_is_removed(tmp_path):
    content = {"detectors": [{"name": "a", "AP": 0.5}]}
    write_comparison_events(tmp_path, content)
    (tmp_path / "detectors/a/notes.txt").touch()
    (tmp_path / "events.out.tfevents.1.of-a-run").touch()
    write_comparison_events(tmp_path, {"detectors": [{"name": "b", "AP": 0.25}]})
    assert [path.name for path in (tmp_path / "detectors/a").iterdir()] == ["notes.txt"]
    assert read_points(tmp_path / "detectors/b") == [("compare/AP", 0, 0.25)]
    assert (tmp_path / "events.out.tfevents.1.of-a-run").exists()
