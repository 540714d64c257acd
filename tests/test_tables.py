"""Tables line up, say what is missing, and refuse rows of another length."""

from __future__ import annotations

import pytest

from detectors.tables import cell, markdown_table, printable, text_table


def test_text_table():
    lines = list(text_table(("class", "boxes", "AP"), [("cat", 1000, "0.5"), ("big dog", 7, None)]))
    assert lines == [
        "class    boxes   AP",
        "cat       1000  0.5",
        "big dog      7    -",
    ]


def test_widths_are_lower_limits():
    lines = list(text_table(("a", "b"), [("long name", "1")], widths=(4, 5), gap=1))
    assert lines == ["a             b", "long name     1"]


def test_markdown_table():
    assert markdown_table(("run", "AP"), [("one", 0.5), ("b", None)]).splitlines() == [
        "| run | AP  |",
        "|-----|-----|",
        "| one | 0.5 |",
        "| b   | -   |",
    ]


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="a row of 1 cells in a table of 2 columns"):
        list(text_table(("a", "b"), [("x",)]))
    with pytest.raises(ValueError, match="zip"):
        markdown_table(("a", "b"), [("x",)])


def test_a_cell():
    assert (cell(0.12345, ".3f"), cell(1234567, ",d"), cell(None, ".3f"), cell("x")) == (
        "0.123",
        "1,234,567",
        "-",
        "x",
    )


def test_control_characters_of_others_do_not_reach_the_terminal():
    """A class name could erase lines, or turn the text that follows."""
    name = "cat\x1b[2K\r\u202e"
    assert printable(name) == r"cat\x1b[2K\r\u202e"
    assert printable("vélo 自転車 \N{BICYCLE}\n", keep="\n") == "vélo 自転車 \N{BICYCLE}\n"
    assert list(text_table(("class",), [(name,), ("a\nb",)])) == ["class", printable(name), r"a\nb"]
