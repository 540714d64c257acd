"""Many commands, each in a process of its own, without importing torch for each: python -m tests.forked FILE.

FILE is JSON: a list of argument lists for `detectors`. Prints a JSON list of [exit status, output]. A command
runs in a fork of this process, which has only imported modules and started no thread. See run_commands().
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from detectors.__main__ import VERBS, main

LIMIT = 300  # seconds for a command; then SIGALRM ends it
PROJECT = Path(__file__).resolve().parents[1]


def run_commands(commands: list[list[str]], folder: Path, **environment: str) -> list[tuple[int, str]]:
    """Run `detectors ARGUMENTS` for each list of arguments, one after the other, in a folder.

    Returns exit status and output, stdout and stderr together, of each.
    """
    settings = {"OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1", "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(commands, file)
        file.flush()
        result = subprocess.run(
            [sys.executable, "-m", "tests.forked", file.name],
            cwd=folder,
            env={**os.environ, **settings, **environment, "PYTHONPATH": str(PROJECT)},
            capture_output=True,
            text=True,
            check=True,
        )
    return [(status, output) for status, output in json.loads(result.stdout)]


def _forked(arguments: list[str]) -> tuple[int, str]:
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            signal.alarm(LIMIT)
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            os._exit(run_to_status(arguments))
        _, wait_status = os.waitpid(child, 0)
        output.seek(0)
        return os.waitstatus_to_exitcode(wait_status), output.read().decode("utf-8", "replace")


def run_to_status(arguments: list[str]) -> int:
    """The exit status, as Python gives it, of one command in this process."""
    try:
        main(arguments)
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


if __name__ == "__main__":
    for module, _ in VERBS.values():
        importlib.import_module(f"detectors.commands.{module}")
    todo = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps([_forked(arguments) for arguments in todo]))
