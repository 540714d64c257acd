"""Text tables: one writer for the terminal, log files and Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from unicodedata import category

MISSING = "-"  # stands for a missing value


def cell(value: object, form: str = "") -> str:
    """A value in a format such as ".3f" or ",d"; None becomes a dash."""
    return MISSING if value is None else format(value, form)


def printable(text: str, keep: str = "") -> str:
    r"""Others' text for a terminal: control characters, which could move the cursor or erase lines, as \x1b.

    keep: those that stay, such as "\n".
    """
    return "".join(
        c.encode("unicode_escape").decode("ascii") if category(c)[0] == "C" and c not in keep else c
        for c in text
    )


def text_row(cells: Sequence[str], widths: Sequence[int], *, left: Sequence[int] = (0,), gap: int = 2) -> str:
    """One line of a table: padded cells, `gap` spaces apart; the columns in `left` are left-aligned."""
    padded = [
        text.ljust(width) if column in left else text.rjust(width)
        for column, (text, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return (" " * gap).join(padded).rstrip()


def text_table(
    head: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    widths: Sequence[int] = (),
    left: Sequence[int] = (0,),
    gap: int = 2,
) -> Iterator[str]:
    """The lines of a table. Cells are texts, written as `printable` does, or values that `cell` writes.

    widths: lower limits of the columns' widths. left: the columns that are left-aligned. gap: spaces between
    columns.
    """
    table = [list(head), *([_text(value) for value in row] for row in rows)]
    for row in table:
        if len(row) != len(head):
            raise ValueError(f"a row of {len(row)} cells in a table of {len(head)} columns: {row}")
    limits = [*widths, *[0] * (len(head) - len(widths))]
    columns = zip(*table, strict=True)
    wide = [max(limit, *map(len, column)) for limit, column in zip(limits, columns, strict=True)]
    for row in table:
        yield text_row(row, wide, left=left, gap=gap)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown; its columns are padded, so that it reads well as plain text too."""
    table = [list(head), *([_text(value) for value in row] for row in rows)]
    wide = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, wide, strict=True)) + " |"
        for row in table
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in wide) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _text(value: object) -> str:
    return printable(value) if isinstance(value, str) else cell(value)
