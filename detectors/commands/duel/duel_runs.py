"""The runs of a duel: each trained and evaluated by processes of its own, with one progress line for all."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

LOOK = 0.5  # seconds between looks at the runs
NOW_AND_THEN = 60.0  # seconds between progress lines where none can be replaced
STEP = re.compile(r"step (\d+) of (\d+)")
TAIL = 20_000  # bytes of a log that are read for its last step


@dataclass(frozen=True)
class DuelRun:
    folder: Path
    train: tuple[str, ...]  # overrides of train.py
    evaluate: tuple[str, ...]  # overrides of evaluate.py

    @property
    def log(self) -> Path:
        return self.folder / "duel.log"

    def commands(self) -> list[list[str]]:
        """What is left to do. A finished training says so at once, and an evaluation takes seconds."""
        train = ["train", f"hydra.run.dir={self.folder}", "trainer.resume=auto", "trainer.progress=false"]
        return [
            [*train, *self.train],
            ["evaluate", f"run={self.folder}", "progress=false", *self.evaluate],
        ]


@dataclass
class _Running:
    job: DuelRun
    commands: list[list[str]]
    log: IO[bytes]
    process: subprocess.Popen | None = None

    def next(self) -> int | None:
        """Starts the next command when the one before has ended. The exit status at the end, None before."""
        if self.process is not None:
            status = self.process.poll()
            if status is None:
                return None
            if status or not self.commands:
                self.log.close()
                return status
        self.process = subprocess.Popen(
            [sys.executable, "-m", "detectors", *self.commands.pop(0)],
            stdout=self.log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches it through _stop alone
        )
        return None


def run_all(jobs: Sequence[DuelRun], at_once: int) -> list[DuelRun]:
    """Runs all jobs, `at_once` at a time, and returns those that failed.

    Ctrl-C or SIGTERM stops the running ones, which save first, and raises KeyboardInterrupt.
    """
    waiting = list(jobs)
    running: list[_Running] = []
    failed: list[DuelRun] = []
    started = time.monotonic()
    line = _ProgressLine()
    with _terminated_as_interrupted():
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    running.append(_start(waiting.pop(0)))
                for one in list(running):
                    status = one.next()
                    if status is not None:
                        running.remove(one)
                        failed += [one.job] if status else []
                        word = f"failed, see {one.job.log}" if status else "done"
                        line.end(f"{one.job.folder.name}: {word}")
                ended = len(jobs) - len(waiting) - len(running)
                minutes = (time.monotonic() - started) / 60
                line.show(progress_line(ended, len(jobs), [one.job for one in running], minutes))
                time.sleep(LOOK if running else 0)
        finally:
            for one in running:
                _stop(one)
    line.end()
    return failed


def _start(job: DuelRun) -> _Running:
    job.folder.mkdir(parents=True, exist_ok=True)
    return _Running(job, job.commands(), job.log.open("ab"))


def _stop(one: _Running) -> None:
    """Asks a run to save and end, and waits for it."""
    if one.process is not None and one.process.poll() is None:
        one.process.terminate()
        one.process.wait()
    one.log.close()


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def progress_line(ended: int, total: int, running: Sequence[DuelRun], minutes: float) -> str:
    """`2 of 6 runs done, 3 min; yolov2_160_seed1 step 340 of 1000`"""
    parts = [f"{ended} of {total} runs done, {minutes:.0f} min"]
    parts += [f"{job.folder.name} {last_step(job.log)}" for job in running]
    return "; ".join(parts)


def last_step(log: Path) -> str:
    """How far a run is, from the last line of its log that says so."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            found = STEP.findall(file.read().decode("utf-8", "replace"))
    except OSError:
        found = []
    return f"step {found[-1][0]} of {found[-1][1]}" if found else "starting"


class _ProgressLine:
    """On a terminal a line that the next one replaces; elsewhere a new line now and then."""

    def __init__(self):
        self.terminal = sys.stdout.isatty()
        self.shown = time.monotonic() - NOW_AND_THEN

    def show(self, text: str) -> None:
        if self.terminal:
            sys.stdout.write(f"\r\x1b[K{text}")
        elif time.monotonic() - self.shown >= NOW_AND_THEN:
            self.shown = time.monotonic()
            sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def end(self, text: str = "") -> None:
        """Writes a line that stays; without a text, removes the last one from a terminal."""
        sys.stdout.write(("\r\x1b[K" if self.terminal else "") + (f"{text}\n" if text else ""))
        sys.stdout.flush()
