"""Parameters and inputs of the recorded nets, drawn again by the recordings' recipe: Darknet was given these numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15


def draw(seed: int, start: int, count: int, low: float, high: float) -> np.ndarray:
    """`count` float32 numbers of [low, high) from place `start` of the stream of a seed: splitmix64, the place being the counter."""
    with np.errstate(over="ignore"):
        word = np.uint64(seed) + np.arange(start + 1, start + count + 1, dtype=np.uint64) * np.uint64(GOLDEN)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            word = (word ^ (word >> np.uint64(shift))) * np.uint64(factor)
        word ^= word >> np.uint64(31)
    unit = (word >> np.uint64(40)).astype(np.float64) * 2.0**-24
    return (low + (high - low) * unit).astype(np.float32)


def parameters(convs: Sequence[Sequence[int]], seed: int) -> np.ndarray:
    """The body of a .weights file. convs: (filters, channels, kernel, batch norm or not) in the cfg's order."""
    found, place = [], 0
    for filters, channels, kernel, normed in convs:
        weights = channels * kernel * kernel
        edge = np.sqrt((4.2 if normed else 3.0) / weights)
        ranges = [(filters, -0.3, 0.3)]
        if normed:
            ranges += [(filters, 0.6, 1.4), (filters, -0.4, 0.4), (filters, 0.5, 1.5)]
        for count, low, high in [*ranges, (filters * weights, -edge, edge)]:
            found.append(draw(seed, place, count, low, high))
            place += count
    return np.concatenate(found)


def images(seed: int, *shape: int) -> np.ndarray:
    """(B, C, H, W) from 0 to 1"""
    return draw(seed, 0, int(np.prod(shape)), 0.0, 1.0).reshape(shape)


def header(version: Sequence[int], seen: int) -> bytes:
    """16 bytes, or 20 from version 0.2 on."""
    wide = version[0] * 10 + version[1] >= 2
    return np.array(version, "<i4").tobytes() + np.array([seen], "<u8" if wide else "<i4").tobytes()


def write(path: Path, convs: Sequence[Sequence[int]], seed: int, *, version: Sequence[int] = (0, 2, 0), seen: int = 0) -> Path:
    """A .weights file of these parameters."""
    path.write_bytes(header(version, seen) + parameters(convs, seed).tobytes())
    return path
