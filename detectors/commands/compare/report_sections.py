"""Sections of a comparison: tables of text, and plots. Markdown and page are written from the same ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from detectors.tables import MISSING, cell, markdown_table


class Head(NamedTuple):
    """A heading of a column, or the first cell of a row, and what its numbers mean."""

    word: str
    meaning: str


class ReportTable(NamedTuple):
    head: Sequence[Head]
    rows: Sequence[tuple[Head, Sequence[str]]]  # the first cell and the others


class Plot(NamedTuple):
    svg: str
    caption: str


@dataclass
class ReportSection:
    title: str
    text: str = ""
    tables: list[ReportTable] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)


def markdown_of(sections: Sequence[ReportSection]) -> list[str]:
    """Paragraphs: the text and the tables of each section; plots are in the page only."""
    parts = []
    for section in sections:
        if section.tables:
            parts += [f"## {section.title}", *([section.text] if section.text else [])]
            parts += [markdown_of_table(table) for table in section.tables]
    return parts


def markdown_of_table(table: ReportTable) -> str:
    rows = [[first.word, *cells] for first, cells in table.rows]
    return markdown_table([head.word for head in table.head], rows)


def estimate_text(number: Mapping[str, Any] | None) -> str:
    """`.512 [.498, .526]`, and in braces the interval over seeds, too; a dash for None.

    number: of `estimates` in comparison.json.
    """
    if number is None:
        return MISSING
    low, high = number["over_images"]
    text = f"{number['value']:.3f} [{low:.3f}, {high:.3f}]"
    if number["over_images_and_seeds"] is not None:
        low, high = number["over_images_and_seeds"]
        text += f" {{{low:.3f}, {high:.3f}}}"
    return text


def quartiles_text(number: Mapping[str, float], form: str) -> str:
    """`1.25 [1.20, 1.31]`: the median and the quartiles."""
    low, median, high = (format(number[name], form) for name in ("low", "median", "high"))
    return f"{median} [{low}, {high}]"


def number_text(value: float | None, form: str = ".3f") -> str:
    return cell(value, form)
