"""All findings and statistics of a data set, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from detectors.commands.lint.findings import Finding
from detectors.data.problems import KINDS, LISTED, Kind
from detectors.tables import text_table

BAR = 30  # characters of the longest bar


@dataclass(frozen=True)
class LintReport:
    """What a data set holds and what is wrong with it."""

    name: str  # of the data set
    findings: list[Finding]
    statistics: dict[str, Any]  # of statistics.py
    same_lists: dict[
        str, str
    ]  # split -> the earlier split that lists the same images; only that one is checked

    @cached_property
    def kinds(self) -> dict[str, list[Finding]]:
        """Kind -> its findings: errors first, in the order of KINDS. Kinds without findings are left out."""
        order = sorted(KINDS, key=lambda kind: not KINDS[kind].error)  # stable
        kinds = {
            kind: [finding for finding in self.findings if finding.problem.kind == kind] for kind in order
        }
        return {kind: findings for kind, findings in kinds.items() if findings}

    @property
    def errors(self) -> int:
        return sum(finding.error for finding in self.findings)

    @property
    def warnings(self) -> int:
        return len(self.findings) - self.errors


def as_json(report: LintReport) -> dict[str, Any]:
    """The whole report. Boxes are xyxy in pixels of the image, continuous edges."""
    return {
        "data": report.name,
        "errors": report.errors,
        "warnings": report.warnings,
        "same_lists": report.same_lists,
        "kinds": {
            kind: {**KINDS[kind]._asdict(), "count": len(findings)} for kind, findings in report.kinds.items()
        },
        "findings": [
            {"split": finding.split, "error": finding.error, **finding.problem._asdict()}
            for finding in report.findings
        ],
        "statistics": report.statistics,
    }


def text(report: LintReport) -> str:
    """A summary, then the errors, the warnings and the statistics."""
    parts = [lint_summary(report)]
    for kind, findings in report.kinds.items():
        parts.append("\n".join(_kind_lines(KINDS[kind], findings)))
    parts.append("\n".join(table_lines("boxes per class", columns(report.statistics["classes"]))))
    for title, table in report.statistics["tables"].items():
        parts.append("\n".join(table_lines(title, table)))
    return "\n\n".join(parts)


def lint_summary(report: LintReport) -> str:
    """One line for each split, then the numbers of errors and warnings."""
    lines = [f"{report.name}: {_plural(len(report.statistics['classes']), 'class', 'classes')}"]
    for split, counts in report.statistics["splits"].items():
        line = (
            f"  {split:5}  {_plural(counts['images'], 'image')}, {_plural(counts['boxes'], 'box', 'boxes')}"
        )
        others = [
            f"{number:,} {word}"
            for word, number in counts.items()
            if word not in ("images", "boxes") and number
        ]
        lines.append(f"{line}; {', '.join(others)}" if others else line)
    lines += [f"  {split:5}  the same list as {other}" for split, other in report.same_lists.items()]
    lines.append(f"{_plural(report.errors, 'error')}, {_plural(report.warnings, 'warning')}")
    return "\n".join(lines)


def _plural(number: int, singular: str, plural: str = "") -> str:
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def _kind_lines(kind: Kind, findings: list[Finding]) -> Iterator[str]:
    yield f"{'error' if kind.error else 'warning'}: {kind.title}: {len(findings):,}"
    yield from (f"  {finding}" for finding in findings[:LISTED])
    if len(findings) > LISTED:
        yield f"  ... and {len(findings) - LISTED:,} more; --json FILE has them all"
    yield f"  fix: {kind.fix}"


def columns(rows: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """{row: {column: number}} -> {column: {row: number}}"""
    names = dict.fromkeys(column for row in rows.values() for column in row)
    return {column: {name: row[column] for name, row in rows.items()} for column in names}


def bucket_rows(table: Mapping[str, Mapping[str, int]]) -> tuple[list[list[str]], list[int]]:
    """Each bucket's cells, its name and a number for each split; and its sum over all splits."""
    buckets = list(dict.fromkeys(bucket for counts in table.values() for bucket in counts))
    rows = [[bucket, *(f"{counts.get(bucket, 0):,}" for counts in table.values())] for bucket in buckets]
    return rows, [sum(counts.get(bucket, 0) for counts in table.values()) for bucket in buckets]


def table_lines(title: str, table: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """One line per bucket: a number for each split, and a bar for the sum over all splits."""
    rows, totals = bucket_rows(table)
    largest = max([*totals, 1])
    for row, total in zip(rows, totals, strict=True):
        bar = "#" * -(-BAR * total // largest)  # rounded up
        row.append(f"  {bar}")
    last = len(table) + 1
    lines = text_table(("", *table, ""), rows, widths=(0, *[10] * len(table)), left=(0, last), gap=0)
    yield title
    yield from (f"  {line}".rstrip() for line in lines)
