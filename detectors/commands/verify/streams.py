"""Regenerates the random parameters and inputs of the recordings, which store only their seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15


def splitmix(seed: int, start: int, count: int, low: float, high: float) -> np.ndarray:
    """(count,) float32 in [low, high), numbers start, start + 1, ... of the Darknet recordings' stream.

    The stream is splitmix64 with the position as its counter.
    """
    with np.errstate(over="ignore"):
        word = np.uint64(seed) + np.arange(start + 1, start + count + 1, dtype=np.uint64) * np.uint64(GOLDEN)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            word = (word ^ (word >> np.uint64(shift))) * np.uint64(factor)
        word ^= word >> np.uint64(31)
    unit = (word >> np.uint64(40)).astype(np.float64) * 2.0**-24
    return (low + (high - low) * unit).astype(np.float32)


def darknet_parameters(convs: Iterable[Sequence[int]], seed: int) -> np.ndarray:
    """(n,) float32, the body of a .weights file.

    convs: [filters, channels, kernel size, batch norm (0 or 1)] of each convolution in the cfg's order.
    """
    parts = []
    position = 0
    for filters, channels, kernel, batch_norm in convs:
        fan_in = channels * kernel * kernel
        bound = np.sqrt((4.2 if batch_norm else 3.0) / fan_in)
        ranges = [(filters, -0.3, 0.3)]  # biases
        if batch_norm:
            ranges.append((filters, 0.6, 1.4))  # scales
            ranges.append((filters, -0.4, 0.4))  # running means
            ranges.append((filters, 0.5, 1.5))  # running variances
        ranges.append((filters * fan_in, -bound, bound))  # weights
        for count, low, high in ranges:
            parts.append(splitmix(seed, position, count, low, high))
            position += count
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def darknet_images(seed: int, *shape: int) -> np.ndarray:
    """(..., C, H, W) float32 in [0, 1)."""
    return splitmix(seed, 0, int(np.prod(shape)), 0.0, 1.0).reshape(shape)


def pcg(seed: int, count: int) -> np.ndarray:
    """(count,) float64 in [0, 1): the SSD recordings' stream, numpy's PCG64, which never changes."""
    return (np.random.PCG64(seed).random_raw(count) >> np.uint64(40)).astype(np.float64) * 2.0**-24


def pcg_normal(seed: int, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    """Float64 arrays of these shapes, drawn in order from one stream, approximately standard normal.

    Each number is sqrt(3) * (the sum of four uniform numbers - 2).
    """
    sizes = [int(np.prod(shape)) for shape in shapes]
    normal = (pcg(seed, 4 * sum(sizes)).reshape(-1, 4).sum(1) - 2) * np.sqrt(3)
    return [
        part.reshape(shape)
        for part, shape in zip(np.split(normal, np.cumsum(sizes)[:-1]), shapes, strict=True)
    ]
