"""Times several programs in turns, A B A B ..., so that a machine that slows down slows all of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from resource import RUSAGE_CHILDREN, getrusage
from time import perf_counter, process_time
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

Timings = dict[str, dict[str, list[float]]]  # contender -> phase -> seconds of one call in each round


class Stopwatch(NamedTuple):
    name: str
    mark: Callable[[], Any]  # a moment
    seconds: Callable[[Any, Any], float]  # between two moments


@dataclass(frozen=True)
class Contender:
    """One of the programs that are compared.

    phases: name -> a part of its work; they run in this order. before: called before each turn, untimed.
    """

    name: str
    phases: Mapping[str, Callable[[], object]]
    before: Callable[[], object] = lambda: None


def stopwatch_of(device: torch.device) -> Stopwatch:
    """On a CPU with one thread its CPU time, which other programs on the machine hardly change."""
    if device.type == "cuda":
        return Stopwatch("time between CUDA events", _event, _seconds_between_events)
    if torch.get_num_threads() == 1:
        return Stopwatch("CPU time", process_time, _difference)
    return Stopwatch("wall time", perf_counter, _difference)


def stopwatch_of_children() -> Stopwatch:
    """CPU time of the processes that this one has started and waited for."""
    return Stopwatch("CPU time of processes", _seconds_of_children, _difference)


def interleaved(
    contenders: Sequence[Contender],
    stopwatch: Stopwatch,
    *,
    rounds: int,
    calls: int = 1,
    warm_up: bool = True,
) -> Timings:
    """Seconds of every phase of every contender, in `rounds` rounds.

    calls: calls of a contender in one of its turns, of which the mean counts. warm_up: a round before, which
    does not count.
    """
    timings: Timings = {each.name: {phase: [] for phase in each.phases} for each in contenders}
    for turn in tqdm(range(-warm_up, rounds), desc="round", disable=not sys.stderr.isatty(), leave=False):
        for contender in contenders:
            seconds = _turn(contender, stopwatch, calls)
            if turn >= 0:
                for phase, value in seconds.items():
                    timings[contender.name][phase].append(value)
    return timings


def _turn(contender: Contender, stopwatch: Stopwatch, calls: int) -> dict[str, float]:
    """Seconds of each phase, the mean of `calls` calls. Waits for a GPU at the end only."""
    contender.before()
    marks = [stopwatch.mark()]
    for _ in range(calls):
        for work in contender.phases.values():
            work()
            marks.append(stopwatch.mark())
    spans = [stopwatch.seconds(a, b) for a, b in pairwise(marks)]
    count = len(contender.phases)
    return {phase: sum(spans[n::count]) / calls for n, phase in enumerate(contender.phases)}


def _difference(before: float, after: float) -> float:
    return after - before


def _seconds_of_children() -> float:
    usage = getrusage(RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _seconds_between_events(before: torch.cuda.Event, after: torch.cuda.Event) -> float:
    after.synchronize()
    return before.elapsed_time(after) / 1000
