"""detectors benchmark: ratios within rounds, quartiles, the text table and its JSON."""

from __future__ import annotations

import json

import pytest

from detectors.commands.benchmark.ratio_table import (
    RatioRow,
    derived_row,
    markdown_lines,
    quartiles,
    row_lines,
    rows_of,
)


def test_ratios_are_taken_within_a_round():
    """The machine is twice as slow in the second round, for both: the ratio stays."""
    timings = {"ours": {"a": [1.0, 2.0, 1.0], "b": [1.0, 2.0, 1.0]}, "theirs": {"": [4.0, 8.0, 2.0]}}
    ours, theirs = rows_of("loss", timings, {"theirs": {"value": 0.12345}})
    assert ours.seconds == [2, 4, 2] and ours.shares == {"a": 0.5, "b": 0.5}
    assert theirs.ratios == [0.5, 0.5, 1.0] and theirs.shares == {}
    assert json.loads(json.dumps(theirs.as_dict()))["facts"] == {"value": 0.12345}


def test_quartiles():
    assert quartiles([3.0]) == (3, 3, 3)
    assert quartiles([5.0, 1.0, 2.0, 4.0, 3.0]) == (2, 3, 4)


def test_the_table():
    ours, theirs = rows_of("loss", {"ours": {"a": [0.001], "b": [0.003]}, "theirs": {"": [0.008]}})
    rows = [ours, theirs, RatioRow("loss", "lightnet", missing="not installed")]
    rows.append(derived_row("loss", "floor", [0.001], ours, {"MB": 12.0}))
    rows.append(RatioRow("memory", "ours", facts={"MiB": 300.0}))
    lines = [line.split() for line in row_lines(rows)]
    assert lines[0] == ["what", "program", "ms", "from", "to", "ratio", "from", "to"]
    assert lines[1] == ["loss", "ours", "4", "4", "4", "a", "25%", "b", "75%"]
    assert lines[2] == ["theirs", "8", "8", "8", "0.50", "0.50", "0.50"]
    assert lines[3] == ["lightnet", "not", "measured", "not", "installed"]
    assert lines[4] == ["floor", "1", "1", "1", "4.00", "4.00", "4.00", "MB", "12"]
    assert lines[5] == ["memory", "ours", "MiB", "300"]
    markdown = markdown_lines(rows).splitlines()
    assert len(markdown) == 7 and markdown[1].startswith("|---")


@pytest.mark.parametrize(("value", "text"), [(0.0123456, "0.0123"), (12.34, "12.3"), (12345.6, "12,346")])
def test_three_digits_count(value, text):
    (row,) = rows_of("x", {"ours": {"": [value / 1000]}})
    assert list(row_lines([row]))[1].split()[2] == text
