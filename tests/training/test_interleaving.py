"""detectors benchmark: programs take turns; a turn's time belongs to its phases."""

from __future__ import annotations

from itertools import count

import pytest
import torch

from detectors.training.interleaving import (
    Contender,
    Stopwatch,
    interleaved,
    stopwatch_of,
    stopwatch_of_children,
)


def test_programs_take_turns():
    """A B A B, after a round that does not count; the phases of one program follow each other."""
    calls = []
    contenders = [
        Contender("A", {"x": lambda: calls.append("Ax"), "y": lambda: calls.append("Ay")}),
        Contender("B", {"": lambda: calls.append("B")}, before=lambda: calls.append("before B")),
    ]
    ticks = count()
    stopwatch = Stopwatch("ticks", lambda: next(ticks), lambda before, after: after - before)
    timings = interleaved(contenders, stopwatch, rounds=2, calls=2)
    assert calls == ["Ax", "Ay", "Ax", "Ay", "before B", "B", "B"] * 3
    assert timings == {"A": {"x": [1, 1], "y": [1, 1]}, "B": {"": [1, 1]}}
    calls.clear()
    interleaved(contenders[:1], stopwatch, rounds=1, warm_up=False)
    assert calls == ["Ax", "Ay"]


def test_a_phase_has_its_own_time():
    now = [0.0]

    def lasting(seconds: float):
        return lambda: now.__setitem__(0, now[0] + seconds)

    stopwatch = Stopwatch("seconds", lambda: now[0], lambda before, after: after - before)
    contender = Contender("A", {"short": lasting(1), "long": lasting(3)}, before=lasting(100))
    assert interleaved([contender], stopwatch, rounds=1, calls=5) == {"A": {"short": [1], "long": [3]}}


def test_cpu_time_is_that_of_one_thread_only():
    """With more threads it would be their sum, which says nothing about speed."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert stopwatch_of(torch.device("cpu")).name == "CPU time"
        torch.set_num_threads(2)
        assert stopwatch_of(torch.device("cpu")).name == "wall time"
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "stopwatch", [stopwatch_of(torch.device("cpu")), stopwatch_of_children()], ids=["own", "children"]
)
def test_time_does_not_go_back(stopwatch):
    assert stopwatch.seconds(stopwatch.mark(), stopwatch.mark()) >= 0


@pytest.mark.gpu
def test_time_on_a_gpu_is_the_gpus():
    stopwatch = stopwatch_of(torch.device("cuda"))
    x = torch.ones(4096, 4096, device="cuda")
    before = stopwatch.mark()
    for _ in range(10):
        x = x @ x
    assert stopwatch.seconds(before, stopwatch.mark()) > 1e-4
