"""What a run was computed with: the code and its packages."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import torch

from detectors.config.schema import INSTALLED, PACKAGE
from detectors.training.outcome import device_name

# Distributions that affect numbers or files.
PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
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
    lines |= {name: _version(name) for name in PACKAGES}
    lines["device"] = device_name(device)
    if device.type == "cuda":
        lines |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
    return "\n".join(f"{name}: {value}" for name, value in lines.items())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # OpenCV has several distributions of one package
        return "unknown"
