"""What a measurement was made on and with."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import torch

from detectors.training.interleaving import Stopwatch
from detectors.training.outcome import device_name
from detectors.training.provenance import commit, installed_version

MEASURED_WITH = ("torch", "torchvision", "triton", "numpy")


def machine(device: torch.device, stopwatch: Stopwatch) -> dict[str, str]:
    """Name -> fact. Nothing in it names the computer or its folders."""
    return {
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        **{name: installed_version(name) for name in MEASURED_WITH},
        "python": platform.python_version(),
        "device": device_name(device),
        "cpu": f"{_cpu_model()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "clock": stopwatch.name,
    }


def _cpu_model() -> str:
    """As /proc/cpuinfo names it; elsewhere the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
