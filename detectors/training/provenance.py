"""What a run was computed with: the code and its packages."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

import torch

from detectors import __version__
from detectors.config.schema import INSTALLED, PACKAGE
from detectors.training.outcome import device_name

NUMERIC = ("torch", "torchvision", "numpy")
# Distributions that affect numbers or files.
PACKAGES = (
    *NUMERIC,
    "pillow",
    "opencv-python-headless",
    "albumentations",
    "pycocotools",
    "hydra-core",
    "omegaconf",
    "tensorboard",
)


def commit() -> str:
    """The git commit of this code, with "-dirty" if files differ from it; "unknown" outside of a git
    checkout.
    """
    if INSTALLED:
        return "unknown"  # a repository around an installed package is not this code's
    command = ["git", "-C", str(PACKAGE), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions(device: torch.device) -> str:
    """A line for Python, for each of PACKAGES and for the hardware."""
    lines = {"python": sys.version.split()[0], "platform": platform.platform()}
    lines |= {name: installed_version(name) for name in PACKAGES}
    lines["device"] = device_name(device)
    if device.type == "cuda":
        lines |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
    return "\n".join(f"{name}: {value}" for name, value in lines.items())


def program_versions() -> dict[str, str]:
    """Name -> version of what can change a run's numbers, for its checkpoints."""
    return {
        "python": platform.python_version(),
        "detectors": __version__,
        **{name: installed_version(name) for name in NUMERIC},
    }


def other_versions(stored: Mapping[str, str]) -> str:
    """'torch 2.10.0 (now 2.11.0)', ...: what has changed since; "" for nothing, or if nothing was stored."""
    now = program_versions()
    changed = [name for name in now if name in stored and stored[name] != now[name]]
    return ", ".join(f"{name} {stored[name]} (now {now[name]})" for name in changed)


def installed_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # OpenCV has several distributions of one package
        return "unknown"
