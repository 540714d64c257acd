"""The memory of temporaries on a machine without a GPU; the numbers: benchmark/test_loss_speed.py."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.forked import PROJECT

SCRIPT = """
import torch
from detectors.training.temporaries import peak_bytes
peak_bytes(lambda: torch.ones(1000), torch.device("cpu"))
"""


def test_the_profiler_does_not_complain_about_a_gpu_that_is_not_there():
    """In a process of its own: the profiler complains once, when it first starts."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(PROJECT)}
    environment.pop("KINETO_LOG_LEVEL", None)
    result = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
