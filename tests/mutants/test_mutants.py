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
        "trees",
        "yaml",
    }


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.file}: {m.breaks}")
def test_a_mistake_applies_to_the_current_sources(mutant):
    """Its text occurs once, in a file that is copied, and its tests exist."""
    assert mutant.apply(ROOT) != (ROOT / mutant.file).read_text(encoding="utf-8")
    assert mutant.file.split("/")[0] in COPIED
    for test in mutant.tests:
        path, _, name = test.partition("::")
        assert not name or f" {name}" in (ROOT / path).read_text(encoding="utf-8"), test


def test_a_text_that_occurs_twice_is_refused():
    twice = Mutant("core", "detectors/boxes.py", "Tensor", "tensor", "", [])
    with pytest.raises(
        ValueError, match=r"detectors/boxes\.py: 'Tensor' occurs \d+ times; it must occur once"
    ):
        twice.apply(ROOT)


def test_the_verdicts(tmp_path):
    """A mistake that a test notices, one that none notices, and a test that is not there."""
    (tmp_path / "code.py").write_text("VALUE = 1\nUNUSED = 1\n")
    test = "def test_value():\n    assert 'VALUE = 1' in open('code.py').read()\n"
    (tmp_path / "test_code.py").write_text(test)
    named = ["test_code.py::test_value"]
    mutants = [
        Mutant("", "code.py", "VALUE = 1", "VALUE = 2", "", named),
        Mutant("", "code.py", "UNUSED = 1", "UNUSED = 2", "", named),
        Mutant("", "code.py", "UNUSED = 1", "UNUSED = 2", "", ["test_code.py::test_other"]),
    ]
    assert [verdict for _, verdict in verdicts(mutants, tmp_path)] == ["caught", "SURVIVED", "BROKEN"]
    assert (tmp_path / "code.py").read_text() == "VALUE = 1\nUNUSED = 1\n"
    assert run_tests(named, tmp_path) == 0


def test_an_unknown_part_is_named(capsys):
    assert main(["nowhere"]) == 1
    assert capsys.readouterr().out == "no mistake is listed for nowhere\n"


@pytest.mark.slow
def test_every_mistake_is_caught():
    assert main([]) == 0
