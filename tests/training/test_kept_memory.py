"""Memory that was freed is used again, without a new page from the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from detectors.commands import train
from detectors.config.schema import Config
from detectors.training.kept_memory import keep_freed_memory

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


def test_the_environment_has_the_last_word(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert not keep_freed_memory()


@pytest.mark.parametrize(("device", "gpu", "kept"), [("auto", False, 1), ("auto", True, 0), ("cpu", True, 1)])
def test_a_training_on_a_cpu_keeps_it(monkeypatch, tmp_path, device, gpu, kept):
    calls = []

    def build_run(*arguments):
        raise ValueError("built")

    monkeypatch.setattr(train, "keep_freed_memory", lambda: calls.append(1))
    monkeypatch.setattr(train, "build_run", build_run)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    config = Config(name="mine")
    config.trainer.device = device
    config.trainer.memory_format = "contiguous"
    with pytest.raises(ValueError, match="^built$"):
        train.train_run(config, tmp_path, None)
    assert len(calls) == kept
