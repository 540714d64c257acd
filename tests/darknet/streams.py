"""Weights files of the recorded nets, with the numbers that Darknet was given for the recordings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detectors.commands.verify.streams import darknet_images as images
from detectors.commands.verify.streams import darknet_parameters as parameters

__all__ = ["header", "images", "parameters", "write"]


def header(version: Sequence[int], seen: int) -> bytes:
    """16 bytes, or 20 from version 0.2 on."""
    seen_dtype = "<u8" if version[0] * 10 + version[1] >= 2 else "<i4"
    return np.array(version, "<i4").tobytes() + np.array([seen], seen_dtype).tobytes()


def write(
    path: Path,
    convs: Sequence[Sequence[int]],
    seed: int,
    *,
    version: Sequence[int] = (0, 2, 0),
    seen: int = 0,
) -> Path:
    """A .weights file with random parameters. convs: [filters, channels, kernel size, batch norm or not]."""
    path.write_bytes(header(version, seen) + parameters(convs, seed).tobytes())
    return path
