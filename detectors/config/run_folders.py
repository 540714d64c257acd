"""The folders that runs have written, and `latest`, which stands for the newest of them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from detectors.config.launched import launched
from detectors.config.typed import split_at_commas

LATEST = "latest"
RECORD = Path(".hydra/overrides.yaml")  # what Hydra writes when a run starts; a resume leaves it as it is
RUN_MARKS = (".hydra", "summary.json", "last.pt", "best.pt")  # what only a run folder holds
LOG_TIME = re.compile(r"\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3})\]")
PLAIN = re.compile(r"[\w./-]+")  # a text that Hydra reads as it is


def is_run_folder(folder: Path) -> bool:
    """Whether train.py wrote a run into this folder itself, or began to."""
    return any((folder / name).exists() for name in RUN_MARKS)


def resumed_folder(resume: str) -> Path | None:
    """The folder of the run that trainer.resume names, itself or a file in it; None if it is no run's."""
    place = Path(resume)
    if place.is_file():
        return place.parent
    return place if any(place.glob("*.pt")) else None


def runs_below(folder: Path) -> Iterator[Path]:
    """All run folders below a folder, at any depth; 2_... comes before 10_..."""
    for entry in sorted(os.scandir(folder), key=lambda entry: _natural(entry.name)):
        if entry.is_dir(follow_symlinks=False):
            inner = folder / entry.name
            if is_run_folder(inner):
                yield inner
            else:
                yield from runs_below(inner)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts numbers within names by their value."""
    return [(int(part) if part.isdecimal() else -1, part) for part in re.split(r"(\d+)", name)]


def started(folder: Path) -> float | None:
    """When a run began, in seconds since 1970: the time of its log's first line, which no copy changes.

    Without a log, when Hydra recorded what was typed. None if neither is there.
    """
    try:
        with (folder / "train.log").open(encoding="utf-8", errors="replace") as file:
            if time := LOG_TIME.match(file.readline()):
                return datetime.strptime(time[1], "%Y-%m-%d %H:%M:%S,%f").timestamp()
    except (OSError, ValueError):
        pass
    return (folder / RECORD).stat().st_mtime if (folder / RECORD).exists() else None


def newest_run(output: Path, holds: str = "*.pt", what: str = "a checkpoint") -> Path:
    """The run folder below `output` that began last, among those that hold a file of the pattern `holds`.

    what: such a file, for messages. Says on stderr which one it is, and which newer ones it passes over.
    FileNotFoundError without any.
    """
    times = {run: time for run in runs_below(output) if (time := started(run))} if output.is_dir() else {}
    passed = []
    for run in sorted(times, key=times.get, reverse=True):
        if any(run.glob(holds)):
            more = f"; newer, but without {what}: {', '.join(passed)}" if passed else ""
            if not launched().rank:
                sys.stderr.write(f"{LATEST}: {run}{more}\n")
            return run
        passed.append(str(run))
    raise FileNotFoundError(f"{LATEST}: no run with {what} below {output}; train one, or name a run's folder")


def refuse_namesake() -> None:
    """ValueError if something in the current folder is named latest, so that the word has two meanings."""
    if os.path.lexists(LATEST):
        raise ValueError(
            f"{LATEST}: means the newest run, but {Path.cwd()} holds something of that name; "
            f"for that one type ./{LATEST}, for the newest run type its folder"
        )


def with_latest_run(overrides: Sequence[str], settings: Sequence[str], output: Path) -> list[str]:
    """Overrides in which the newest run with a checkpoint takes the place of `latest`.

    settings: names of those that name a run. All jobs of a multirun get the same one, and .hydra records it.
    """
    changed = []
    for override in overrides:
        key, equals, value = override.partition("=")
        parts = split_at_commas(value)
        if equals and key.lstrip("+") in settings and LATEST in parts:
            refuse_namesake()
            run = quoted_for_hydra(str(newest_run(output)))
            override = f"{key}={','.join(run if part == LATEST else part for part in parts)}"
        changed.append(override)
    return changed


def quoted_for_hydra(text: str) -> str:
    """A text that an override can hold: its quotes, and the backslashes before a quote, are escaped."""
    if PLAIN.fullmatch(text):
        return text
    escaped = re.sub(r"(\\*)(?='|$)", r"\1\1", text).replace("'", "\\'")
    return f"'{escaped}'"


def names_latest(overrides: Sequence[str], settings: Sequence[str]) -> bool:
    """Whether one of these settings is `latest`."""
    given = [override.lstrip("+").partition("=") for override in overrides]
    return any(key in settings and LATEST in split_at_commas(value) for key, _, value in given)
