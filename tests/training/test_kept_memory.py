"""Memory that was freed is used again, without a new page from the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from detectors.training.kept_memory import keep_freed_memory

assert sys.argv[1] == "given back" or keep_freed_memory()

def batch():
    for megabytes in (3, 40, 17, 90):
        np.ones(megabytes * 2**17)

batch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    batch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(word: str) -> int:
    """Of three batches of 150 MiB."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, word], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_freed_memory_is_kept():
    """4-KiB pages; the system may hand out larger ones, so the two numbers are compared."""
    assert page_faults("kept") * 20 < page_faults("given back")
