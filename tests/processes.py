"""Commands in processes that tests can signal, kill and starve: forked from one that has imported everything.

Importing torch takes seconds; a fork takes none. The forked process ends as a Python process does, with its
exit functions. See Forks and Process. (forked.py runs many commands to their end.)
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch._dynamo

from detectors.commands import evaluate, train  # noqa: F401 - imported once, for all forks
from detectors.config.schema import composed
from tests.forked import PROJECT, run_to_status

LIMIT = 120  # seconds for a process; then SIGALRM ends it


class Forks:
    """Starts `detectors` commands, one at a time, each in a session of its own."""

    def __init__(self, **environment: str):
        settings = {"OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1", "CUDA_VISIBLE_DEVICES": ""}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.processes"],
            cwd=PROJECT,
            env={**os.environ, **settings, **environment, "PYTHONPATH": str(PROJECT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._lines = b""
        self._started: list[Process] = []

    def start(
        self,
        *arguments: str,
        output: Path,
        prepare: Callable[..., None] | None = None,
        given: Mapping[str, Any] | None = None,
        largest_file: int | None = None,
    ) -> Process:
        """Starts `detectors ARGUMENTS`. Both of its streams go to the file `output`.

        prepare(**given) is called before: a function at the top of a module of tests, which plants a fault.
        largest_file: bytes; a write beyond that fails with OSError EFBIG, as one to a full disk with ENOSPC.
        """
        output.write_bytes(b"")
        request = {
            "arguments": arguments,
            "output": str(output),
            "prepare": prepare and (prepare.__module__, prepare.__name__),
            "given": dict(given or {}),
            "largest_file": largest_file,
        }
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        self._server.stdin.flush()
        self._started.append(Process(int(self._answer(LIMIT)), output, self._answer))
        return self._started[-1]

    def run(self, *arguments: str, **options: Any) -> tuple[int, str]:
        """Exit status and output of a command that ends by itself. options: see start."""
        return self.start(*arguments, **options).ended()

    def close(self) -> None:
        """Ends the server, and what a failed test has left of its processes."""
        for stray in (pid for process in self._started for pid in process.session()):
            os.kill(stray, signal.SIGKILL)
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()

    def _answer(self, seconds: float) -> str:
        """The server's next line. TimeoutError without one."""
        while b"\n" not in self._lines:
            if not select.select([self._server.stdout], [], [], seconds)[0]:
                raise TimeoutError(f"no answer within {seconds} s")
            self._lines += os.read(self._server.stdout.fileno(), 100)
        line, _, self._lines = self._lines.partition(b"\n")
        return line.decode()


class Process:
    """A command that runs. It and its children have one session, and one process group: `pid`."""

    def __init__(self, pid: int, output: Path, answer: Callable[[float], str]):
        self.pid = pid
        self.output = output
        self._answer = answer

    def send(self, number: int, *, group: bool = False) -> None:
        """A signal to the process, or to the whole group, as a terminal and most schedulers send it."""
        (os.killpg if group else os.kill)(self.pid, number)

    def kill(self) -> None:
        """SIGKILL to the process alone, if it has not ended by itself."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def wait_for(self, condition: Callable[[], Any], *, seconds: float = 60) -> Any:
        """Polls until the condition holds, and returns what it gave. AssertionError after some seconds."""
        end = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < end, self.output.read_text()
            time.sleep(0.005)
        return value

    def wait_for_text(self, text: str, *, seconds: float = 60) -> None:
        """Until the output holds the text."""
        self.wait_for(lambda: text in self.output.read_text(), seconds=seconds)

    def ended(self, *, seconds: float = LIMIT) -> tuple[int, str]:
        """Exit status (negative: the signal that ended it) and output. TimeoutError if it does not end."""
        try:
            status = int(self._answer(seconds))
        except TimeoutError as error:
            os.killpg(self.pid, signal.SIGKILL)
            self._answer(LIMIT)
            raise TimeoutError(f"{error}; output: {self.output.read_text()}") from None
        return status, self.output.read_text()

    def session(self) -> list[int]:
        """The living processes of its session, itself first, then loading processes."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and self._belongs(entry):
                found.append(int(entry.name))
        return sorted(found, key=lambda pid: (pid != self.pid, pid))

    def _belongs(self, entry: Path) -> bool:
        try:
            state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it has just ended
            return False
        return int(session) == self.pid and state != "Z"


def serve() -> None:
    """Reads a request a line; answers with the pid of the fork, and at its end with its exit status."""
    composed([])  # Hydra and PyTorch import some modules at the first use
    torch._dynamo.list_backends()
    gc.freeze()
    while request := sys.stdin.buffer.readline():
        child = os.fork()
        if child == 0:
            _end(_command(json.loads(request)))
        os.write(1, f"{child}\n".encode())
        _, status = os.waitpid(child, 0)
        os.write(1, f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _command(request: dict[str, Any]) -> int:
    """Runs a command in this process."""
    os.setsid()
    signal.alarm(LIMIT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDONLY)
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    if (limit := request["largest_file"]) is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # Python ignores SIGXFSZ
    if request["prepare"]:
        module, name = request["prepare"]
        getattr(importlib.import_module(module), name)(**request["given"])
    return run_to_status(request["arguments"])


def _end(status: int) -> None:
    """Ends this process as Python does, but for the clearing of all modules, which takes seconds."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    serve()
