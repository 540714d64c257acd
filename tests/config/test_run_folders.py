"""`latest`: which run is the newest, what it stands for on each command line, and what is said about it."""

from __future__ import annotations

import os
import shutil

import pytest
from hydra import compose, initialize_config_dir

from detectors.commands.compare import command as compare
from detectors.commands.predict.predictor import load
from detectors.commands.replay import command as replay
from detectors.config import composing
from detectors.config.composing import composed, latest_or, prepared
from detectors.config.run_folders import newest_run, with_latest_run
from detectors.config.schema import CONF
from tests.commands.compare.test_command import error_of, write_run


@pytest.fixture
def output(tmp_path, monkeypatch):
    """paths.output with three runs, begun in the order a, c, b; the newest has no checkpoint yet."""
    place = tmp_path / "outputs"
    for folder, second in (("train/a", 10), ("multirun/x/1_model=a,seed=2", 20), ("train/b", 30)):
        run = place / folder
        (run / ".hydra").mkdir(parents=True)
        (run / "train.log").write_text(
            f"[2026-01-01 00:00:{second},000][INFO] one\n[2027-01-01 00:00:00,000] x"
        )
        if folder != "train/b":
            (run / "last.pt").touch()
    (place / "stray.pt").touch()
    (place / "weights").mkdir()
    (place / "weights" / "best.pt").touch()  # of no run
    monkeypatch.setattr(composing, "output_folder", lambda overrides=(): place)
    monkeypatch.chdir(tmp_path)
    return place


def test_the_newest_is_the_one_that_began_last(output, capsys):
    newest = output / "multirun/x/1_model=a,seed=2"
    assert newest_run(output) == newest
    assert capsys.readouterr().err == f"latest: {newest}; newer, but without a checkpoint: {output}/train/b\n"
    (output / "train/b/best.pt").touch()
    os.utime(output / "train/a/last.pt", (2e9, 2e9))  # written later, as by a resume
    assert newest_run(output) == output / "train/b"
    assert capsys.readouterr().err == f"latest: {output}/train/b\n"
    shutil.copytree(output / "train/a", output / "copy", copy_function=shutil.copyfile)
    assert newest_run(output) == output / "train/b"


def test_without_a_log_the_record_of_its_start_counts(output):
    for run, second in (("a", 5e9), ("b", 4e9)):
        (output / "train" / run / "train.log").unlink()
        (output / "train" / run / "last.pt").touch()
        (output / "train" / run / ".hydra/overrides.yaml").touch()
        os.utime(output / "train" / run / ".hydra/overrides.yaml", (second, second))
    assert newest_run(output) == output / "train/a"


def test_a_command_line_of_hydra_gets_its_folder(output):
    """As one text, whatever characters it holds; other settings keep the word."""
    newest = str(output / "multirun/x/1_model=a,seed=2")
    for program, setting in (
        ("train", "trainer.resume"),
        ("train", "init.from"),
        ("evaluate", "run"),
    ):
        arguments = prepared([f"{setting}=latest"], program)
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose(program, arguments)
        group, _, name = setting.rpartition(".")
        assert (config[group] if group else config)[name] == newest
    assert composed(["init.from=latest"])["init"]["from"] == newest
    assert prepared(["name=latest"], "train") == ["name=latest"]
    assert prepared(["init.from=latest,null"], "train") == [f"init.from='{newest}',null"]


@pytest.mark.parametrize("name", ["it's", "a\\", 'a "b" c', "{x}", "${seed}", "b\\'"])
def test_a_folder_with_any_name(name, output):
    run = output / name
    shutil.copytree(output / "train/a", run)
    (run / "train.log").write_text("[2028-01-01 00:00:00,000] x")
    (text,) = with_latest_run(["run=latest"], ["run"], output)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("evaluate", [text])
    assert (config._get_node("run")._value() if "$" in name else config.run) == str(run)


def test_without_a_run_there_is_one_message(output, tmp_path, monkeypatch):
    words = "train one, or name a run's folder"
    with pytest.raises(FileNotFoundError, match=f"latest: no run with a checkpoint below .*/none; {words}"):
        newest_run(tmp_path / "none")
    monkeypatch.setattr(composing, "output_folder", lambda overrides=(): tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="latest: no run with a checkpoint"):
        load("latest")
    with pytest.raises(FileNotFoundError, match="latest: no run with a checkpoint"):
        prepared(["run=latest"], "evaluate")


def test_something_named_latest_in_this_folder_is_not_passed_over(output, tmp_path):
    (tmp_path / "latest").symlink_to("nowhere")
    for ask in (lambda: latest_or("latest"), lambda: prepared(["run=latest"], "evaluate")):
        with pytest.raises(
            ValueError, match=r"latest: means the newest run, but .* holds something of that name"
        ):
            ask()
    assert latest_or("./latest") == "./latest"
    assert prepared(["run=./latest"], "evaluate") == ["run=./latest"]


def test_an_output_folder_of_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there/run/.hydra").mkdir(parents=True)
    for name in (".hydra/overrides.yaml", "last.pt"):
        (tmp_path / "there/run" / name).touch()
    arguments = prepared([f"paths.output={tmp_path}/there", "trainer.resume=latest"], "train")
    assert arguments == [f"paths.output={tmp_path}/there", f"trainer.resume={tmp_path}/there/run"]


def test_a_comparison_takes_the_newest_that_is_evaluated(output, tmp_path, capsys):
    for folder in (output / "train/a", output / "train/b"):
        shutil.rmtree(folder)
    for folder, second in (("old", 10), ("new", 40)):
        write_run(output / folder, folder)
        (output / folder / "train.log").write_text(f"[2026-01-01 00:00:{second},000] x")
    write_run(output / "newest", "newest")
    (output / "newest/evaluation.json").unlink()
    (output / "newest/train.log").write_text("[2026-01-01 00:00:50,000] x")
    compare.main(["latest", str(output / "old"), "--output", str(tmp_path / "comparison")])
    captured = capsys.readouterr()
    assert captured.err == f"latest: {output}/new; newer, but without evaluation.json: {output}/newest\n"
    assert captured.out.index("| new ") < captured.out.index("| old ")
    assert "no run with evaluation_test.json below" in error_of(capsys, "latest", "--split", "test")


def test_a_replay_takes_the_last_folder_of_the_newest_run_with_one(output):
    for place, second in (("replay_step_000200", 1e9), ("replay_step_000100", 2e9)):
        (output / "train/a" / place).mkdir()
        (output / "train/a" / place / "replay.json").touch()
        os.utime(output / "train/a" / place / "replay.json", (second, second))
    assert replay._folder_of(replay.Path("latest")) == output / "train/a/replay_step_000100"


def test_other_processes_of_torchrun_do_not_repeat_it(output, monkeypatch, capsys):
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert newest_run(output).name == "1_model=a,seed=2"
    assert capsys.readouterr().err == ""


def test_a_refused_resume_writes_into_no_folder_of_the_user(tmp_path):
    """Only a folder with a checkpoint is a run's."""
    assert composing.run_folder(str(tmp_path), "fresh") == "fresh"
    assert composing.run_folder(str(tmp_path / "nothing"), "fresh") == "fresh"
    (tmp_path / "last.pt").touch()
    assert composing.run_folder(str(tmp_path), "fresh") == str(tmp_path)
    assert composing.run_folder(str(tmp_path / "last.pt"), "fresh") == str(tmp_path)
    assert composing.run_folder(None, "fresh") == composing.run_folder("auto", "fresh") == "fresh"
