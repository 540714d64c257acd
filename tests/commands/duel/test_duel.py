"""A duel: the plan, what goes wrong, and a tiny one from start to end, stopped and taken up again."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from detectors.commands.compare.fairness import PROTOCOL_SETTINGS
from detectors.commands.duel import command, duel_runs
from detectors.commands.duel.duel_runs import DuelRun, last_step, progress_line, run_all


@pytest.fixture
def ran(monkeypatch, tmp_path):
    """Records the jobs and the comparison instead of making them."""
    made = {"jobs": [], "compared": []}

    def run(these, at_once):
        made["jobs"] = list(these)
        return []

    monkeypatch.setattr(command, "run_all", run)
    monkeypatch.setattr(command.compare, "main", lambda arguments: made["compared"].append(arguments))
    monkeypatch.setattr(command, "output_folder", lambda: tmp_path)
    return made


def test_runs_differ_in_model_and_seed_alone(ran, tmp_path):
    command.main(["shapes", "trainer.steps=7", "--seeds", "0", "3"])
    folder = tmp_path / "duel" / "shapes"
    names = ["yolov2_160_seed0", "ssd160_seed0", "yolov2_160_seed3", "ssd160_seed3"]
    assert [job.folder for job in ran["jobs"]] == [folder / name for name in names]
    common = {"data=shapes", "input.resize=stretch", "trainer.threads=1", "trainer.steps=7"}
    for job, model, seed in zip(ran["jobs"], ["yolov2_160", "ssd160"] * 2, [0, 0, 3, 3], strict=True):
        assert set(job.train) == common | {f"model={model}", f"seed={seed}"}
        assert set(job.evaluate) == {*PROTOCOL_SETTINGS, "split=val", "threads=1"}
    (compared,) = ran["compared"]
    assert compared[:4] == [str(folder / name) for name in names]


def test_the_input_handling_can_be_chosen(ran):
    command.main(["bccd", "input.resize=letterbox", "--models", "yolov2_tiny", "ssd300"])
    assert "input.resize=letterbox" in ran["jobs"][0].train
    assert "input.resize=stretch" not in ran["jobs"][0].train


def error_of(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        command.main(list(arguments))
    assert end.value.code == 2
    return capsys.readouterr().err


def test_a_folder_with_other_settings_is_refused(ran, tmp_path, capsys):
    command.main(["shapes", "trainer.steps=7"])
    command.main(["shapes", "trainer.steps=7", "--seeds", "5"])  # more runs of the same duel
    message = error_of(capsys, "shapes", "trainer.steps=8")
    assert "its runs have other settings (yolov2_160_seed0: data=shapes" in message
    assert "choose another --output" in message
    plan = json.loads((tmp_path / "duel" / "shapes" / command.PLAN).read_text())
    assert len(plan) == 8 and "yolov2_160_seed5" in plan


def test_what_cannot_be(ran, capsys):
    assert "--seeds names one twice" in error_of(capsys, "--seeds", "1", "1")
    assert "--models names one twice" in error_of(capsys, "--models", "ssd160", "ssd160")
    assert "--jobs 0: must be 1 or more" in error_of(capsys, "--jobs", "0")


def test_a_failed_run_is_named_and_the_others_are_compared(ran, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "run_all", lambda these, at_once: [these[0]])
    message = error_of(capsys, "shapes", "--seeds", "0", "1")
    assert f"1 of 4 runs failed, see {tmp_path}/duel/shapes/yolov2_160_seed0/duel.log" in message
    (compared,) = ran["compared"]
    assert str(tmp_path / "duel/shapes/ssd160_seed0") in compared
    assert str(tmp_path / "duel/shapes/yolov2_160_seed0") not in compared


def test_the_progress_line(tmp_path):
    job = DuelRun(tmp_path / "a", (), ())
    assert progress_line(1, 6, [job], 2.4) == "1 of 6 runs done, 2 min; a starting"
    job.folder.mkdir()
    job.log.write_text("step 10 of 100: loss 3\nevaluation\nstep 20 of 100: loss 2\n" + "x" * 100)
    assert progress_line(1, 6, [job], 2.4) == "1 of 6 runs done, 2 min; a step 20 of 100"
    job.log.write_text("x" * 2 * duel_runs.TAIL)
    assert last_step(job.log) == "starting"


TINY = (
    "debug=fast",
    "data.shapes.train=12",
    "data.shapes.val=6",
    "model.width=0.05",
    "trainer.probe_images=0",
)


def job_of(tmp_path: Path, name: str, *overrides: str) -> DuelRun:
    caches = (f"paths.cache={tmp_path}/cache", f"paths.output={tmp_path}")
    train = (*TINY, *caches, "trainer.device=cpu", "trainer.threads=1", *overrides)
    return DuelRun(tmp_path / name, train, ("device=cpu", "threads=1"))


@pytest.mark.slow
def test_two_runs_one_of_which_fails(tmp_path, capfd):
    good = job_of(tmp_path, "good", "model=ssd160")
    bad = job_of(tmp_path, "bad", "model=ssd160", "trainer.stpes=3")
    assert run_all([good, bad], 2) == [bad]
    assert (good.folder / "detections.npz").exists()
    assert "trainer.stpes" in bad.log.read_text()
    assert "good: done\n" in (out := capfd.readouterr().out) and f"bad: failed, see {bad.log}\n" in out
    before = (good.folder / "last.pt").read_bytes()
    assert run_all([good], 1) == []  # finished runs stay as they are
    assert (good.folder / "last.pt").read_bytes() == before


@pytest.mark.slow
def test_a_stopped_duel_saves_its_runs_and_goes_on(tmp_path, monkeypatch):
    job = job_of(tmp_path, "run", "model=ssd160", "trainer.steps=400", "trainer.eval_every=0")
    looks = time.sleep

    def stop_in_training(seconds: float) -> None:
        looks(seconds)
        words = last_step(job.log).split()
        if words[0] == "step" and int(words[1]) >= 20:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(duel_runs.time, "sleep", stop_in_training)
    with pytest.raises(KeyboardInterrupt):
        run_all([job], 1)
    assert "go on with: python train.py" in job.log.read_text()
    assert (job.folder / "last.pt").exists() and not (job.folder / "evaluation.json").exists()
    monkeypatch.setattr(duel_runs.time, "sleep", looks)
    assert run_all([job], 1) == []
    assert (job.folder / "evaluation.json").exists()
