"""Two processes of one training, forked from one that has imported everything, which takes seconds."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

LIMIT = 240  # seconds for the processes of a test
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.training.rank_tasks"])


def in_ranks(function: Callable[..., Any], *arguments: Any, world_size: int = 2) -> list[Any]:
    """function(*arguments), at the top of a module, in each process, started as torchrun does; the results.

    Of a process that a signal ended, its negative number. AssertionError with the traceback of one that
    failed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": world_size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    started = []
    for rank in range(world_size):
        ours, theirs = CONTEXT.Pipe()
        environment = {
            name: str(value) for name, value in {**common, "RANK": rank, "LOCAL_RANK": rank}.items()
        }
        process = CONTEXT.Process(target=_rank, args=(theirs, environment, function, arguments))
        process.start()
        theirs.close()
        started.append((process, ours))
    with ThreadPoolExecutor(world_size) as pool:
        results = list(pool.map(_result, started))
    failures = [text for good, text in results if not good]
    assert not failures, "\n".join(failures)
    return [value for _, value in results]


def _rank(pipe: Connection, environment: dict[str, str], function: Callable, arguments: tuple) -> None:
    os.environ.update(environment)
    try:
        pipe.send((True, function(*arguments)))
    except BaseException:
        pipe.send((False, traceback.format_exc()))


def _result(started: tuple[multiprocessing.Process, Connection]) -> tuple[bool, Any]:
    process, pipe = started
    try:
        result = pipe.recv() if pipe.poll(LIMIT) else (False, f"no answer within {LIMIT} s")
    except EOFError:  # a signal ended it
        process.join()
        result = (True, process.exitcode)
    process.join(5)
    process.kill()
    return result
