"""What a run saves when something ends it: signals, errors between steps, numbers that are not finite."""

from __future__ import annotations

import csv
import multiprocessing
import os
import signal
import time
from itertools import count
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.testing import assert_close

from detectors.data.images import ImageError
from detectors.structures import Batch
from detectors.training import checkpoint as ckpt
from detectors.training import engine, progress, recording
from detectors.training.csv_log import METRICS
from detectors.training.detection import DetectionTask
from detectors.training.run import Run
from tests.training.test_engine import cache, interrupt_after, make_run, one_thread  # noqa: F401 - fixtures
from tests.training.test_resume import assert_every_point_once, resume

TIMES = ("train/images_per_second", "train/data_wait", "train/peak_memory", "time/evaluation")


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> steps and values, without those that are times."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if tag not in TIMES
    }


def metrics(folder: Path) -> list[list[str]]:
    """The rows of metrics.csv, without those that are times."""
    with (folder / METRICS).open(newline="") as file:
        return [row for row in csv.reader(file) if row[1] not in TIMES]


def assert_same_run(parts: Path, whole: Path) -> None:
    """Weights, their average, optimiser state, progress and curves, bit for bit."""
    first, second = (ckpt.load_checkpoint(folder / ckpt.LAST) for folder in (parts, whole))
    assert_close(first.model, second.model, rtol=0, atol=0)
    assert_close(first.ema, second.ema, rtol=0, atol=0)
    assert_close(first.optimizer["state"], second.optimizer["state"], rtol=0, atol=0)
    assert first.progress | {"train_seconds": 0} == second.progress | {"train_seconds": 0}
    assert curves(parts) == curves(whole)
    assert metrics(parts) == metrics(whole)


def finished(folder: Path, cache: Path, *overrides: str) -> Path:  # noqa: F811
    """A run without an interruption."""
    run = make_run(folder, cache, *overrides)
    engine.train(run)
    run.tracker.close()
    return folder


@pytest.mark.parametrize("step", [2, 4])
def test_a_stop_between_log_lines_changes_no_curve(step, cache, tmp_path):  # noqa: F811
    """The means of a log line are over all steps since the one before, also over those before the stop."""
    whole = finished(tmp_path / "whole", cache)
    run = make_run(tmp_path / "parts", cache)
    interrupt_after(run, step)
    with pytest.raises(KeyboardInterrupt, match=f"stopped after step {step}"):
        engine.train(run)
    run.tracker.close()
    assert len(ckpt.load_checkpoint(tmp_path / "parts" / ckpt.LAST).recent["terms"]) == step % 3
    resume(tmp_path / "parts")
    assert_same_run(tmp_path / "parts", whole)


@pytest.mark.parametrize("number", [1, 2])
def test_a_stop_within_an_evaluation_is_at_once(number, cache, tmp_path, monkeypatch):  # noqa: F811
    """last.pt was written before it. A resume evaluates first, also where all steps are made."""
    whole = finished(tmp_path / "whole", cache)
    run = make_run(tmp_path / "parts", cache)
    original = DetectionTask.evaluate
    calls = []

    def evaluate(task):
        calls.append(task)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("the evaluation went on")
        return original(task)

    monkeypatch.setattr(DetectionTask, "evaluate", evaluate)
    with pytest.raises(KeyboardInterrupt, match=f"stopped after step {3 * number}; go on with"):
        engine.train(run)
    run.tracker.close()
    monkeypatch.setattr(DetectionTask, "evaluate", original)
    assert ckpt.load_checkpoint(tmp_path / "parts" / ckpt.LAST).step == 3 * number
    assert resume(tmp_path / "parts") is not None
    assert_same_run(tmp_path / "parts", whole)
    assert_every_point_once(tmp_path / "parts", log=[3, 6], evaluations=[3, 6])


@pytest.mark.parametrize("overrides", [(), ("trainer.accumulate=2", "trainer.batch_size=2")])
def test_an_image_that_fails_costs_no_step(overrides, cache, tmp_path, caplog):  # noqa: F811
    whole = finished(tmp_path / "whole", cache, *overrides)
    run = make_run(tmp_path / "parts", cache, *overrides)
    fail_at(run, 4 * run.config.trainer.accumulate + 1)
    with pytest.raises(ImageError):
        engine.train(run)
    run.tracker.close()
    assert f"stopped after step 4; go on with: python train.py trainer.resume={run.folder}" in caplog.messages
    resume(tmp_path / "parts")
    assert_same_run(tmp_path / "parts", whole)


def test_an_evaluation_that_could_not_be_recorded_is_made_again(cache, tmp_path, monkeypatch):  # noqa: F811
    whole = finished(tmp_path / "whole", cache)
    run = make_run(tmp_path / "parts", cache)
    original = recording.write_summary

    def fail(run, evaluation):
        if run.progress.step == 6:
            raise OSError(28, "No space left on device")
        original(run, evaluation)

    monkeypatch.setattr(recording, "write_summary", fail)
    with pytest.raises(OSError, match="No space left"):
        engine.train(run)
    run.tracker.close()
    monkeypatch.setattr(recording, "write_summary", original)
    stored = ckpt.load_checkpoint(tmp_path / "parts" / ckpt.LAST)
    assert (stored.step, stored.progress["evaluated"]) == (6, 3)
    assert resume(tmp_path / "parts") is not None
    first, second = (ckpt.load_checkpoint(folder / ckpt.LAST) for folder in (tmp_path / "parts", whole))
    assert first.progress | {"train_seconds": 0} == second.progress | {"train_seconds": 0}
    assert (tmp_path / "parts" / "summary.json").exists()
    assert_every_point_once(tmp_path / "parts", log=[3, 6], evaluations=[3, 6])
    assert metrics(tmp_path / "parts") == metrics(whole)


def test_an_image_that_fails_for_the_second_pass_of_a_step_costs_no_step(cache, tmp_path):  # noqa: F811
    """All batches of a step are there before its first pass, which changes BatchNorm's statistics."""
    overrides = ("trainer.accumulate=2", "trainer.batch_size=2")
    whole = finished(tmp_path / "whole", cache, *overrides)
    run = make_run(tmp_path / "parts", cache, *overrides)
    fail_at(run, 10)
    with pytest.raises(ImageError):
        engine.train(run)
    run.tracker.close()
    assert ckpt.load_checkpoint(tmp_path / "parts" / ckpt.LAST).step == 4
    resume(tmp_path / "parts")
    assert_same_run(tmp_path / "parts", whole)


def test_an_error_within_a_step_leaves_the_checkpoint_from_before(cache, tmp_path):  # noqa: F811
    """The first of two passes has changed BatchNorm's statistics."""
    run = make_run(tmp_path, cache, "trainer.accumulate=2", "trainer.batch_size=2")
    original = run.task.step
    number = count(1)

    def step(batch: Batch, exchange: bool = True) -> dict:
        if next(number) == 10:
            raise RuntimeError("out of memory")
        return original(batch, exchange)

    run.task.step = step
    with pytest.raises(RuntimeError):
        engine.train(run)
    assert ckpt.load_checkpoint(tmp_path / ckpt.LAST).step == 3


def fail_at(run: Run, batch: int) -> None:
    """Raises in the place of batch number `batch`."""
    original = run.train_loader

    class Failing:
        problems = original.problems

        def __iter__(self):
            for number, found in enumerate(original, 1):
                if number == batch:
                    raise ImageError("gone.jpg", "the image cannot be read")
                yield found

    run.train_loader = Failing()


def test_save_every_writes_between_evaluations(cache, tmp_path, monkeypatch):  # noqa: F811
    saved = []
    original = ckpt.save_checkpoint

    def save(checkpoint: ckpt.Checkpoint) -> None:
        if checkpoint.path.name == ckpt.LAST:
            saved.append((checkpoint.step, checkpoint.progress["evaluated"]))
        original(checkpoint)

    monkeypatch.setattr(ckpt, "save_checkpoint", save)
    engine.train(make_run(tmp_path, cache, "trainer.save_every=2"))
    assert saved == [(2, 0), (3, 0), (3, 3), (4, 3), (6, 3), (6, 6)]


@pytest.mark.parametrize("planted", ["backbone", "optimizer"])
def test_what_is_not_finite_is_not_saved(planted, cache, tmp_path):  # noqa: F811
    """A NaN in a running variance does not show in the loss; one in a momentum shows a step later."""
    run = make_run(tmp_path, cache, "optimizer=sgd", "optimizer.rate=0.0001")
    update = run.optimizer.step

    def poison():
        update()
        if run.progress.step < 5:
            return
        norm = next(part for part in run.task.module.modules() if isinstance(part, torch.nn.BatchNorm2d))
        momentum = next(iter(run.optimizer.state.values()))["momentum_buffer"]
        poisoned = norm.running_var if planted == "backbone" else momentum
        poisoned[(0,) * poisoned.dim()] = float("inf")

    run.optimizer.step = poison
    name = "running_var" if planted == "backbone" else "momentum_buffer of parameter 0 in the optimizer"
    with pytest.raises(
        FloatingPointError, match=f"^step 6: .*{name} holds NaN or infinity, so it is not saved"
    ):
        engine.train(run)
    assert ckpt.load_checkpoint(tmp_path / ckpt.LAST).step == 3


@pytest.fixture
def hangup():
    """SIGHUP as in a terminal, also where the tests themselves run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_stop_requests_leave_signals_as_they_were(hangup, monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    with progress.stop_requests() as stop:
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM):  # within a second: the same request
            os.kill(os.getpid(), number)
        assert stop.signals == [signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM]
        monkeypatch.setattr(progress, "REPEAT", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_nohup_keeps_its_meaning(hangup):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with progress.stop_requests() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop


def test_a_shells_background_job_still_hears_an_interrupt():
    """Shells start background jobs with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with progress.stop_requests() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.signals == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


FORK_SENDS: list[int] = []  # the signals that the next fork sends to this process
os.register_at_fork(after_in_parent=lambda: [os.kill(os.getpid(), FORK_SENDS.pop()) for _ in FORK_SENDS[:]])


class _SendsWhenDestroyed:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)


def _start_a_loading_process() -> None:
    FORK_SENDS.append(signal.SIGTERM)
    process = multiprocessing.get_context("fork").Process(target=int)
    process.start()
    process.join()


@pytest.mark.parametrize("place", [_SendsWhenDestroyed, _start_a_loading_process])
def test_a_signal_is_not_lost_where_python_drops_exceptions(place):
    def wait_in_a_block(stop: progress.StopRequests) -> None:
        with stop.at_once():
            place()
            assert stop.signals == [signal.SIGTERM]
            time.sleep(10)

    with progress.stop_requests() as stop, pytest.raises(KeyboardInterrupt, match="stopped at once"):
        wait_in_a_block(stop)


def test_a_late_interrupt_ends_with_its_block():
    with progress.stop_requests() as stop:
        with stop.at_once():
            _SendsWhenDestroyed()
        time.sleep(3 * progress.LATER)
        assert stop.signals == [signal.SIGTERM]
