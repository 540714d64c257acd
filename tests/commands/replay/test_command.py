"""detectors replay: the folder that a run leaves, and what is not finite first, by place and name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detectors.commands.replay import command
from detectors.commands.replay.watch import StepWatch
from detectors.training import checkpoint as ckpt
from detectors.training import engine
from detectors.training.detection import DetectionTask
from tests.training.test_engine import cache, make_run, one_thread  # noqa: F401 - fixtures


def failed(folder: Path, cache: Path, *overrides: str, **kwargs) -> Path:  # noqa: F811
    """A run that stops because of NaN; returns its replay folder."""
    run = make_run(folder, cache, *overrides, **kwargs)
    with pytest.raises(FloatingPointError) as caught:
        engine.train(run)
    run.tracker.close()
    (replay,) = folder.glob("replay_step_*")
    assert f"detectors replay {replay}" in str(caught.value)
    return replay


@pytest.mark.parametrize(
    ("model", "overrides"),
    [
        ("yolov2_160", ("trainer.eval_every=0",)),
        ("yolov2_160", ("trainer.eval_every=1", "data.workers=2")),
        ("ssd160", ("trainer.eval_every=1", "trainer.accumulate=2", "trainer.batch_size=2")),
    ],
)
def test_a_rate_that_explodes_is_repeated(model, overrides, cache, tmp_path, capsys):  # noqa: F811
    """From the last checkpoint, or from the seed; a second replay begins right before the step."""
    explode = ("optimizer=sgd", "optimizer.rate=1e6", "schedule.warmup_steps=0", "trainer.log_every=6")
    folder = failed(tmp_path / "run", cache, *explode, *overrides, model=model)
    start = folder / "start.pt"
    assert start.exists() == (tmp_path / "run/last.pt").exists()
    for file in (tmp_path / "run").glob("*.pt"):  # as if the run had gone on: the folder needs no other file
        file.unlink()
    command.main([str(folder)])
    first = capsys.readouterr().out
    assert "is the first that is not finite, in this order:\n" in first
    assert "  after the step: " in first and "JPEGImages" in first
    command.main([str(folder)])
    second = capsys.readouterr().out
    assert second.split("in this order:")[1] == first.split("in this order:")[1]
    if (folder / "before.pt").exists():
        step = ckpt.load_checkpoint(folder / "before.pt").step
        assert f"repeating steps {step + 1} to " in second


def test_a_bad_loss_is_named_with_its_module(cache, tmp_path, capsys, monkeypatch):  # noqa: F811
    original = DetectionTask.step

    def step(task: DetectionTask, batch, exchange: bool = True) -> dict:
        terms = original(task, batch, exchange)
        if task.module.loss.images_seen >= 20:
            return terms | {"box": (terms["box"] * 0).sqrt()}  # 0, with an infinite gradient times 0
        return terms

    monkeypatch.setattr(DetectionTask, "step", step)
    folder = failed(tmp_path / "run", cache)
    command.main([str(folder)])
    out = capsys.readouterr().out
    assert "step 5 is the first that is not finite, in this order:\n  the backward pass of " in out
    assert "  autograd: Function 'MulBackward0' returned nan values" in out


def test_a_step_that_is_finite_here_has_its_own_status(cache, tmp_path, capsys):  # noqa: F811
    run = make_run(tmp_path, cache)
    parameter = next(run.task.module.parameters())
    parameter.register_hook(lambda grad: grad * (float("nan") if run.progress.step == 4 else 1.0))
    with pytest.raises(FloatingPointError):
        engine.train(run)
    run.tracker.close()
    (folder,) = tmp_path.glob("replay_step_*")
    with pytest.raises(SystemExit) as ended:
        command.main([str(folder)])
    assert ended.value.code == 1
    assert "finite here" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format is 2, this version reads 1"),
        ({"step": 0}, "step is 0, must be 1 or more"),
        ({"step": 99}, "step is 99, after the run's end, 6"),
        ({"threads": 10**9}, "threads is 1000000000, at most 1024"),
        ({"batches": [[3]]}, "batches must be lists of"),
        ({"batches": [[[0, 0, None, "x.png"]]]}, "has other images here than in the run"),
        ({"class_names": []}, "class_names is empty"),
        ({"config": {"name": "${oc.env:HOME}"}}, "refused, because its configuration holds"),
        ({"config": {"trainer": {"stpes": 3}}}, "trainer.stpes=3: there is no such setting"),
    ],
)
def test_a_folder_from_others_is_checked(change, message, cache, tmp_path, capsys):  # noqa: F811
    explode = ("optimizer=sgd", "optimizer.rate=1e6", "schedule.warmup_steps=0", "trainer.eval_every=0")
    folder = failed(tmp_path / "run", cache, *explode)
    path = folder / "replay.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(SystemExit) as ended:
        command.main([str(folder)])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("model", ["yolov2_160", "ssd160"])
def test_a_healthy_step_has_no_finding(model, cache, tmp_path):  # noqa: F811
    run = make_run(tmp_path, cache, "trainer.steps=2", model=model)
    watch = StepWatch(run.task.train_step, [["a", "b", "c", "d"]] * 2)
    engine.train(run)
    assert (watch.data, watch.forward, watch.backward, watch.batch) == (None, None, None, 2)
