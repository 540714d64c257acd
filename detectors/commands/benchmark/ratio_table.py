"""The rows of a benchmark: medians, quartiles, and ratios within rounds; as a text table and for JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

from detectors.tables import markdown_table, text_table
from detectors.training.interleaving import Timings

ROW_HEAD = ("what", "program", "ms", "from", "to", "ratio", "from", "to", "")
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class RatioRow:
    """One program in one comparison.

    seconds: of each round; none if it was not measured. base: those of the comparison's first program, which
    are divided by `seconds` round by round. shares: phase -> its part of the time. facts: what else is known.
    missing: why it could not be measured, such as "not installed".
    """

    what: str
    program: str
    seconds: list[float] = field(default_factory=list)
    base: list[float] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    missing: str = ""

    @property
    def ratios(self) -> list[float]:
        return [base / seconds for base, seconds in zip(self.base, self.seconds, strict=True)]

    def as_dict(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "program": self.program,
            "seconds": self.seconds,
            "ratios": self.ratios,
            "shares": self.shares,
            "facts": self.facts,
            "missing": self.missing,
        }


def rows_of(
    what: str, timings: Timings, facts: Mapping[str, Mapping[str, Any]] | None = None
) -> list[RatioRow]:
    """One row for each program of `timings`. facts: program -> what else is known of it."""
    rows: list[RatioRow] = []
    for program, phases in timings.items():
        seconds = [sum(parts) for parts in zip(*phases.values(), strict=True)]
        shares = {phase: median(spent) / median(seconds) for phase, spent in phases.items()}
        rows.append(
            RatioRow(
                what,
                program,
                seconds,
                rows[0].seconds if rows else seconds,
                shares if len(shares) > 1 else {},
                dict((facts or {}).get(program, {})),
            )
        )
    return rows


def derived_row(
    what: str, program: str, seconds: list[float], base: RatioRow, facts: Mapping[str, Any]
) -> RatioRow:
    """A time that follows from a measured rate, such as a floor."""
    return RatioRow(what, program, seconds, base.seconds, {}, dict(facts))


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) == 1:
        return (values[0],) * 3
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return low, middle, high


def row_lines(rows: Sequence[RatioRow]) -> Iterator[str]:
    """The text table; a comparison's name stands in its first row only."""
    return text_table(ROW_HEAD, _cells(rows), left=(0, 1, 8))


def markdown_lines(rows: Sequence[RatioRow]) -> str:
    return markdown_table(ROW_HEAD, _cells(rows))


def _cells(rows: Sequence[RatioRow]) -> Iterator[list[str]]:
    previous = None
    for row in rows:
        times = [NOT_MEASURED if row.missing else "", "", ""]
        ratios = ["", "", ""]
        if row.seconds:
            low, middle, high = quartiles(row.seconds)
            times = [_digits(1000 * value) for value in (middle, low, high)]
        if row.seconds and row.base is not row.seconds:
            low, middle, high = quartiles(row.ratios)
            ratios = [f"{value:.2f}" for value in (middle, low, high)]
        yield [row.what if row.what != previous else "", row.program, *times, *ratios, _notes(row)]
        previous = row.what


def _notes(row: RatioRow) -> str:
    shares = " ".join(f"{phase} {share:.0%}" for phase, share in row.shares.items())
    facts = [f"{name} {_digits(value)}" for name, value in row.facts.items()]
    return ", ".join(filter(None, [row.missing, shares, *facts]))


def _digits(value: Any) -> str:
    """Three digits that count."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
