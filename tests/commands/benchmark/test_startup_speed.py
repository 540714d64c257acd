"""detectors benchmark startup: processes are waited for, and must answer as they should."""

from __future__ import annotations

import json
import re

import pytest

from detectors.commands.benchmark import command, startup_speed
from detectors.commands.benchmark.startup_speed import COMMANDS, process


def test_the_table_and_the_file(tmp_path, monkeypatch):
    commands = {"detectors --help": COMMANDS["detectors --help"], "import torch": (["-c", "pass"], 0)}
    monkeypatch.setattr(startup_speed, "COMMANDS", commands)
    file = tmp_path / "startup.json"
    command.main(["startup", "--repeats", "1", "--json", str(file)])
    record = json.loads(file.read_text())
    assert record["machine"]["clock"] == "CPU time of processes"
    ours, beside = record["rows"]
    assert (ours["what"], ours["program"]) == ("detectors --help", "ours")
    assert ours["seconds"][0] > 0 and beside["ratios"][0] > 0


def test_a_process_that_fails_is_not_measured():
    with pytest.raises(RuntimeError, match=re.escape("ended with status 1, not 0: oh no")):
        process(["-c", "raise SystemExit('oh no')"], 0)()


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_answers(name):
    process(*COMMANDS[name])()
