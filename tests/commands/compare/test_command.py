"""The comparison of runs: numbers carried over unchanged, differences named, what is missing said."""

from __future__ import annotations

import json

import pytest

from detectors.commands.compare import command


def write_run(folder, name: str, **changes) -> None:
    folder.mkdir()
    summary = {
        "name": name,
        "model": "yolov2_tiny",
        "data": "shapes",
        "input_size": [160, 320],
        "parameters": 1234567,
        "gflops": 0.5,
        "steps": 100,
        "images_seen": 800,
        "train_seconds": 12.5,
        "train_images_per_second": 64.0,
        "device": "cpu, 1 threads",
        "validation": {"AP": 0.9},
    } | changes
    evaluation = {
        "data": "shapes",
        "split": "val",
        "images": 150,
        "AP": 0.5,
        "AP50": 0.8,
        "AP50_voc07": 0.7,
        "AP50_voc10": 0.75,
        "inference_images_per_second": 200.0,
        "device": "cpu, 1 threads",
        "per_class": {"disc": {"AP50_voc10": 0.75}, "ring": {"AP50_voc10": None}},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "evaluation.json").write_text(json.dumps(evaluation))


def test_the_table_and_the_file_hold_both_runs(tmp_path, capsys):
    write_run(tmp_path / "a", "one")
    write_run(tmp_path / "b", "two", images_seen=400)
    command.main([str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(tmp_path / "out" / "comparison")])
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [run["name"] for run in content["runs"]] == ["one", "two"]
    first = content["runs"][0]
    assert (first["AP"], first["AP50"], first["AP50_voc07"], first["AP50_voc10"]) == (0.5, 0.8, 0.7, 0.75)
    assert (first["model"], first["train_seconds"], first["input"]) == ("yolov2_tiny", 12.5, "320x160")
    printed = capsys.readouterr().out
    assert "1,234,567" in printed
    assert "| ring " in printed
    assert "numbers of training images: one 800, two 400" in printed
    assert "numbers of training images" in (tmp_path / "out" / "comparison.md").read_text()


def test_what_is_missing_is_said(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        command.main([str(tmp_path / "nothing")])
    assert end.value.code == 2
    assert "is " in (message := capsys.readouterr().err)
    assert "summary.json: no such file" in message
    write_run(tmp_path / "a", "one")
    with pytest.raises(SystemExit):
        command.main([str(tmp_path / "a"), "--split", "test"])
    assert f"python evaluate.py run={tmp_path / 'a'} split=test" in capsys.readouterr().err
    (tmp_path / "a" / "summary.json").write_text("{")
    with pytest.raises(SystemExit):
        command.main([str(tmp_path / "a")])
    assert "summary.json: no JSON" in capsys.readouterr().err


def test_runs_of_one_recipe_can_be_told_apart_and_compared(tmp_path, capsys):
    """Two seeds share a name: rows carry their folders, and a difference between them is noted."""
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    for folder, name, images in (("x/seed0", "one", 800), ("x/seed1", "one", 400), ("y/seed1", "one", 800)):
        write_run(tmp_path / folder, name, images_seen=images)
    write_run(tmp_path / "other", "two")
    folders = [str(tmp_path / folder) for folder in ("x/seed0", "x/seed1", "y/seed1", "other")]
    command.main([*folders, "--output", str(tmp_path / "comparison")])
    content = json.loads((tmp_path / "comparison.json").read_text())
    names = [run["name"] for run in content["runs"]]
    assert names == ["one (x/seed0)", "one (x/seed1)", "one (y/seed1)", "two"]
    (note,) = [note for note in content["notes"] if "training images" in note]
    assert "one (x/seed0) 800, one (x/seed1) 400" in note
