"""The comparison of runs: numbers carried over unchanged, differences named, what is missing said."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import pytest

from detectors.commands.compare import command


def write_run(folder, name: str, *, evaluated: dict | None = None, settings: str = "", **changes) -> None:
    """A run folder. changes: of the summary; evaluated: of the evaluation; settings: config.yaml's text."""
    folder.mkdir(parents=True)
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
    } | (evaluated or {})
    if settings:
        (folder / "config.yaml").write_text(settings)
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "evaluation.json").write_text(json.dumps(evaluation))


def test_the_table_and_the_file_hold_both_runs(tmp_path, capsys):
    write_run(tmp_path / "a", "one")
    write_run(tmp_path / "b", "two", images_seen=400)
    command.main(
        [
            str(tmp_path / "a"),
            str(tmp_path / "b"),
            "--unfair-ok",
            "--output",
            str(tmp_path / "out" / "comparison"),
        ]
    )
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
    assert "summary.json: not valid JSON" in capsys.readouterr().err


def test_runs_of_one_recipe_can_be_told_apart_and_compared(tmp_path, capsys):
    """Two seeds share a name: rows carry their folders, and a difference between them is noted."""
    for folder, name, images in (("x/seed0", "one", 800), ("x/seed1", "one", 400), ("y/seed1", "one", 800)):
        write_run(tmp_path / folder, name, images_seen=images)
    write_run(tmp_path / "other", "two")
    folders = [str(tmp_path / folder) for folder in ("x/seed0", "x/seed1", "y/seed1", "other")]
    command.main([*folders, "--unfair-ok", "--output", str(tmp_path / "comparison")])
    content = json.loads((tmp_path / "comparison.json").read_text())
    names = [run["name"] for run in content["runs"]]
    assert names == ["one (x/seed0)", "one (x/seed1)", "one (y/seed1)", "two"]
    (note,) = [note for note in content["notes"] if "numbers of training images" in note]
    assert "one (x/seed0) 800, one (x/seed1) 400" in note


@pytest.mark.parametrize(
    ("output", "stem"), [(None, "comparison"), ("out/v1.2", "out/v1.2"), ("out/table.md", "out/table")]
)
def test_where_the_table_is_written(output, stem, tmp_path, monkeypatch, capsys):
    """By default below paths.output, as train.py's runs, whatever the current folder is."""
    monkeypatch.setattr(command, "output_folder", lambda: tmp_path)
    write_run(tmp_path / "run", "one")
    command.main([str(tmp_path / "run"), *(["--output", str(tmp_path / output)] if output else [])])
    assert {path.name for path in (tmp_path / stem).parent.iterdir()} >= {
        f"{Path(stem).name}.{kind}" for kind in ("md", "json")
    }
    assert capsys.readouterr().out.endswith(
        f"written: {tmp_path / stem}.md, {tmp_path / stem}.json, {tmp_path / stem}.html\n"
    )


def names_of(place: Path, *folders: str, options: tuple[str, ...] = ()) -> list[str]:
    places = [str(place / folder) for folder in folders]
    command.main([*places, *options, "--output", str(place / "comparison")])
    return [run["name"] for run in json.loads((place / "comparison.json").read_text())["runs"]]


def test_what_differs_stands_beside_the_name(tmp_path):
    """The settings that differ, and the folder where they do not tell the runs apart."""
    template = (
        "name: one\nseed: {}\noptimizer:\n  rate: {}\npaths:\n  output: {}\n"
        "trainer:\n  init_without: {}\n  clip_grad_norm: {}\n"
    )
    values = {"a": (0, 0.1, "x", [], "null"), "b": (1, 0.1, "y", [], "null"), "c": (1, 0.1, "z", [], "null")}
    for folder, row in values.items():
        write_run(tmp_path / folder, "one", settings=template.format(*row))
    write_run(tmp_path / "d", "two", settings="name: two\nseed: 7\n")
    assert names_of(tmp_path, "a", "b", "d") == ["one (seed=0)", "one (seed=1)", "two"]
    assert names_of(tmp_path, "a", "b", "c") == ["one (seed=0)", "one (seed=1, b)", "one (seed=1, c)"]
    write_run(tmp_path / "e", "one", settings=template.format(3, 0.2, "x", ["head", "neck"], 20.0))
    assert names_of(tmp_path, "a", "e") == [
        "one (seed=0, optimizer.rate=0.1, trainer.init_without=[], 1 more)",
        "one (seed=3, optimizer.rate=0.2, trainer.init_without=['head','neck'], 1 more)",
    ]


def test_an_evaluation_without_a_hash_is_read_and_said(tmp_path, capsys):
    write_run(tmp_path / "new", "new", evaluated={"truths_hash": "0123456789abcdef"})
    write_run(tmp_path / "old", "old")
    assert names_of(tmp_path, "new", "old") == ["new", "old"]
    assert (
        "Note: evaluated by an older version, which did not record the ground truth, so that it may differ: "
        "old; evaluate again to be sure\n"
    ) in capsys.readouterr().out
    write_run(tmp_path / "other", "other", evaluated={"truths_hash": "fedcba9876543210", "data": "voc"})
    assert names_of(tmp_path, "new", "old", "other", options=("--unfair-ok",)) == [
        "new on shapes val 01234567",
        "old on shapes val unknown",
        "other on voc val fedcba98",
    ]


def test_other_evaluations_are_offered(tmp_path, capsys):
    write_run(tmp_path / "run", "one")
    (tmp_path / "run/evaluation.json").rename(tmp_path / "run/evaluation_voc_01234567.json")
    assert error_of(capsys, tmp_path / "run") == (
        f"error: {tmp_path}/run/evaluation.json: no such file; write it with: python evaluate.py "
        f"run={tmp_path}/run split=val; or give one that is there: evaluation_voc_01234567.json"
    )
    assert names_of(tmp_path, "run/evaluation_voc_01234567.json") == ["one"]


def error_of(capsys, *arguments) -> str:
    """The first line on stderr of a comparison that must fail, which must be its only message."""
    with pytest.raises(SystemExit) as end:
        command.main([str(argument) for argument in arguments])
    assert end.value.code == 2
    message, hint = capsys.readouterr().err.splitlines()
    assert hint.startswith("(HYDRA_FULL_ERROR=1 shows")
    return message


WRONG = (None, "text", [1], 3.5, -0.25, {"a": 1}, True, float("nan"), float("inf"))


@pytest.mark.parametrize("file", ["summary.json", "evaluation.json"])
def test_a_wrong_field_is_one_message(file, tmp_path, capsys):
    """Each key that is read, in turn missing and of every other type."""
    write_run(tmp_path / "run", "one", evaluated={"truths_hash": "0123456789abcdef"})
    path = tmp_path / "run" / file
    whole = json.loads(path.read_text())
    errors = 0
    for key in whole.keys() - {"validation"}:
        contents = [{name: value for name, value in whole.items() if name != key}]
        contents += [whole | {key: wrong} for wrong in WRONG]
        for content in contents:
            path.write_text(json.dumps(content))
            with suppress(SystemExit):
                command.main([str(tmp_path / "run"), "--output", str(tmp_path / "comparison")])
            if text := capsys.readouterr().err:
                message, _ = text.splitlines()
                assert message.startswith(f"error: {path}: ") and "run" in message.partition("; ")[2]
                errors += 1
    assert errors > 6 * len(whole)
    path.write_text(json.dumps(whole | {"AP": "high"}))
    if file == "evaluation.json":
        assert error_of(capsys, tmp_path / "run") == (
            f'error: {path}: AP is "high", must be a number or null; '
            f"write it with: python evaluate.py run={tmp_path / 'run'} split=val"
        )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not valid JSON (Expecting value"),
        (b"[]", "holds [], must be an object of names and values"),
        (b"3", "holds 3, must be an object of names and values"),
        (b'{"AP": NaN}', "not valid JSON (the number NaN)"),
        (b'{"AP": 1e999}', "not valid JSON (the number 1e999)"),
        (b'{"AP": ' + b"1" * 5000 + b"}", "not valid JSON (Exceeds the limit"),
        (b"[" * 100_000, "not valid JSON (maximum recursion depth"),
        (b"\xff\xfe\xff", "the JSON file is not UTF-16 text"),
        (b'{"name": "\xe9"}', "the JSON file is not UTF-8 text"),
        ("fifo", "not a regular file"),
        ("folder", "not a regular file"),
    ],
)
def test_a_file_that_is_no_record_is_one_message(content, reason, tmp_path, capsys):
    write_run(tmp_path / "run", "one")
    for name in ("summary.json", "evaluation.json"):
        path = tmp_path / "run" / name
        before = path.read_bytes()
        path.unlink()
        if content == "fifo":
            os.mkfifo(path)
        elif content == "folder":
            path.mkdir()
        else:
            path.write_bytes(content)
        assert error_of(capsys, tmp_path / "run").startswith(f"error: {path}: {reason}")
        path.rmdir() if content == "folder" else path.unlink()
        path.write_bytes(before)


@pytest.mark.parametrize(
    "settings",
    ["[1, 2", "- a", "a: &x [1]\nb: *x", "{" * 3000, "a: \x07", "\t", "d: 2001-99-99", "!!python/x a"],
)
def test_a_configuration_that_is_none_is_one_message(settings, tmp_path, capsys):
    write_run(tmp_path / "run", "one", settings=settings)
    message = error_of(capsys, tmp_path / "run")
    assert message.startswith(f"error: {tmp_path / 'run/config.yaml'}: not ")
    assert message.endswith("; remove it, and compare names the runs by their folders")


def write_foreign(folder: Path, **changes) -> None:
    """What evaluate.py writes about another program's detections."""
    write_run(folder, "", evaluated={"truths_hash": "0123456789abcdef"} | changes)
    content = json.loads((folder / "evaluation.json").read_text())
    for key in ("device", "inference_images_per_second"):
        del content[key]
    (folder / "evaluation.json").write_text(json.dumps(content))
    (folder / "summary.json").unlink()


def test_a_place_without_a_summary(tmp_path, capsys):
    """What only a training knows stays empty, and notes say what cannot be checked; nothing is refused."""
    known = {"truths_hash": "0123456789abcdef", "protocol": {"nms_iou": 0.45}}
    write_run(tmp_path / "a", "one", evaluated=known)
    write_run(tmp_path / "b", "two", evaluated=known, images_seen=799)
    write_foreign(tmp_path / "results_evaluated", name="results", AP=0.25)
    assert names_of(tmp_path, "a", "b", "results_evaluated") == ["one", "two", "results"]
    content = json.loads((tmp_path / "comparison.json").read_text())
    foreign = content["runs"][2]
    assert (foreign["AP"], foreign["steps"], foreign["device"]) == (0.25, None, None)
    assert content["notes"][:3] == [
        "no summary.json, so that the budget cannot be checked: results",
        "the post-processing is not known, so that it may differ: results",
        "the runs differ in their numbers of training images: one 800, two 799",
    ]
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| results"))
    assert [cell.strip() for cell in row.split("|")[2:5]] == ["-", "0.250", "0.800"]


def test_known_budgets_and_truths_are_checked_beside_an_unknown_one(tmp_path, capsys):
    write_run(tmp_path / "a", "one", images_seen=400)
    write_run(tmp_path / "b", "two", train_seconds=99.0)
    write_foreign(tmp_path / "c", truths_hash="ffff")
    with pytest.raises(SystemExit):
        command.main([str(tmp_path / place) for place in "abc"])
    assert "on different budgets, whether in images seen (one 400, two 800)" in capsys.readouterr().err
    write_run(tmp_path / "d", "four", evaluated={"truths_hash": "0123"})
    with pytest.raises(SystemExit):
        command.main([str(tmp_path / place) for place in "cd"])
    assert "on different ground truth" in capsys.readouterr().err


def test_a_converted_checkpoint_is_named_by_its_file(tmp_path):
    write_foreign(tmp_path / "c", checkpoint="ssd300.pt")
    write_foreign(tmp_path / "d")
    assert names_of(tmp_path, "c/evaluation.json", "d") == ["ssd300", "d"]
