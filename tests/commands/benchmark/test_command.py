"""detectors benchmark: every subject is there, and a misspelt one is named."""

from __future__ import annotations

from importlib import import_module

import pytest

from detectors.commands.benchmark import command


@pytest.mark.parametrize("subject", command.SUBJECTS)
def test_every_subject_has_a_main(subject, capsys):
    assert callable(import_module(f"detectors.commands.benchmark.{command.SUBJECTS[subject][0]}").main)
    with pytest.raises(SystemExit, match="0"):
        command.main([subject, "--help"])
    assert f"usage: detectors benchmark {subject}" in capsys.readouterr().out


def test_the_overview_names_every_subject(capsys):
    for arguments in ([], ["--help"]):
        command.main(arguments)
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines[2:]] == list(command.SUBJECTS)


def test_an_unknown_subject_is_named(capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main(["dta"])
    assert "detectors benchmark dta: there is no such subject; did you mean data?" in capsys.readouterr().err
