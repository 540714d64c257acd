"""metrics.csv: every scalar of a run, one a row, for pandas and spreadsheets.

    step,tag,value
    10,train/loss/total,21.2

Tags have points at different steps, and classes may come and go, so rows never need a new column:
pandas.read_csv(path).pivot(index="step", columns="tag", values="value") gives the wide table.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

from detectors.data.files import Appender, atomic_file
from detectors.training.tracking import Backend

METRICS = "metrics.csv"
HEAD = ["step", "tag", "value"]


class CsvLog(Backend):
    """Appends rows to metrics.csv; a point's rows are there together or not at all.

    first_step: the first step that will be written; rows of earlier processes from that step on are removed.
    redo_evaluation: the evaluation of the step before, too, will be made again; rows that it left behind are
    removed. ValueError if the file is there and has other columns.
    """

    name = "csv"

    def __init__(self, folder: Path | str, *, first_step: int = 0, redo_evaluation: bool = False):
        path = Path(folder) / METRICS
        # train/ scalars of the last step that stays, if its evaluation was removed, else empty
        self.before_redone: dict[str, float] = {}
        kept = self._kept(path, first_step, redo_evaluation)
        with atomic_file(path) as file:
            file.write(_encoded([HEAD]))
            for row in kept:
                file.write(_encoded([row]))
        self._file = Appender(path)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._file.append(_encoded([[step, tag, repr(value)] for tag, value in values.items()]))

    def close(self, finished: bool) -> None:
        self._file.close()

    def _kept(self, path: Path, first_step: int, redo_evaluation: bool) -> Iterator[list[str]]:
        """The rows of an earlier process that are not written again."""
        last: list[list[str]] = []  # of the step before first_step
        for row in _rows(path):
            step = int(row[0])
            if step < first_step - 1:
                yield row
            elif step == first_step - 1:
                last.append(row)
        training = [row for row in last if row[1].startswith("train/")]
        if redo_evaluation and len(training) < len(last):
            last = training
            self.before_redone = {tag: float(value) for _, tag, value in training}
        yield from last


def _rows(path: Path) -> Iterator[list[str]]:
    """The whole rows of the file; none without a file. A kill may have cut the last one short."""
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(line for line in file if line.endswith("\n"))
        if (head := next(reader, HEAD)) != HEAD:
            raise ValueError(
                f"{path}: its columns are {', '.join(head)}, not {', '.join(HEAD)}; move it away, "
                "or leave csv out of trainer.trackers"
            )
        for row in reader:
            if len(row) == len(HEAD) and row[0].isdecimal():
                yield row


def _encoded(rows: list[list]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode("utf-8", "replace")
