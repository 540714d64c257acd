"""Many commands, each in a process of its own, without importing torch for each: see run_commands."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.processes import PROJECT, Forks

__all__ = ["PROJECT", "run_commands"]


def run_commands(commands: list[list[str]], folder: Path, **environment: str) -> list[tuple[int, str]]:
    """Run `detectors ARGUMENTS` for each list of arguments, one after the other, in a folder.

    Returns exit status and output, stdout and stderr together, of each.
    """
    forks = Forks(**environment)
    with tempfile.NamedTemporaryFile(suffix=".txt") as output:
        return [
            forks.run(*arguments, output=Path(output.name), folder=Path(folder)) for arguments in commands
        ]
