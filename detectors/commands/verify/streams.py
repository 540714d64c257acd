"""The recordings' random numbers, drawn again: parameters and inputs that the original programs were given
are stored as seeds only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15


def splitmix(seed: int, start: int, count: int, low: float, high: float) -> np.ndarray:
    """(count,) float32 of [low, high): the Darknet recordings' stream, splitmix64 with the place in the
    stream as the counter.
    """
    with np.errstate(over="ignore"):
        word = np.uint64(seed) + np.arange(start + 1, start + count + 1, dtype=np.uint64) * np.uint64(GOLDEN)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            word = (word ^ (word >> np.uint64(shift))) * np.uint64(factor)
        word ^= word >> np.uint64(31)
    unit = (word >> np.uint64(40)).astype(np.float64) * 2.0**-24
    return (low + (high - low) * unit).astype(np.float32)


def darknet_parameters(convs: Iterable[Sequence[int]], seed: int) -> np.ndarray:
    """The body of a .weights file. convs: [filters, channels, kernel, batch norm] in the cfg's order."""
    parts = []
    place = 0
    for filters, channels, kernel, normed in convs:
        weights = channels * kernel * kernel
        edge = np.sqrt((4.2 if normed else 3.0) / weights)
        ranges = [(filters, -0.3, 0.3)]
        if normed:
            ranges += [(filters, 0.6, 1.4), (filters, -0.4, 0.4), (filters, 0.5, 1.5)]
        for count, low, high in [*ranges, (filters * weights, -edge, edge)]:
            parts.append(splitmix(seed, place, count, low, high))
            place += count
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def darknet_images(seed: int, *shape: int) -> np.ndarray:
    """(..., C, H, W) from 0 to 1."""
    return splitmix(seed, 0, int(np.prod(shape)), 0.0, 1.0).reshape(shape)


def pcg(seed: int, count: int) -> np.ndarray:
    """(count,) float64 of [0, 1): the SSD recordings' stream, numpy's frozen PCG64."""
    return (np.random.PCG64(seed).random_raw(count) >> np.uint64(40)).astype(np.float64) * 2.0**-24


def pcg_normal(seed: int, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    """Arrays drawn in order from one stream, nearly normal: sums of four uniform numbers, less 2, times
    sqrt(3).
    """
    sizes = [int(np.prod(shape)) for shape in shapes]
    normal = (pcg(seed, 4 * sum(sizes)).reshape(-1, 4).sum(1) - 2) * np.sqrt(3)
    return [
        part.reshape(shape)
        for part, shape in zip(np.split(normal, np.cumsum(sizes)[:-1]), shapes, strict=True)
    ]
