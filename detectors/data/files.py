"""Reading regular files only, and writing atomically.

A reader sees the old file or the new one, never a part of either.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

SPECIAL = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def require_regular(path: str | os.PathLike) -> None:
    """OSError for anything but a regular file, after following links; nothing is opened.

    Opening a FIFO waits for ever for its writer, and a device may have no end. `strerror` says what is wrong.
    """
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:
        raise FileNotFoundError(errno.ENOENT, f"no file can have this name: {error}", str(path)) from error
    if not stat.S_ISREG(mode):
        kind = SPECIAL.get(stat.S_IFMT(mode), "not a regular file")
        raise OSError(errno.EINVAL, f"it is {kind}, not a file", str(path))


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file for writing under a temporary name, and rename it to `path` at the end.

    After a kill or on a full disk, the previous file is still complete. Creates the folder.
    ValueError if `path` is a folder; OSError names `path`.
    """
    if path.is_dir():
        raise ValueError(f"{path}: a folder lies where a file is to be written; move it away")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = _draft(path)
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        if error.errno is not None:  # of a write, which does not know its file, or about the draft
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def link(source: Path, target: Path) -> None:
    """Gives a file a second name, atomically. Replacing the first one later leaves the second as it is.

    Copies it on a file system without hard links.
    """
    draft = _draft(target)
    try:
        os.link(source, draft)
        os.replace(draft, target)
    except OSError:
        with source.open("rb") as file, atomic_file(target) as copy:
            shutil.copyfileobj(file, copy)
    finally:
        draft.unlink(missing_ok=True)


def _draft(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}")


def clear_drafts(folder: Path, names: Iterable[str]) -> None:
    """Removes what killed processes left of files that they were writing; no living one may write them.

    names: of the files, as patterns.
    """
    for name in names:
        for draft in folder.glob(f".{name}.*"):
            if draft.suffix[1:].isdecimal():
                draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_file(path) as file:
        file.write(text.encode("utf-8"))


def write_json(path: Path, content: Any, *, indent: int | None = 1) -> None:
    """Write JSON atomically, with a newline at the end."""
    write_text(path, json.dumps(content, indent=indent) + "\n")


class Appender:
    """Appends records to a file, each whole or not at all: what an error leaves of one is cut off again."""

    def __init__(self, path: Path):
        """Creates the file if it is not there."""
        self._file = path.open("ab", buffering=0)
        self._size = os.fstat(self._file.fileno()).st_size

    def append(self, record: bytes) -> None:
        """In the file when it returns; an OSError leaves the file as it was."""
        rest = memoryview(record)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            os.ftruncate(self._file.fileno(), self._size)
            raise
        self._size += len(record)

    def close(self) -> None:
        self._file.close()
