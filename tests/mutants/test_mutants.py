"""The list of mistakes fits the sources, and the tests catch them."""

from __future__ import annotations

import pytest

from tests.mutants.run import COPIED, ROOT, Mutant, main, read_mutants, run_tests, verdicts

MUTANTS = read_mutants()


def test_the_list_covers_every_stage():
    assert len(MUTANTS) >= 40
    assert {m.part for m in MUTANTS} == {
        "benchmark",
        "core",
        "data",
        "kernels",
        "losses",
        "metrics",
        "networks",
        "training",
        "transfer",
