"""Faults that tests plan, in their own process or in one of processes.Forks."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from detectors.data.images import Decoded, ImageReader


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Writing beyond `size` bytes of any file fails, after the part that fits, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def slow_images(seconds: float, named: str) -> None:
    """From now on, reading an image whose path holds `named` takes some seconds more."""
    original = ImageReader.read

    def read(reader: ImageReader, row: int, *wanted) -> Decoded:
        if named in reader.annotations.paths[row]:
            time.sleep(seconds)
        return original(reader, row, *wanted)

    ImageReader.read = read


def small_shared_memory(size: str) -> None:
    """From now on, this process and its children have a /dev/shm of this size. OSError where it may not."""
    new_mounts = 0x00020000  # CLONE_NEWNS
    if ctypes.CDLL(None, use_errno=True).unshare(new_mounts):
        raise OSError(ctypes.get_errno(), "unshare is not permitted")
    for command in (["--make-rprivate", "/"], ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", "/dev/shm"]):
        if subprocess.run(["mount", *command], check=False).returncode:
            raise OSError("mount is not permitted")


def slow_saves(seconds: float) -> None:
    """From now on, every file that is written atomically is half written for some seconds."""
    original = os.fsync

    def fsync(handle: int) -> None:
        time.sleep(seconds)
        original(handle)

    os.fsync = fsync
