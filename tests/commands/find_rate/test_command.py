"""The command: files, the last lines, what it leaves alone; and that its step is the trainer's."""

from __future__ import annotations

import csv

import pytest
from numpy.testing import assert_allclose

from detectors.commands.find_rate.command import main, range_lines, training_step
from detectors.commands.find_rate.rate_range import RateRange
from detectors.config.check import check
from detectors.config.composing import composed
from detectors.training import engine, update
from tests.training.test_engine import SMALL, cache, make_run, one_thread  # noqa: F401 - fixtures


def test_it_prints_a_table_and_writes_the_curve(cache, tmp_path, capsys):  # noqa: F811
    settings = [*SMALL, "model=yolov2_160", "input.size=[96,96]", f"paths.cache={cache}", "name=mine"]
    main([*settings, "--steps", "20", "--output", str(tmp_path)])
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == f"written: {tmp_path}/mine.csv, {tmp_path}/mine.png"
    assert out[-2].startswith(("suggestion: optimizer.rate=", "no suggestion: "))
    assert out[-3] == "20 steps; all rates were tried"
    assert {path.name for path in tmp_path.iterdir()} == {"mine.csv", "mine.png"}
    with (tmp_path / "mine.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert_allclose([float(rows[n]["rate"]) for n in (0, -1)], [0.004 * 1e-4, 0.004 * 1e2], rtol=1e-12)
    assert (tmp_path / "mine.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("model", ["yolov2_160", "ssd160"])
def test_its_steps_are_the_trainers(model, cache, tmp_path, monkeypatch):  # noqa: F811
    """The same losses, to the bit, at the same rates, with accumulation and clipping."""
    overrides = (
        "trainer.accumulate=2",
        "trainer.clip_grad_norm=5.0",
        "trainer.steps=4",
        "trainer.log_every=1",
    )
    run = make_run(tmp_path, cache, *overrides, "trainer.eval_every=0", model=model)
    losses = []
    original = update.update

    def noting(run):
        losses.append(sum(term.sum() for term in run.recent.terms[-2:]).item() / 2)
        return original(run)

    monkeypatch.setattr(engine, "update", noting)
    monkeypatch.setattr(update, "rate_factor", lambda schedule, step, steps: step / 4)
    engine.train(run)
    size = "[96,96]" if model == "yolov2_160" else "[160,160]"
    settings = [f"model={model}", f"input.size={size}", f"paths.cache={cache}", *SMALL, *overrides]
    step = training_step(check(composed(settings)))
    rate = run.config.optimizer["rate"]
    assert_allclose([step(rate * (n + 1) / 4) for n in range(4)], losses, rtol=1e-6)


def test_what_is_said_without_a_suggestion():
    assert range_lines(RateRange([], [], "at 1 the loss is not finite"), 0.1) == [
        "rate  loss  smoothed",
        "0 steps; at 1 the loss is not finite",
        "no suggestion: the loss does not fall; try other settings, or more --steps",
    ]


def test_a_loss_that_explodes_still_gives_a_curve(cache, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(
        "detectors.commands.find_rate.command.training_step", lambda config: lambda rate: float("nan")
    )
    main([*SMALL, f"paths.cache={cache}", "--output", str(tmp_path)])
    assert {path.suffix for path in tmp_path.iterdir()} == {".csv", ".png"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["trainer.resume=x"],
            "find-rate starts a training; init.from=... starts it from a run's weights",
        ),
        (["--steps", "19"], "--steps 19: must be 20 or more"),
    ],
)
def test_refusals(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert capsys.readouterr().err.splitlines()[0] == f"error: {message}"
