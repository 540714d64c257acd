"""A run's folder: one process at a time, its checkpoints from new to old, and what a killed process left."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from detectors.data.files import clear_drafts, link
from detectors.training import checkpoint as ckpt
from detectors.training.run_files import SUMMARY

LOCK = ".lock"
KEPT = re.compile(r"step_(\d+)\.pt")
WRITTEN = (ckpt.LAST, ckpt.BEST, "step_*.pt", SUMMARY, "config.yaml")  # atomically, by the process of the run
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
logger = logging.getLogger(__name__)


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Lets one process at a time write a run in `folder`, and clears what a killed one left half written.

    The kernel releases the lock with its process, however that ends; the file stays behind after SIGKILL and
    does no harm. ValueError names the process that holds it. Loading workers do not inherit this kind of
    lock, so those of a killed process do not keep the folder from the next one.
    """
    file = _lock_file(folder)
    try:
        clear_drafts(folder, WRITTEN)
        yield
    finally:
        with suppress(OSError):  # a deleted folder, a disk that has turned read-only
            (folder / LOCK).unlink()
        file.close()


def _lock_file(folder: Path) -> IO[str]:
    """The open file that holds the lock, with the name of this process in it."""
    path = folder / LOCK
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        with file:
            if error.errno not in NO_LOCKS:
                file.seek(0)
                holder = file.read(200).strip() or "another process"
                raise ValueError(f"{folder}: in use by {holder}, which writes a run there") from None
            logger.warning(f"{folder}: its file system has no locks, so start no second process in it")
            return file
    if not path.exists() or path.stat().st_ino != os.fstat(file.fileno()).st_ino:
        file.close()  # another process has removed its file since it was opened
        return _lock_file(folder)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file


def kept_checkpoints(folder: Path) -> list[Path]:
    """step_*.pt, the newest first."""
    kept = {path: KEPT.fullmatch(path.name) for path in folder.glob("step_*.pt")}
    return sorted((path for path in kept if kept[path]), key=lambda path: -int(kept[path][1]))


def keep_older(folder: Path, step: int, count: int) -> None:
    """Before another last.pt is written: keeps this one, of `step`, and the `count` newest of its kind."""
    last = folder / ckpt.LAST
    if not last.exists():
        return
    link(last, folder / f"step_{step:06d}.pt")
    older = [path for path in kept_checkpoints(folder) if int(KEPT.fullmatch(path.name)[1]) <= step]
    for path in older[count:]:
        path.unlink(missing_ok=True)


def newest_whole(folder: Path) -> tuple[ckpt.Checkpoint | None, dict[Path, str]]:
    """The checkpoint with the most steps among those that can be read, and what is wrong with the others.

    last.pt is the newest if it can be read. Reads no more than it needs.
    """
    damaged: dict[Path, str] = {}

    def first_whole(paths: list[Path]) -> ckpt.Checkpoint | None:
        for path in filter(Path.exists, paths):
            try:
                return ckpt.load_checkpoint(path)
            except ValueError as error:
                damaged[path] = str(error)
        return None

    if (last := first_whole([folder / ckpt.LAST])) is not None:
        return last, damaged
    kept = first_whole(kept_checkpoints(folder))
    best = first_whole([folder / ckpt.BEST])
    return max(filter(None, (kept, best)), key=lambda stored: stored.step, default=None), damaged
