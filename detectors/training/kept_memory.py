"""glibc keeps the memory that a batch has freed for the next one, instead of giving it back to the system."""

from __future__ import annotations

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LARGEST = 2**30 - 1  # bytes; an int
LARGEST_BEFORE = 2**25  # that older versions of glibc accept for M_MMAP_THRESHOLD
SAME_IN_THE_ENVIRONMENT = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")


def keep_freed_memory() -> bool:
    """Whether it was set: with glibc, for this process, unless the environment sets it.

    Without it, each batch asks for its memory anew, and the system fills every page with zeros: up to half of
    the time of a prediction (docs/predict.md), a fifth of a training step (docs/performance.md). The process
    stays as large as its largest batch has made it.
    """
    if sys.platform != "linux" or any(name in os.environ for name in SAME_IN_THE_ENVIRONMENT):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    blocks = mallopt(M_MMAP_THRESHOLD, LARGEST) or mallopt(M_MMAP_THRESHOLD, LARGEST_BEFORE)
    return bool(mallopt(M_TRIM_THRESHOLD, LARGEST) and blocks)
