"""NaN and infinity: what ends a run and what its message advises, and steps that are left out exactly."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detectors.commands import train as script
from detectors.data.images import ImageError
from detectors.metrics.report import Report
from detectors.training import checkpoint as ckpt
from detectors.training import engine, nonfinite
from detectors.training.detection import DetectionTask
from detectors.training.nonfinite import StepGuard
from detectors.training.run import Run
from tests.host_reads import NoHostReads
from tests.training.test_engine import cache, interrupt_after, make_run, one_thread  # noqa: F401 - fixtures
from tests.training.test_resume import resume
from tests.training.test_saving import curves

SKIP = "trainer.on_nonfinite=skip"


def poison_loss(monkeypatch, *passes: int) -> None:
    """A NaN in the first loss term of these forward passes of training, counted from 1."""
    original = DetectionTask.step
    count = 0

    def step(task: DetectionTask, batch, exchange: bool = True) -> dict:
        nonlocal count
        count += 1
        terms = original(task, batch, exchange)
        name = next(iter(terms))
        return terms | {name: terms[name] * float("nan")} if count in passes else terms

    monkeypatch.setattr(DetectionTask, "step", step)


def poison_state(run: Run, place: str, *steps: int) -> None:
    """An infinity in a weight, a running variance or a momentum, as if the optimiser's step had left it."""
    update = run.optimizer.step

    def poisoned() -> None:
        update()
        if run.progress.step + 1 in steps:
            norm = next(part for part in run.task.module.modules() if isinstance(part, nn.BatchNorm2d))
            state = next(iter(run.optimizer.state.values()))
            places = {"weight": norm.weight, "statistic": norm.running_var, "momentum": state["exp_avg"]}
            tensor = places[place]
            tensor.detach()[(0,) * tensor.dim()] = float("inf")

    run.optimizer.step = poisoned


def whole_state(run: Run) -> dict:
    state = {"module": run.task.module.state_dict(), "optimizer": run.optimizer.state_dict()["state"]}
    if run.ema is not None:
        state["module"] |= {
            f"average of {name}": value for name, value in run.ema.module.state_dict().items()
        }
    return copy.deepcopy(state)


def states_after_steps(run: Run) -> list[dict]:
    """Trains, and returns the state before the first step and after each one."""
    states = [whole_state(run)]
    run.hooks = script.Hooks(step=[lambda run: states.append(whole_state(run))])
    engine.train(run)
    return states


def assert_left_out(before: dict, after: dict) -> None:
    assert_close(after["module"], before["module"], rtol=0, atol=0)
    if before["optimizer"]:
        assert_close(after["optimizer"], before["optimizer"], rtol=0, atol=0)
    else:  # PyTorch's optimisers start from zeros
        values = [value for state in after["optimizer"].values() for value in state.values()]
        assert values and all(not value.any() for value in values)


@pytest.mark.parametrize(
    ("model", "overrides", "passes", "bad"),
    [
        ("yolov2_160", (), (1, 4), (1, 4)),
        ("yolov2_160", ("trainer.ema_decay=0.9",), (2, 4), (2, 4)),
        ("yolov2_160", ("optimizer=sgd", "optimizer.rate=0.0001", "trainer.accumulate=2"), (3,), (2,)),
        ("ssd160", ("trainer.clip_grad_norm=5.0", "trainer.batch_size=2"), (2, 3), (2, 3)),
    ],
)
def test_a_bad_step_leaves_everything_as_it_was(
    model,
    overrides,
    passes,
    bad,
    cache,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    """Bit for bit: weights, BatchNorm's statistics, momentum, Adam's count. The others are ordinary steps."""
    poison_loss(monkeypatch, *passes)
    run = make_run(tmp_path, cache, SKIP, "schedule.warmup_steps=0", *overrides, model=model)
    states = states_after_steps(run)
    for step in range(1, 7):
        if step in bad:
            assert_left_out(states[step - 1], states[step])
        else:
            with pytest.raises(AssertionError):
                assert_left_out(states[step - 1], states[step])
    assert (run.progress.step, run.progress.skipped_steps, run.progress.skipped_in_a_row) == (6, len(bad), 0)
    images = 6 * run.config.trainer.batch_size * run.config.trainer.accumulate
    assert run.progress.images_seen == images


@pytest.mark.parametrize("place", ["weight", "statistic", "momentum"])
def test_a_step_whose_result_is_not_finite_is_left_out(place, cache, tmp_path):  # noqa: F811
    run = make_run(tmp_path, cache, SKIP)
    poison_state(run, place, 3)
    states = states_after_steps(run)
    assert_left_out(states[2], states[3])
    assert run.progress.skipped_steps == 1


def test_skipping_changes_no_run_that_is_finite(cache, tmp_path):  # noqa: F811
    runs = [make_run(tmp_path / name, cache, name) for name in ("trainer.on_nonfinite=stop", SKIP)]
    states = [states_after_steps(run) for run in runs]
    assert_close(states[1], states[0], rtol=0, atol=0)


def test_skipped_steps_are_counted_and_left_out_of_the_means(cache, tmp_path, monkeypatch):  # noqa: F811
    """No point before the first one. A row without a good batch has no mean loss."""
    poison_loss(monkeypatch, 5, 7, 8)
    run = make_run(tmp_path, cache, SKIP, "trainer.log_every=2", "trainer.steps=8")
    engine.train(run)
    run.tracker.close()
    seen = curves(tmp_path)
    assert seen["train/skipped_steps"] == [(6, 1), (8, 3)]
    losses = dict(seen["train/loss/total"])
    assert all(losses[step] > 0 for step in (2, 4, 6)) and losses[8] != losses[8]
    assert ckpt.load_checkpoint(tmp_path / ckpt.LAST).progress["skipped_in_a_row"] == 2


@pytest.mark.parametrize("stop", [2, 4])
def test_a_resume_among_skipped_steps_is_exact(stop, cache, tmp_path, monkeypatch):  # noqa: F811
    """Weights, optimiser, counts and curves; the row of skipped steps goes on, too."""
    folders = [tmp_path / "whole", tmp_path / "parts"]
    overrides = (SKIP, "optimizer=sgd", "optimizer.rate=0.0001")
    poison_loss(monkeypatch, 1, 4, 5)
    whole = make_run(folders[0], cache, *overrides)
    engine.train(whole)
    whole.tracker.close()
    monkeypatch.undo()
    poison_loss(monkeypatch, 1, 4, 5)
    run = make_run(folders[1], cache, *overrides)
    interrupt_after(run, stop)
    with pytest.raises(KeyboardInterrupt, match=f"stopped after step {stop}"):
        engine.train(run)
    run.tracker.close()
    resume(folders[1])
    parts, expected = (ckpt.load_checkpoint(folder / ckpt.LAST) for folder in folders)
    assert_close(parts.model, expected.model, rtol=0, atol=0)
    assert_close(parts.optimizer["state"], expected.optimizer["state"], rtol=0, atol=0)
    assert parts.progress | {"train_seconds": 0} == expected.progress | {"train_seconds": 0}
    assert repr(curves(folders[1])) == repr(curves(folders[0]))


@pytest.mark.parametrize("start", [1, 3])
def test_a_row_of_skipped_steps_ends_the_run(start, cache, tmp_path, monkeypatch):  # noqa: F811
    """At the next log point, also if a good step came since."""
    monkeypatch.setattr(nonfinite, "SKIPS_IN_A_ROW", 3)
    poison_loss(monkeypatch, *range(start, start + 3))
    run = make_run(tmp_path, cache, SKIP, "trainer.log_every=6", "trainer.eval_every=0")
    text = (
        "^step 6: 3 steps one after another were not finite and left out\nNothing was saved yet: start again"
    )
    with pytest.raises(FloatingPointError, match=text):
        engine.train(run)
    assert not (tmp_path / ckpt.LAST).exists()


def test_the_guard_never_waits_for_the_device():
    module = nn.BatchNorm2d(2)
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0, momentum=0.9)
    guard = StepGuard(module, optimizer, torch.device("cpu"))
    for factor in (1.0, float("nan")):
        with NoHostReads():
            guard.remember()
            loss = module(torch.randn(2, 2, 3, 3)).square().sum() * factor
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            guard.settle([loss.detach()])
    assert guard.read(guard.counts, 2) == (1, 1)


def advised(error: BaseException) -> list[str]:
    """The overrides of the command that a message advises."""
    command = re.search(r"python train\.py (.*?);", str(error))
    return command[1].split()


@pytest.mark.parametrize("place", ["weight", "statistic", "momentum"])
def test_the_message_advises_what_a_resume_accepts(place, cache, tmp_path):  # noqa: F811
    """Half the rate, from the last checkpoint; that run ends as usual."""
    run = make_run(tmp_path, cache)
    poison_state(run, place, 5)
    with pytest.raises(FloatingPointError, match="Go on from step 3 with a lower rate") as caught:
        engine.train(run)
    run.tracker.close()
    rate = run.config.optimizer["rate"]
    assert advised(caught.value) == [f"trainer.resume={tmp_path}", f"optimizer.rate={rate / 2:g}"]
    for extra in ("trainer.clip_grad_norm=10", SKIP):
        assert extra.rpartition("=")[0] in str(caught.value)
    assert resume(tmp_path, *advised(caught.value), "trainer.clip_grad_norm=10", SKIP) is not None
    assert ckpt.load_checkpoint(tmp_path / ckpt.LAST).config["optimizer"]["rate"] == rate / 2


@pytest.mark.parametrize("metric", [float("nan"), None])
def test_a_metric_without_a_value_is_never_the_best(metric, cache, tmp_path, monkeypatch):  # noqa: F811
    original = DetectionTask.evaluate

    def evaluate(task: DetectionTask) -> Report:
        report = original(task)
        report.scalars["AP"] = metric
        return report

    monkeypatch.setattr(DetectionTask, "evaluate", evaluate)
    run = make_run(tmp_path, cache, "trainer.steps=2")
    engine.train(run)
    assert (tmp_path / ckpt.LAST).exists() and not (tmp_path / ckpt.BEST).exists()
    assert (run.progress.best, run.progress.best_step) == (-1.0, None)


@pytest.mark.parametrize("place", ["weight", "statistic", "momentum"])
@pytest.mark.parametrize("step", [3, 6])
def test_no_checkpoint_is_ever_poisoned(place, step, cache, tmp_path):  # noqa: F811
    """Also by the very last step, and though AP 0 would be better than none."""
    run = make_run(tmp_path, cache)
    poison_state(run, place, step)
    with pytest.raises(FloatingPointError):
        engine.train(run)
    files = sorted(tmp_path.glob("*.pt"))
    assert [file.name for file in files] == (["best.pt", "last.pt"] if step == 6 else [])
    for file in files:
        assert ckpt.load_checkpoint(file).step == 3  # load_checkpoint refuses what is not finite


def test_a_rate_that_explodes_leaves_finite_checkpoints(cache, tmp_path):  # noqa: F811
    run = make_run(tmp_path, cache, "optimizer=sgd", "optimizer.rate=1e6", "trainer.eval_every=1")
    with pytest.raises(FloatingPointError):
        engine.train(run)
    for file in tmp_path.glob("*.pt"):
        ckpt.load_checkpoint(file)


def test_a_nan_in_one_gradient_is_not_saved(cache, tmp_path):  # noqa: F811
    """The loss of the last step is finite, and the run still does not end as if all were well."""
    run = make_run(tmp_path, cache, "trainer.eval_every=0", "trainer.log_every=100")
    plant_in_gradient(run, 6)
    with pytest.raises(FloatingPointError, match=r"^step 6: backbone\S+ holds NaN or infinity"):
        engine.train(run)
    assert not list(tmp_path.glob("*.pt"))


def plant_in_gradient(run: Run, step: int) -> None:
    parameter = next(run.task.module.parameters())

    def plant(gradient: torch.Tensor) -> torch.Tensor:
        if run.progress.step + 1 == step:
            gradient = gradient.clone()
            gradient[0] = float("nan")
        return gradient

    parameter.register_hook(plant)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("model", ["yolov2_160", "ssd160"])
def test_a_box_that_is_not_finite_ends_the_run(model, value, cache, tmp_path):  # noqa: F811
    """With the image's name and a last.pt of the step before; a run that skips it takes another image."""
    run = make_run(tmp_path / "stop", cache, model=model)
    run.train_loader.dataset.annotations.boxes_original[:, 2] = value
    with pytest.raises(ImageError, match=r"a box with NaN or infinity in its annotation: \["):
        engine.train(run)
    skips = make_run(tmp_path / "skip", cache, "data.on_error=skip", model=model)
    annotations = skips.train_loader.dataset.annotations
    annotations.boxes_original[annotations.offsets[0] : annotations.offsets[1], 2] = value
    engine.train(skips)
    assert [problem.image for problem in skips.train_loader.problems.values()] == [annotations.paths[0]]
