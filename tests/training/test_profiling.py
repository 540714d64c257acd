"""Profiles: parts add up, the trace holds every part of every step, and training is what it was."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from detectors.commands import train as script
from detectors.training import checkpoint as ckpt
from detectors.training import profiling, spans
from detectors.training.profiling import PARTS, TRACE
from detectors.training.spans import SpanTimer, record_spans, span
from tests.training.test_engine import cache, make_run, one_thread  # noqa: F401 - fixtures


@pytest.fixture(autouse=True)
def no_recorder():
    yield
    assert spans._recorder is None, "a profile must not outlive its run"
    record_spans(None)


def trained(folder: Path, cache, *overrides: str) -> None:  # noqa: F811
    run = make_run(folder.with_name("unused"), cache, *overrides)
    run.tracker.close()
    script.train_run(run.config, folder, None)


def test_a_profile_has_a_table_and_a_trace_and_changes_nothing(cache, tmp_path, monkeypatch, caplog):  # noqa: F811
    monkeypatch.setattr(profiling, "SETTLING", 1)
    overrides = ("trainer.steps=8", "trainer.accumulate=2", "trainer.eval_every=8")
    trained(tmp_path / "plain", cache, *overrides)
    assert not (tmp_path / "plain" / TRACE).exists()
    assert "profile of steps" not in caplog.text
    trained(tmp_path / "profiled", cache, "trainer.profile_steps=2", *overrides)
    weights = [ckpt.load_checkpoint(tmp_path / name / ckpt.LAST).model for name in ("plain", "profiled")]
    assert_close(weights[0], weights[1], rtol=0, atol=0)

    (text,) = [message for message in caplog.messages if message.startswith("profile of steps 2 to 3 on cpu")]
    _, head, *rows, last = text.splitlines()
    assert head.split() == ["part", "ms", "share"]
    names = [*PARTS, "other", "whole", "evaluation"]
    assert [row.split()[0] for row in rows] == names
    milliseconds = [float(row.split()[-2]) for row in rows]
    assert min(milliseconds) > 0
    assert sum(milliseconds[:-2]) == pytest.approx(milliseconds[-2], abs=0.1)
    assert last == f"trace of the steps from 6 on: {tmp_path}/profiled/{TRACE}"
    with gzip.open(tmp_path / "profiled" / TRACE) as file:
        events = json.load(file)["traceEvents"]
    counts = Counter(event["name"] for event in events if event.get("cat") == "user_annotation")
    assert {part: counts[part] for part in PARTS} == dict.fromkeys(PARTS, 4) | {"data": 2, "optimizer": 2}
    assert any(event["name"] == "aten::convolution" for event in events)


@pytest.mark.parametrize(
    ("steps", "line"),
    [
        (2, "profile: the run has ended before step 3, so that nothing was timed"),
        (4, "no trace: the run has ended before step 6"),
    ],
)
def test_a_run_that_is_too_short_says_so(steps, line, cache, tmp_path, monkeypatch, caplog):  # noqa: F811
    monkeypatch.setattr(profiling, "SETTLING", 1)
    trained(tmp_path / "run", cache, "trainer.profile_steps=2", f"trainer.steps={steps}")
    assert line in "\n".join(caplog.messages).splitlines()
    assert not (tmp_path / "run" / TRACE).exists()


def test_an_error_ends_the_profile(cache, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(profiling, "SETTLING", 1)

    def fail(run):
        raise KeyError("a bug")

    run = make_run(tmp_path, cache, "trainer.profile_steps=1")
    run.hooks = script.Hooks(step=[fail])
    with pytest.raises(KeyError), profiling.profiled(run):
        run.hooks.after_step(run)


def test_a_part_within_another_counts_for_itself(monkeypatch):
    clock = iter([0, 1, 3, 6, 10, 15])
    monkeypatch.setattr(spans, "perf_counter", lambda: next(clock))
    timer = SpanTimer(torch.device("cpu"))
    record_spans(timer)
    with span("forward"), span("loss"):
        pass
    with span("forward"):
        pass
    record_spans(None)
    assert timer.seconds == {"forward": (1 - 0) + (6 - 3) + (15 - 10), "loss": 3 - 1}
    assert timer.times == {"forward": 2, "loss": 1}


@pytest.mark.parametrize("recorder", [None, torch.profiler.record_function])
def test_a_span_does_not_break_a_compiled_graph(recorder):
    def step(x: torch.Tensor) -> torch.Tensor:
        with span("loss"):
            return x + 1

    record_spans(recorder)
    compiled = torch.compile(step, fullgraph=True, backend="eager")
    assert_close(compiled(torch.ones(2)), torch.full((2,), 2.0), rtol=0, atol=0)
    record_spans(None)
