"""Folders of runs on the command line of a comparison: the runs they stand for, and what is left out."""

from __future__ import annotations

import json

import pytest

from detectors.commands.compare import command
from detectors.commands.compare.run_places import with_runs_of_folders
from detectors.config.run_folders import runs_below
from tests.commands.compare.test_command import error_of, write_run


@pytest.fixture
def sweep(tmp_path):
    """A multirun's folder: eleven evaluated jobs, one that is not, one that failed, and files beside them."""
    for job in range(11):
        write_run(tmp_path / "sweep" / f"{job}_seed={job}", "one", settings=f"name: one\nseed: {job}\n")
    write_run(tmp_path / "sweep" / "11_model=a,seed=2", "two")
    (tmp_path / "sweep/11_model=a,seed=2/evaluation.json").unlink()
    (tmp_path / "sweep/12_failed/.hydra").mkdir(parents=True)
    (tmp_path / "sweep/plots").mkdir()
    (tmp_path / "sweep/jobs.jsonl").touch()
    return tmp_path / "sweep"


def test_a_multiruns_folder_stands_for_its_evaluated_runs(sweep, tmp_path, capsys):
    write_run(tmp_path / "other", "three")
    command.main([str(tmp_path / "other"), str(sweep), "--output", str(tmp_path / "comparison")])
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert [run["name"] for run in content["runs"]] == ["three", *(f"one (seed={n})" for n in range(11))]
    (note,) = [note for note in content["notes"] if note.startswith("left out of")]
    assert note == (
        f"left out of {sweep}, because they are not evaluated on val: {sweep}/11_model=a,seed=2, "
        f"{sweep}/12_failed; evaluate them: python evaluate.py "
        f"\"run='{sweep}/11_model=a,seed=2'\" split=val"
    )
    assert f"Note: {note}" in capsys.readouterr().out


def test_folders_within_folders_and_a_run_that_is_named_twice(sweep):
    places, notes = with_runs_of_folders([sweep / "3_seed=3", sweep.parent, sweep / "4_seed=4"], "val")
    assert places == [sweep / "3_seed=3", *(sweep / f"{n}_seed={n}" for n in (0, 1, 2, *range(4, 11)))]
    assert len(notes) == 1
    one = [sweep / "0_seed=0/evaluation.json", sweep / "0_seed=0"]  # the place counts, not the run
    assert with_runs_of_folders(one, "val") == (one, [])


def test_a_run_that_holds_folders_is_one_run(tmp_path):
    write_run(tmp_path / "runs/a", "one")
    write_run(tmp_path / "runs/a/replay_step_3", "inner")
    assert list(runs_below(tmp_path / "runs")) == [tmp_path / "runs/a"]
    assert with_runs_of_folders([tmp_path / "runs/a"], "val") == ([tmp_path / "runs/a"], [])


def test_a_folder_without_runs_is_one_message(sweep, tmp_path, capsys):
    (tmp_path / "empty/below").mkdir(parents=True)
    assert error_of(capsys, tmp_path / "empty") == (
        f"error: {tmp_path}/empty: neither a run folder nor a folder of runs: none is in it or below it"
    )
    message = error_of(capsys, sweep, "--split", "test")
    assert message.startswith(f"error: {sweep}: none of its runs can be compared; not evaluated on test: ")
    assert f'; evaluate them: python evaluate.py -m "run={sweep}/0_seed=0,' in message
    assert f",'{sweep}/11_model=a,seed=2'\" split=test score_threshold=0.01 " in message
