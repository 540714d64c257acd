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
from detectors.models.ssd import ssd160
from detectors.models.yolov2 import yolov2_tiny


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
    command.main(["shapes", "trainer.steps=700", "--seeds", "0", "3"])
    folder = tmp_path / "duel" / "shapes"
    names = ["yolov2_160_seed0", "ssd160_seed0", "yolov2_160_seed3", "ssd160_seed3"]
    assert [job.folder for job in ran["jobs"]] == [folder / name for name in names]
    common = {"data=shapes", "input.resize=stretch", "trainer.threads=1", "trainer.steps=700"}
    for job, model, seed in zip(ran["jobs"], ["yolov2_160", "ssd160"] * 2, [0, 0, 3, 3], strict=True):
        assert set(job.train) == common | {f"model={model}", f"seed={seed}"}
        assert set(job.evaluate) == {*PROTOCOL_SETTINGS, "split=val", "threads=1"}
    (compared,) = ran["compared"]
    alike = ["--split", "val", "--budget", "images", "--threads", "1"]
    assert compared == [*(str(folder / n) for n in names), *alike, "--output", str(folder / "comparison")]


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
    command.main(["shapes", "trainer.steps=700"])
    command.main(["shapes", "trainer.steps=700", "--seeds", "5"])  # more runs of the same duel
    message = error_of(capsys, "shapes", "trainer.steps=800")
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


SHORT = ("schedule.warmup_steps=0", "model.width=0.1", "data.shapes.train=80", "data.shapes.val=2")


def test_equal_flops_are_steps_that_cost_the_same(ran, tmp_path):
    """Against the networks themselves, at the sizes that they are trained with. Evaluations stay as many."""
    arguments = (
        "trainer.batch_size=4",
        "trainer.steps=1000",
        "trainer.eval_every=200",
        f"paths.cache={tmp_path}",
    )
    command.main(["shapes", *SHORT, *arguments, "--seeds", "0", "--budget", "flops"])
    last = [dict(text.split("=", 1) for text in job.train) for job in ran["jobs"]]
    steps = [int(settings["trainer.steps"]) for settings in last]
    yolo = yolov2_tiny(num_classes=6, width=0.1, last_channels=256, stride=16)
    flops = [detector.flops((160, 160)) for detector in (yolo, ssd160(num_classes=6, width=0.1))]
    assert steps[0] == 1000 != steps[1]
    assert steps[0] * flops[0] == pytest.approx(steps[1] * flops[1], rel=0.005)
    assert last[0]["trainer.eval_every"] == "200"
    assert int(last[1]["trainer.eval_every"]) == pytest.approx(steps[1] / 5, abs=1)
    assert ran["compared"][0][-6:-4] == ["--budget", "flops"]


def test_passes_become_steps_for_equal_flops(ran, tmp_path):
    epochs = ("trainer.epochs=4", f"paths.cache={tmp_path}")
    command.main(["shapes", *SHORT, *epochs, "--seeds", "0", "--budget", "flops"])
    last = dict(text.split("=", 1) for text in ran["jobs"][0].train)
    assert (last["trainer.steps"], last["trainer.epochs"]) == ("40", "null")  # 80 images, 8 a step


def test_equal_seconds_end_by_the_clock(ran):
    command.main(["shapes", "trainer.max_minutes=5", "--seeds", "0", "--budget", "seconds"])
    for job in ran["jobs"]:
        assert {"trainer.max_minutes=5", "schedule=constant", "trainer.steps=1000000"} <= set(job.train)
    command.main(
        ["shapes", "trainer.max_minutes=5", "trainer.steps=900", "--seeds", "7", "--budget", "seconds"]
    )
    assert not {"schedule=constant", "trainer.steps=1000000"} & set(ran["jobs"][0].train)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "seconds"], "--budget seconds: say how long each run trains, such as trainer.max_min"),
        (
            ["--budget", "seconds", "--jobs", "2", "trainer.max_minutes=1"],
            "runs must not slow each other down",
        ),
        (["trainer.max_minutes=1"], "trainer.max_minutes=1: it needs --budget seconds"),
        (["--budget", "flops", "trainer.max_images=80"], "trainer.max_images=80: it needs --budget images"),
        (["trainer.stop_patience=3"], "trainer.stop_patience ends each run at a step of its own"),
        (
            ["--budget", "flops", "trainer.steps=2", *SHORT],
            "trainer.steps=2: too few for ssd160 to have the same",
        ),
        (["trainer.stpes=2"], "trainer.stpes"),
    ],
)
def test_a_budget_that_cannot_be_equal_is_refused_before_the_first_run(arguments, message, ran, capsys):
    assert message in error_of(capsys, *arguments)
    assert ran["jobs"] == []


def test_a_pipe_gets_a_progress_line_now_and_then(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(duel_runs.time, "monotonic", lambda: now[0])
    line = duel_runs._ProgressLine()
    for second in (0, 30, 61, 90, 122):
        now[0] = 100.0 + second
        line.show(f"after {second}")
    line.end("a: done")
    line.end()
    assert capsys.readouterr().out == "after 0\nafter 61\nafter 122\na: done\n"


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
