"""All findings and statistics of a data set, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from detectors.commands.lint.findings import Finding
from detectors.data.problems import KINDS, LISTED, Kind

BAR = 30  # characters of the longest bar


@dataclass(frozen=True)
class LintReport:
    """What a data set holds and what is wrong with it."""

    name: str  # of the data set
    findings: list[Finding]
    statistics: dict[str, Any]  # of statistics.py
    same_lists: dict[str, str]  # split -> the split that lists the same images, and is looked at in its place

    @property
    def kinds(self) -> dict[str, list[Finding]]:
        """Kind -> its findings: errors first, in the order of KINDS; kinds without any are left out."""
        order = sorted(KINDS, key=lambda kind: not KINDS[kind].error)  # stable
        found = {
            kind: [finding for finding in self.findings if finding.problem.kind == kind] for kind in order
        }
        return {kind: findings for kind, findings in found.items() if findings}

    @property
    def errors(self) -> int:
        return sum(finding.error for finding in self.findings)

    @property
    def warnings(self) -> int:
        return len(self.findings) - self.errors


def as_json(report: LintReport) -> dict[str, Any]:
    """Everything, nothing shortened. Boxes are xyxy in pixels of the image, continuous edges."""
    return {
        "data": report.name,
        "errors": report.errors,
        "warnings": report.warnings,
        "same_lists": report.same_lists,
        "kinds": {
            kind: {**KINDS[kind]._asdict(), "count": len(found)} for kind, found in report.kinds.items()
        },
        "findings": [
            {"split": finding.split, "error": finding.error, **finding.problem._asdict()}
            for finding in report.findings
        ],
        "statistics": report.statistics,
    }


def text(report: LintReport) -> str:
    """A summary, the errors, the warnings, the statistics."""
    parts = [lint_summary(report)]
    for kind, found in report.kinds.items():
        parts.append("\n".join(_of_kind(KINDS[kind], found)))
    parts += ["\n".join(table_lines("boxes per class", columns(report.statistics["classes"])))]
    parts += ["\n".join(table_lines(title, table)) for title, table in report.statistics["tables"].items()]
    return "\n\n".join(parts)


def lint_summary(report: LintReport) -> str:
    """One line for each split, then the counts of errors and warnings."""
    lines = [f"{report.name}: {_plural(len(report.statistics['classes']), 'class', 'classes')}"]
    for split, counts in report.statistics["splits"].items():
        held = f"{_plural(counts['images'], 'image')}, {_plural(counts['boxes'], 'box', 'boxes')}"
        more = [
            f"{number:,} {word}"
            for word, number in counts.items()
            if word not in ("images", "boxes") and number
        ]
        lines.append(f"  {split:5}  {held}{'; ' * bool(more)}{', '.join(more)}")
    lines += [f"  {split:5}  the same list as {other}" for split, other in report.same_lists.items()]
    return "\n".join([*lines, f"{_plural(report.errors, 'error')}, {_plural(report.warnings, 'warning')}"])


def _plural(number: int, word: str, words: str = "") -> str:
    return f"{number:,} {word if number == 1 else words or word + 's'}"


def _of_kind(kind: Kind, found: list[Finding]) -> Iterator[str]:
    yield f"{'error' if kind.error else 'warning'}: {kind.title}: {len(found):,}"
    yield from (f"  {finding}" for finding in found[:LISTED])
    if len(found) > LISTED:
        yield f"  ... and {len(found) - LISTED:,} more; --json FILE has them all"
    yield f"  fix: {kind.fix}"


def columns(rows: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """{row: {column: number}} -> {column: {row: number}}"""
    names = dict.fromkeys(column for row in rows.values() for column in row)
    return {column: {name: row[column] for name, row in rows.items()} for column in names}


def table_lines(title: str, table: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """One line for each bucket, a number for each split, and a bar for all splits together."""
    buckets = list(dict.fromkeys(bucket for counts in table.values() for bucket in counts))
    totals = [sum(counts.get(bucket, 0) for counts in table.values()) for bucket in buckets]
    width, longest = max(map(len, [*buckets, ""])), max([*totals, 1])
    yield title
    yield "  " + " " * width + "".join(f"{split:>10}" for split in table)
    for bucket, total in zip(buckets, totals, strict=True):
        numbers = "".join(f"{counts.get(bucket, 0):10,}" for counts in table.values())
        yield f"  {bucket:{width}}{numbers}  {'#' * -(-BAR * total // longest)}".rstrip()
