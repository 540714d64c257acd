"""detectors VERB: every verb is there, is imported only when called, and a misspelt one is named."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest

from detectors import __main__ as entry


@pytest.mark.parametrize("verb", entry.VERBS)
def test_every_verb_has_a_main(verb):
    module = importlib.import_module(f"detectors.commands.{entry.VERBS[verb][0]}")
    assert callable(module.main)


def test_the_overview_names_every_verb(capsys):
    for arguments in ([], ["--help"], ["-h"]):
        entry.main(arguments)
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines[2:]] == list(entry.VERBS)


@pytest.mark.parametrize(
    ("verb", "hint"), [("lnt", "did you mean lint?"), ("xyzzy", "there are: train, evaluate, compare")]
)
def test_an_unknown_verb_is_named(verb, hint, capsys):
    with pytest.raises(SystemExit) as ended:
        entry.main([verb])
    assert ended.value.code == 2
    assert f"error: detectors {verb}: there is no such command; {hint}" in capsys.readouterr().err


def test_the_rest_goes_to_the_verb(capsys):
    with pytest.raises(SystemExit) as ended:
        entry.main(["compare", "--help"])
    assert ended.value.code == 0
    assert "usage: detectors compare" in capsys.readouterr().out


def test_the_overview_imports_no_torch():
    code = "import sys; from detectors.__main__ import main; main([]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "stream"),
    [(["--help"], "stdout"), (["train", "--cfg", "job"], "stdout"), (["train", "lr=3"], "stderr")],
)
def test_a_reader_that_has_gone_changes_nothing(arguments, stream):
    """As with `| head`: no traceback, and the command's own exit status."""
    read, write = os.pipe()
    os.close(read)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: write}
    command = [sys.executable, "-m", "detectors", *arguments]
    result = subprocess.run(command, **pipes, text=True)
    os.close(write)
    assert result.returncode == (2 if stream == "stderr" else 0)
    assert not result.stdout and not result.stderr
