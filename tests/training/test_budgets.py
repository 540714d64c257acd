"""What ends a run before its steps, that it says so, and that a resume knows it."""

from __future__ import annotations

import json

import pytest

from detectors.commands import train as script
from detectors.config.check import ConfigError, check
from detectors.config.composing import composed
from detectors.config.schema import TrainerConfig
from detectors.training import checkpoint as ckpt
from detectors.training import engine
from detectors.training.budgets import ending, in_steps, lacks_evaluation, note_evaluation
from detectors.training.detection import DetectionTask
from detectors.training.distributed import Processes
from detectors.training.progress import Clock, Progress
from tests.training.test_engine import cache, interrupt_after, make_run, one_thread  # noqa: F401 - fixtures
from tests.training.test_resume import assert_every_point_once, snapshot
from tests.training.test_saving import assert_same_run, resume


def train(folder, cache, *overrides: str) -> float | None:  # noqa: F811
    """As train.py does, from step 0."""
    config = make_run(folder, cache, *overrides).config
    return script.train_run(config, folder, None)


@pytest.mark.parametrize(
    ("settings", "progress", "reason"),
    [
        ({}, Progress(step=9), None),
        ({}, Progress(step=10), "trainer.steps=10"),
        ({"max_images": 40}, Progress(step=4, images_seen=39), None),
        ({"max_images": 40}, Progress(step=5, images_seen=42), "trainer.max_images=40"),
        ({"max_minutes": 0.5}, Progress(step=1, train_seconds=29.9), None),
        ({"max_minutes": 0.5}, Progress(step=1, train_seconds=30.0), "trainer.max_minutes=0.5"),
        ({"stop_patience": 2}, Progress(step=1, stop_waited=1), None),
        (
            {"stop_patience": 2},
            Progress(step=1, stop_waited=2, stop_best={"val/AP": 0.25}),
            "val/AP is not better than 0.25 after 2 more evaluations (trainer.stop_patience=2)",
        ),
    ],
)
def test_what_ends_a_run(settings, progress, reason):
    end = ending(TrainerConfig(steps=10, **settings), progress)
    assert (end and end.reason) == reason


def test_the_setting_that_ends_a_run_trains_on_with_another_value():
    """What the message about a finished run proposes."""
    progress = Progress(step=10, images_seen=80, train_seconds=90.0, stop_waited=3, stop_best={"val/AP": 0.0})
    for name, value in (("steps", 10), ("max_images", 80), ("max_minutes", 1.5), ("stop_patience", 3)):
        trainer = TrainerConfig(**{"steps": 100, name: value})
        key, _, more = ending(trainer, progress).to_go_on.partition("=")
        assert key == f"trainer.{name}"
        assert ending(TrainerConfig(**{"steps": 100, name: type(value)(more)}), progress) is None


@pytest.mark.parametrize(
    ("metric", "min_delta", "values", "waited"),
    [
        ("val/AP", 0.0, [0.1, 0.2, 0.2, 0.3], [0, 0, 1, 0]),
        ("val/AP", 0.0, [0.3, 0.2, 0.25, 0.29], [0, 1, 2, 3]),
        ("val/AP", 0.05, [0.1, 0.14, 0.16, 0.17], [0, 1, 0, 1]),
        ("val/loss/total", 0.0, [9.0, 8.0, 8.5, 7.0], [0, 0, 1, 0]),
        ("val/loss/total", 0.5, [9.0, 8.6, 8.4, 8.0], [0, 1, 0, 1]),
    ],
)
def test_evaluations_that_are_not_better(metric, min_delta, values, waited):
    """Keras' EarlyStopping: a gain of min_delta or less is none, and it is against the best so far."""
    trainer = TrainerConfig(stop_patience=9, stop_metric=metric, stop_min_delta=min_delta)
    progress = Progress()
    seen = []
    for value in values:
        note_evaluation(trainer, progress, {metric: value, "val/other": 0.0})
        seen.append(progress.stop_waited)
    assert seen == waited


def test_another_metric_begins_anew():
    progress = Progress(stop_best={"val/AP": 0.9}, stop_waited=2)
    note_evaluation(TrainerConfig(stop_patience=3, stop_metric="val/AP50"), progress, {"val/AP50": 0.1})
    assert (progress.stop_best, progress.stop_waited) == ({"val/AP50": 0.1}, 0)


def test_a_metric_that_no_evaluation_has(cache, tmp_path):  # noqa: F811
    problem = (
        r"^trainer\.stop_metric=val/AP50_voc7: no evaluation has this number; did you mean val/AP50_voc07\?$"
    )
    with pytest.raises(ValueError, match=problem):
        make_run(tmp_path, cache, "trainer.stop_patience=1", "trainer.stop_metric=val/AP50_voc7")
    with pytest.raises(ValueError, match=r"^trainer\.stop_metric=train/loss/total: no evaluation has this"):
        make_run(tmp_path, cache, "trainer.stop_patience=1", "trainer.stop_metric=train/loss/total")
    trainer = TrainerConfig(stop_patience=1, stop_metric="val/AP_large")
    problem = (
        r"^trainer\.stop_metric=val/AP_large: this evaluation has no such number, without ground truth for "
        r"it; there are: val/AP$"
    )
    with pytest.raises(ValueError, match=problem):
        note_evaluation(trainer, Progress(), {"val/AP": 0.5})


PATIENCE = ("trainer.steps=9", "trainer.eval_every=1", "trainer.log_every=1", "trainer.stop_patience=2")


def falling(monkeypatch) -> None:
    """Evaluations whose AP is .3, .2, .1, ... by step."""
    original = DetectionTask.evaluate

    def evaluate(task):
        report = original(task)
        falling.step += 1
        report.scalars["AP"] = 0.4 - 0.1 * falling.step
        return report

    falling.step = 0
    monkeypatch.setattr(DetectionTask, "evaluate", evaluate)


def test_a_run_that_gets_no_better_ends_early(cache, tmp_path, monkeypatch, caplog):  # noqa: F811
    falling(monkeypatch)
    assert train(tmp_path, cache, *PATIENCE) == pytest.approx(0.1)
    reason = "val/AP is not better than 0.3 after 2 more evaluations (trainer.stop_patience=2)"
    assert f"ended after step 3: {reason}" in caplog.messages
    assert json.loads((tmp_path / "summary.json").read_text())["steps"] == 3
    assert ckpt.load_checkpoint(tmp_path / ckpt.BEST).step == 1
    before = snapshot(tmp_path)
    caplog.clear()
    assert resume(tmp_path) is None
    assert caplog.messages == [
        f"{tmp_path}/last.pt: finished, it is at step 3 and {reason}; to train on: trainer.stop_patience=4; "
        f"its numbers: {tmp_path}/summary.json"
    ]
    assert snapshot(tmp_path) == before
    assert resume(tmp_path, "trainer.stop_patience=3") == pytest.approx(0.0)
    assert_every_point_once(tmp_path, log=[1, 2, 3, 4], evaluations=[1, 2, 3, 4])


def test_patience_goes_on_at_a_resume(cache, tmp_path, monkeypatch, caplog):  # noqa: F811
    """Interrupted before the second of three evaluations."""
    falling(monkeypatch)
    train(tmp_path / "whole", cache, *PATIENCE)
    falling.step = 0
    run = make_run(tmp_path / "parts", cache, *PATIENCE)
    interrupt_after(run, 2)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 2"):
        engine.train(run)
    run.tracker.close()
    resume(tmp_path / "parts")
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.parametrize(
    ("budget", "step"), [("max_images=10", 3), ("max_images=12", 3), ("max_minutes=0.1", 2)]
)
def test_a_budget_ends_a_run_with_an_evaluation(budget, step, cache, tmp_path, monkeypatch, caplog):  # noqa: F811
    """After the step that reaches it: 4 images a step, and a clock of 3 seconds a step."""
    monkeypatch.setattr(Clock, "pause", lambda clock: setattr(clock.progress, "train_seconds", spent(clock)))

    def spent(clock: Clock) -> float:
        return 3.0 * clock.progress.step

    settings = ("trainer.eval_every=0", "trainer.log_every=5", f"trainer.{budget}")
    assert train(tmp_path, cache, *settings) is not None
    assert f"ended after step {step}: trainer.{budget}" in caplog.messages
    assert_every_point_once(tmp_path, log=[step], evaluations=[step])
    caplog.clear()
    assert resume(tmp_path) is None
    assert f"finished, it is at step {step} and trainer.{budget}; to train on: trainer." in caplog.messages[0]
    name = budget.partition("=")[0]
    resume(tmp_path, f"trainer.{name}=1000", f"trainer.steps={step + 1}")
    assert_every_point_once(tmp_path, log=[step, step + 1], evaluations=[step, step + 1])


def test_a_budget_that_ended_in_its_evaluation_evaluates_first():
    trainer = TrainerConfig(steps=10, max_images=40)
    assert lacks_evaluation(trainer, Progress(step=5, images_seen=40, evaluated=0))
    assert not lacks_evaluation(trainer, Progress(step=5, images_seen=40, evaluated=5))
    assert not lacks_evaluation(trainer, Progress(step=5, images_seen=39, evaluated=0))


@pytest.mark.parametrize(
    ("epochs", "images", "world_size", "steps"),
    [(3, 600, 1, 225), (3, 601, 1, 226), (0.5, 600, 1, 38), (0.1, 240, 1, 3), (3, 600, 2, 113), (1, 3, 1, 1)],
)
def test_epochs_are_a_number_of_steps(epochs, images, world_size, steps):
    """Of batch_size x accumulate x processes images, rounded up."""
    overrides = [
        f"trainer.epochs={epochs}",
        "trainer.batch_size=4",
        "trainer.accumulate=2",
        "schedule=constant",
    ]
    config = in_steps(check(composed(overrides)), images, Processes(0, world_size))
    assert (config.trainer.steps, config.trainer.epochs) == (steps, None)


def test_a_warm_up_longer_than_the_epochs_is_refused():
    config = check(composed(["trainer.epochs=1"]))
    with pytest.raises(ConfigError) as error:
        in_steps(config, 80)
    assert error.value.problems == [
        "schedule.warmup_steps=100: longer than the whole run, trainer.steps=10; "
        "set schedule.warmup_steps=1, or more trainer.steps"
    ]


def test_a_run_of_epochs_trains_and_resumes(cache, tmp_path, caplog):  # noqa: F811
    """10 images, 4 a step; what is stored is the number of steps."""
    config = make_run(tmp_path, cache).config
    config.trainer.steps, config.trainer.epochs = None, 1.0
    script.train_run(config, tmp_path, None)
    assert "trainer.epochs=1 of 10 images are trainer.steps=3 of 4 images" in caplog.messages
    stored = ckpt.load_checkpoint(tmp_path / ckpt.LAST)
    assert (stored.step, stored.config["trainer"]["steps"], stored.config["trainer"]["epochs"]) == (
        3,
        3,
        None,
    )
    caplog.clear()
    assert resume(tmp_path, "trainer.epochs=1", "trainer.steps=null") is None
    assert "finished, it is at step 3 and trainer.steps=3; " in caplog.messages[-1]
    assert resume(tmp_path, "trainer.epochs=1.5", "trainer.steps=null") is not None
    assert ckpt.load_checkpoint(tmp_path / ckpt.LAST).step == 4
