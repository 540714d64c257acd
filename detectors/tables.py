"""Text tables: one writer for the terminal, log files and Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

MISSING = "-"  # stands for a missing value


def cell(value: object, form: str = "") -> str:
    """A value in a format such as ".3f" or ",d"; None becomes a dash."""
    return MISSING if value is None else format(value, form)


def text_table(
    head: Sequence[str], rows: Iterable[Sequence[object]], *, widths: Sequence[int] = (), gap: int = 2
) -> Iterator[str]:
    """Lines of a table whose first column is left-aligned and whose others are right-aligned.

    Cells are texts, or values that `cell` writes. widths: lower limits of the columns' widths.
    """
    table = [list(head), *([_text(value) for value in row] for row in rows)]
    for row in table:
        if len(row) != len(head):
            raise ValueError(f"a row of {len(row)} cells in a table of {len(head)} columns: {row}")
    limits = [*widths, *[0] * (len(head) - len(widths))]
    wide = [
        max(limit, *map(len, column)) for limit, column in zip(limits, zip(*table, strict=True), strict=True)
    ]
    for first, *others in table:
        cells = [
            first.ljust(wide[0]),
            *[text.rjust(width) for text, width in zip(others, wide[1:], strict=True)],
        ]
        yield (" " * gap).join(cells).rstrip()


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
    return value if isinstance(value, str) else cell(value)
