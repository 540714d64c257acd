"""Where the time of a run goes: a table of the parts of a step, and a trace of PyTorch's profiler."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from torch.profiler import profile, record_function, schedule

from detectors.tables import text_table
from detectors.training.run import Run
from detectors.training.spans import SpanTimer, record_spans
from detectors.training.temporaries import quiet_profiler

logger = logging.getLogger(__name__)

SETTLING = 10  # steps in which caches fill, workers start and cuDNN chooses its algorithms
TRACE_WARM_UP = 2  # steps whose times the profiler's own start distorts
PARTS = ("data", "forward", "loss", "backward", "optimizer")
TRACE = "profile.pt.trace.json.gz"  # a name that TensorBoard's profile page knows


def steps_to_profile(steps: int) -> int:
    """How many steps a run must have for trainer.profile_steps=steps."""
    return SETTLING + steps + TRACE_WARM_UP + steps


@contextmanager
def profiled(run: Run) -> Iterator[None]:
    """Profiles the run that is trained in this context, if its trainer.profile_steps is not 0; of several
    processes the first one.

    After SETTLING steps, as many as the setting says are timed; those after them are traced, so that neither
    disturbs the other. The table is logged at the end, and the trace lies in the run's folder.
    """
    if not run.config.trainer.profile_steps or not run.processes.first:
        yield
        return
    parts = Profile(run)
    run.hooks = replace(run.hooks, step=[*run.hooks.step, parts.after_step])
    try:
        yield
    finally:
        parts.stop()
    logger.info("\n".join(parts.lines()))


class Profile:
    """Counts the steps, and starts and ends what belongs to each."""

    def __init__(self, run: Run):
        self.count = run.config.trainer.profile_steps
        self.file = run.folder / TRACE
        self.device = run.device
        self.first = run.progress.step + SETTLING + 1  # the first step that is timed
        self.done = 0
        self.started = 0.0
        self.parts: dict[str, float] = {}  # seconds of all timed steps, and of each evaluation
        self.timer = SpanTimer(run.device)
        self.tracer: profile | None = None
        self.traced = False
        record_spans(self.timer)

    def after_step(self, run: Run) -> None:
        self.done += 1
        if self.tracer is not None:
            self.tracer.step()
        if self.done == SETTLING:
            self.timer.seconds.clear()
            self.timer.times.clear()
            self.started = self.timer.now()
        elif self.done == SETTLING + self.count:
            self._note_parts()
            self._start_trace()
        elif self.done == steps_to_profile(self.count):
            self._end_trace()
            record_spans(self.timer)  # for the evaluation

    def _note_parts(self) -> None:
        seconds = self.timer.seconds
        whole = self.timer.now() - self.started - seconds["evaluation"]
        self.parts = {part: seconds[part] for part in PARTS}
        self.parts |= {"other": whole - sum(self.parts.values()), "whole step": whole}

    def _start_trace(self) -> None:
        quiet_profiler()
        record_spans(record_function)
        self.tracer = profile(
            acc_events=True,
            schedule=schedule(wait=0, warmup=TRACE_WARM_UP, active=self.count, repeat=1),
            on_trace_ready=self._write_trace,
        )
        self.tracer.start()

    def _write_trace(self, tracer: profile) -> None:
        tracer.export_chrome_trace(str(self.file))
        self.traced = True

    def _end_trace(self) -> None:
        if self.tracer is not None:
            self.tracer.stop()
            self.tracer = None

    def stop(self) -> None:
        """Ends what is still going on; a trace that is not complete is written, too."""
        self._end_trace()
        record_spans(None)

    def lines(self) -> list[str]:
        """The table."""
        last = self.first + self.count - 1
        if not self.parts:
            return [f"profile: the run has ended before step {last}, so that nothing was timed"]
        rows = [
            (part, f"{1000 * seconds / self.count:.2f}", f"{seconds / self.parts['whole step']:.1%}")
            for part, seconds in self.parts.items()
        ]
        if times := self.timer.times["evaluation"]:
            rows.append(("evaluation", f"{1000 * self.timer.seconds['evaluation'] / times:.2f}", None))
        trace = f"trace of the steps from {last + TRACE_WARM_UP + 1} on: {self.file}"
        return [
            f"profile of steps {self.first} to {last} on {self.device}, a step in milliseconds:",
            *text_table(("part", "ms", "share"), rows),
            trace if self.traced else f"no trace: the run has ended before step {last + TRACE_WARM_UP + 1}",
        ]
