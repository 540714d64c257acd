"""Weights files of the recorded nets: Darknet was given these numbers when the fixtures were made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detectors.commands.verify.streams import darknet_images as images
from detectors.commands.verify.streams import darknet_parameters as parameters

__all__ = ["header", "images", "parameters", "write"]


def header(version: Sequence[int], seen: int) -> bytes:
    """16 bytes, or 20 from version 0.2 on."""
    wide = version[0] * 10 + version[1] >= 2
    return np.array(version, "<i4").tobytes() + np.array([seen], "<u8" if wide else "<i4").tobytes()


def write(
    path: Path,
    convs: Sequence[Sequence[int]],
    seed: int,
    *,
    version: Sequence[int] = (0, 2, 0),
    seen: int = 0,
) -> Path:
    """A .weights file of these parameters."""
    path.write_bytes(header(version, seen) + parameters(convs, seed).tobytes())
    return path
