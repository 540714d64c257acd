"""Loading processes: how they start, what ends them, and what is said where one of them is lost."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from time import monotonic, sleep
from types import TracebackType
from typing import Any

import cv2

REQUESTS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1}  # to stop the run
LIVENESS_CHECK = 1.0  # seconds between two looks at whether the other side is still alive
SHARED_MEMORY = "/dev/shm"  # through which PyTorch's workers hand over tensors
LESS_MEMORY = "set a smaller data.workers, data.prefetch or batch size"


@contextmanager
def worker_processes(start: Callable[[], Iterator[Any]], timeout: float) -> Iterator[Iterator[Any]]:
    """The batches of a PyTorch loader whose `timeout` is LIVENESS_CHECK, or 0 without workers.

    A worker that is lost is an error of the batch that is waited for, never of the statement that the
    program is at, and the workers are killed at the end, also those that hang. What goes wrong is one line:
    ChildProcessError for a worker that was killed, TimeoutError after `timeout` seconds without a batch (0:
    never), OSError for what PyTorch wraps in a traceback.
    """
    before = signal.getsignal(signal.SIGCHLD)
    with _held_requests():
        batches = start()
    workers = getattr(batches, "_workers", [])
    with suppress(ValueError):  # only the main thread may
        signal.signal(signal.SIGCHLD, before)  # PyTorch's handler raises between any two statements
    end = partial(_kill, workers)
    atexit.register(end)  # a traceback may keep this frame alive until then
    try:
        yield _patient(batches, timeout)
    except (RuntimeError, EOFError, OSError) as error:
        if not isinstance(error, RuntimeError):  # the connection to a worker that is just ending, it seems
            ending = wait([worker.sentinel for worker in workers], LIVENESS_CHECK)
            for worker in workers:
                if worker.sentinel in ending:
                    worker.join()
        what = _explained(error, [worker.exitcode for worker in workers], timeout)
        if what is None:
            raise
        raise what from error
    finally:
        atexit.unregister(end)
        end()


def _kill(workers: Sequence[BaseProcess]) -> None:
    """PyTorch would wait five seconds for each that hangs."""
    for worker in workers:
        worker.kill()


def _patient(batches: Iterator[Any], timeout: float) -> Iterator[Any]:
    """The batches. In each wait of LIVENESS_CHECK, PyTorch looks whether the workers are alive."""
    end = monotonic() + timeout
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            if not _is_timeout(error):
                raise
            if not _pins(batches):
                raise OSError(
                    f"the thread that copies batches to page-locked memory has ended: {LESS_MEMORY}"
                ) from error
            if timeout and monotonic() >= end:
                raise
            continue
        yield batch
        end = monotonic() + timeout


def _pins(batches: Iterator[Any]) -> bool:
    """Whether the thread that copies batches to page-locked memory is alive, or not needed."""
    thread = getattr(batches, "_pin_memory_thread", None)
    return thread is None or thread.is_alive()


def _is_timeout(error: Exception) -> bool:
    return str(error).startswith("DataLoader timed out")


def _explained(error: Exception, statuses: list[int | None], timeout: float) -> OSError | None:
    """The error of PyTorch's loader as one line. None if it may be a fault in the program.

    statuses: of the workers; negative: the signal that ended one; None: it lives.
    """
    text = str(error)
    if _is_timeout(error):
        return TimeoutError(
            f"no batch came within data.timeout={timeout:g} seconds: the data.workers={len(statuses)} "
            f"loading processes hang. {_shared_memory()}; or the images lie on a disk that does not answer. "
            "data.workers=0 loads without them; a higher data.timeout (0: no limit) waits longer"
        )
    if lost := [status for status in statuses if status is not None]:
        return ChildProcessError(_lost(lost[0]))
    if "unable to allocate shared memory" in text or "unable to resize file" in text:
        return OSError(f"a loading process could not hand over a batch. {_shared_memory()}")
    if text.startswith("Too many open files"):
        return OSError(f"too many open files: raise the limit (ulimit -n), or {LESS_MEMORY}")
    if "in pin memory thread" in text:
        return OSError(
            f"a batch could not be copied to page-locked memory ({_last_line(text)}): {LESS_MEMORY}"
        )
    if isinstance(error, OSError) and text.startswith("Caught "):
        return OSError(_last_line(text))
    return None


def _lost(status: int) -> str:
    """What ended a loading process, and what helps."""
    if status == -signal.SIGBUS:
        return f"a loading process ended with a bus error. {_shared_memory()}"
    if status == -signal.SIGKILL:
        return f"a loading process was killed (SIGKILL), most often because memory ran out: {LESS_MEMORY}"
    how = f"exit status {status}" if status >= 0 else signal.Signals(-status).name
    return f"a loading process ended by itself ({how}); with data.workers=0 the cause shows"


def _shared_memory() -> str:
    """Advice about shared memory, with its size."""
    try:
        usage = shutil.disk_usage(SHARED_MEMORY)
        size = f" ({usage.free / 2**20:.0f} of {usage.total / 2**20:.0f} MiB are free)"
    except OSError:
        size = ""
    return (
        f"Most often {SHARED_MEMORY}, through which they pass batches on, is too small{size}: enlarge it "
        f"(docker run --shm-size=8g), {LESS_MEMORY}"
    )


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


@contextmanager
def _held_requests() -> Iterator[None]:
    """Holds requests to stop back, so that none reaches a worker that has not told them apart yet."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_worker(worker: int) -> None:
    """Leaves requests to stop, which often go to the whole process group, to the main process.

    It saves, then kills its workers. They end by themselves within LIVENESS_CHECK where it was killed.
    """
    cv2.setNumThreads(0)
    for number in REQUESTS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, REQUESTS)
    sys.excepthook = _heed
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _heed(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Tells of an exception in the thread that hands over batches, unless the main process has just left."""
    if not issubclass(kind, EOFError | ConnectionError):
        sys.__excepthook__(kind, error, traceback)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        sleep(LIVENESS_CHECK)
    os._exit(1)
