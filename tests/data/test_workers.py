"""Loading processes: what PyTorch's loader raises becomes one line, and signals are the main process's.

tests/training/test_signals.py kills, hangs and starves real ones.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from threading import Thread

import pytest

from detectors.data.workers import REQUESTS, worker_processes

LESS = "set a smaller data.workers, data.prefetch or batch size"


def failing(error: Exception) -> Iterator[int]:
    yield 1
    raise error


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "Caught RuntimeError in pin memory thread for device 0.\nOriginal Traceback:\n"
            "  ...\nRuntimeError: CUDA error: out of memory\n",
            "a batch could not be copied to page-locked memory (RuntimeError: CUDA error: out of memory): "
            + LESS,
        ),
        (
            "Too many open files. Communication with the workers is no longer possible. Please increase ...",
            f"too many open files: raise the limit (ulimit -n), or {LESS}",
        ),
    ],
)
def test_errors_of_the_loader_are_one_line(text, told):
    with (
        pytest.raises(OSError, match="^") as error,
        worker_processes(lambda: failing(RuntimeError(text)), 0) as batches,
    ):
        assert list(batches) == [1]
    assert str(error.value) == told


def test_an_error_of_the_disk_in_a_worker_has_no_traceback():
    wrapped = OSError(
        "Caught OSError in DataLoader worker process 0.\nOriginal ...\nOSError: [Errno 5] Input/output"
    )
    with (
        pytest.raises(OSError, match="^OSError: .Errno 5. Input/output$"),
        worker_processes(lambda: failing(wrapped), 0) as batches,
    ):
        list(batches)


def test_a_fault_in_the_program_keeps_its_traceback():
    fault = RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback ...")
    with pytest.raises(RuntimeError) as error, worker_processes(lambda: failing(fault), 0) as batches:
        list(batches)
    assert error.value is fault


def test_a_thread_that_no_longer_copies_batches_is_said():
    """On a GPU. PyTorch would wait for ever."""

    class Batches:
        _pin_memory_thread = Thread()  # not alive

        def __next__(self):
            raise RuntimeError("DataLoader timed out after 1.0 seconds")

    told = f"^the thread that copies batches to page-locked memory has ended: {LESS}$"
    with pytest.raises(OSError, match=told), worker_processes(Batches, 0) as batches:
        next(batches)


def test_signals_wait_until_the_workers_have_started():
    """A worker would inherit a handler of the main process, and act on a signal in its place."""
    heard = []
    before = {number: signal.signal(number, lambda number, _: heard.append(number)) for number in REQUESTS}
    child = signal.getsignal(signal.SIGCHLD)

    def start() -> Iterator[int]:
        for number in REQUESTS:
            signal.pthread_kill(threading.get_ident(), number)  # a thread of a library would act on it
        assert heard == []
        signal.signal(signal.SIGCHLD, lambda number, _: heard.append(number))
        return iter([1])

    try:
        with worker_processes(start, 0) as batches:
            assert (set(heard), list(batches)) == (REQUESTS, [1])
            assert signal.getsignal(signal.SIGCHLD) is child
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
