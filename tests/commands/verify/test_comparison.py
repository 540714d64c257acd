"""Comparisons, and the reading of recordings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from detectors.commands.verify import command
from detectors.commands.verify.comparison import (
    EXACT,
    Tolerance,
    agree,
    compare_numbers,
    known_difference,
    merge,
)
from detectors.commands.verify.recordings import Arrays


def test_compare_numbers_reports_what_differs():
    tolerance = Tolerance(absolute=0.1, relative=0.01)
    assert compare_numbers("x", [1.0, 100.0], [1.05, 101.0], tolerance).passed
    comparison = compare_numbers(
        "x", torch.tensor([[1.0, 2.0], [3.0, 4.0]]), np.array([[1, 2], [3.5, 4.2]]), tolerance
    )
    assert not comparison.passed
    assert (comparison.absolute, comparison.relative) == pytest.approx((0.5, 0.5 / 4.2))
    assert comparison.note == "2 of 4 differ, most at (1, 0): 3, recorded 3.5"


def test_compare_numbers_with_nan_and_infinity():
    assert compare_numbers(
        "x", [float("nan"), float("inf"), None], [None, float("inf"), float("nan")], EXACT
    ).passed
    for ours, recorded in (
        ([1.0], [float("nan")]),
        ([float("nan")], [1.0]),
        ([float("inf")], [-float("inf")]),
        ([1.0], [float("inf")]),
    ):
        comparison = compare_numbers("x", ours, recorded, Tolerance(absolute=1e9, of_largest=1.0))
        assert not comparison.passed and comparison.absolute == np.inf


def test_compare_numbers_of_other_shapes_and_empty_lists():
    assert not compare_numbers("x", [1.0], [[1.0]], EXACT).passed
    assert compare_numbers("x", [], [], EXACT).passed


def test_tolerance_relative_to_the_largest_number():
    assert compare_numbers("x", [0.009, 100.0], [0.0, 100.0], Tolerance(of_largest=1e-4)).passed
    assert not compare_numbers("x", [0.011, 100.0], [0.0, 100.0], Tolerance(of_largest=1e-4)).passed
    assert str(Tolerance(1e-5, 2e-6, 1e-4)) == "1e-05 + 2e-06 x value + 1e-04 x largest"


def test_agree():
    assert agree("x", {1, 2}, {2, 1}).passed
    assert agree("x", "TF", "TF").passed
    assert agree("x", [1, 2], [1, 2]).passed
    assert not agree("x", [1, 2], [2, 1]).passed
    assert not agree("x", "TF", "FT").passed
    comparison = agree("x", {1, 2, 3}, {3, 4})
    assert (comparison.absolute, comparison.passed) == (3, False)
    assert "only ours [1, 2]; only recorded [4]" in comparison.note


def test_merge_keeps_the_worst_and_a_known_difference_can_fail():
    good = compare_numbers("a", 1.0, 1.0, EXACT)
    wrong = compare_numbers("b", 1.0, 3.0, Tolerance(absolute=1.0))
    both = merge("both", [good, wrong])
    assert (both.passed, both.absolute, both.tolerance) == (False, 2.0, "exact / 1e+00")
    assert both.note.startswith("b: ")
    assert command._row("f", known_difference(good, "reason")).verdict == command.KNOWN
    assert command._row("f", known_difference(wrong, "reason")).verdict == command.FAIL


def test_arrays_remember_what_was_read(tmp_path):
    np.savez(tmp_path / "a.npz", **{"x/y": np.ones(2), "x/z": np.ones(2), "w": np.ones(1)})
    arrays = Arrays(tmp_path / "a.npz")
    inner = arrays.under("x")
    assert set(inner) == {"y", "z"} and "y" in inner and "w" not in inner
    inner["y"]
    arrays.skip("w")
    assert arrays.unread == ["x/z"]
    with pytest.raises(ValueError, match=r"a\.npz: no array 'x/q'"):
        inner["q"]
    np.savez(tmp_path / "b.npz", x=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="array 'x' cannot be read"):
        Arrays(tmp_path / "b.npz")["x"]
