"""Commands in processes that tests can signal, kill and starve: forked from one that has imported everything.

Importing torch takes seconds; a fork takes none. The forked process ends as a Python process does, with its
exit functions. See Forks and Process. (forked.py runs many commands to their end, in the same way.)
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
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch._dynamo

from detectors.__main__ import VERBS, main
from detectors.config.composing import composed

PROJECT = Path(__file__).resolve().parents[1]
LIMIT = 300  # seconds for a process; then SIGALRM ends it


class Server:
    """The process that forks, one command at a time: see serve."""

    def __init__(self, settings: Mapping[str, str], project: Path = PROJECT):
        """project: the folder of detectors/, conf/ and tests/."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.processes"],
            cwd=project,
            env={**os.environ, **settings},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._lines = b""
        self._running: int | None = None

    def start(self, request: Mapping[str, Any]) -> int:
        """The pid of a new fork. One that a failed test has left is ended."""
        if self._running is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._running, signal.SIGKILL)
            self.status(LIMIT)
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        self._running = self._answer(LIMIT)
        return self._running

    def status(self, seconds: float) -> int:
        """The exit status of the fork. TimeoutError if it does not end."""
        status = self._answer(seconds)
        self._running = None
        return status

    def _answer(self, seconds: float) -> int:
        while b"\n" not in self._lines:
            if not select.select([self._process.stdout], [], [], seconds)[0]:
                raise TimeoutError(f"no answer within {seconds} s")
            self._lines += os.read(self._process.stdout.fileno(), 100)
        line, _, self._lines = self._lines.partition(b"\n")
        return int(line)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "PYTHONPATH": str(PROJECT),
}


@cache
def shared_server() -> Server:
    """One for all tests of this process: it starts in seconds."""
    server = Server(SETTINGS)
    atexit.register(server.close)
    return server


class Forks:
    """Starts `detectors` commands, one at a time, each in a session of its own."""

    def __init__(self, server: Server | None = None, **environment: str):
        self._environment = environment
        self._server = server or shared_server()
        self._started: list[Process] = []

    def start(
        self,
        *arguments: str,
        output: Path,
        errors: Path | None = None,
        folder: Path = PROJECT,
        prepare: Callable[..., None] | None = None,
        given: Mapping[str, Any] | None = None,
        largest_file: int | None = None,
    ) -> Process:
        """Starts `detectors ARGUMENTS` in a folder. Both of its streams go to the file `output`, or stderr
        to the file `errors`.

        prepare(**given) is called before: a function at the top of a module of tests, which plants a fault.
        largest_file: bytes; a write beyond that fails with OSError EFBIG, as one to a full disk with ENOSPC.
        """
        errors = errors or output
        for stream in (output, errors):
            stream.write_bytes(b"")
        request = {
            "arguments": arguments,
            "output": str(output),
            "errors": str(errors),
            "folder": str(folder),
            "environment": {**os.environ, **SETTINGS, **self._environment},
            "prepare": prepare and (prepare.__module__, prepare.__name__),
            "given": dict(given or {}),
            "largest_file": largest_file,
        }
        self._started.append(Process(self._server.start(request), output, self._server.status))
        return self._started[-1]

    def run(self, *arguments: str, **options: Any) -> tuple[int, str]:
        """Exit status and output of a command that ends by itself. options: see start."""
        return self.start(*arguments, **options).ended()

    def close(self) -> None:
        """Ends what a failed test has left of its processes."""
        for stray in (pid for process in self._started for pid in process.session()):
            os.kill(stray, signal.SIGKILL)


class Process:
    """A command that runs. It and its children have one session, and one process group: `pid`."""

    def __init__(self, pid: int, output: Path, status: Callable[[float], int]):
        self.pid = pid
        self.output = output
        self._status = status

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
            status = self._status(seconds)
        except TimeoutError as error:
            os.killpg(self.pid, signal.SIGKILL)
            self._status(LIMIT)
            raise TimeoutError(f"{error}; output: {self.output.read_text()}") from None
        return status, self.output.read_text(encoding="utf-8", errors="replace")

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
    for module, _ in VERBS.values():
        importlib.import_module(f"detectors.commands.{module}")
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
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    _redirect(request["output"], request["errors"])
    if (limit := request["largest_file"]) is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # Python ignores SIGXFSZ
    if request["prepare"]:
        module, name = request["prepare"]
        getattr(importlib.import_module(module), name)(**request["given"])
    return run_to_status(request["arguments"])


def _redirect(output: str, errors: str) -> None:
    """stdin reads nothing; stdout and stderr append to files."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, file in ((1, output), (2, errors)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), number)


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


def _end(status: int) -> None:
    """Ends this process as Python does, but for the clearing of all modules, which takes seconds."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    serve()
