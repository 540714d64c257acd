"""From a JPEG file's coefficients to pixels, in stb_image's fixed-point arithmetic.

Other decoders differ from it by a level or two.
"""

from __future__ import annotations

import numpy as np


def inverse_transform(blocks: np.ndarray) -> np.ndarray:
    """(n, 8, 8) int32 coefficients -> (n, 8, 8) uint8: first the columns, then the rows."""
    even, odd = _butterflies(*blocks.transpose(1, 0, 2))
    columns = _combine(even, odd, 512, 10)  # (8, n, 8): rows first
    even, odd = _butterflies(*columns.transpose(2, 1, 0))
    pixels = np.clip(_combine(even, odd, 65536 + (128 << 17), 17), 0, 255)
    return pixels.astype(np.uint8).transpose(1, 2, 0)


def _fixed(value: float) -> int:
    """Fixed point with 12 bits: adds 0.5 and truncates towards zero, also for negative numbers, as in C."""
    return int(value * 4096 + 0.5)


def _butterflies(*rows: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """One-dimensional inverse DCT up to the last step, scaled by 4096: the even part and the odd part.

    rows: the eight coefficients.
    """
    s0, s1, s2, s3, s4, s5, s6, s7 = rows
    rotated = (s2 + s6) * _fixed(0.5411961)
    low = rotated + s6 * _fixed(-1.847759065)
    high = rotated + s2 * _fixed(0.765366865)
    plus = (s0 + s4) << 12
    minus = (s0 - s4) << 12
    even = [plus + high, minus + low, minus - low, plus - high]

    shared = (s7 + s3 + s5 + s1) * _fixed(1.175875602)
    p1 = shared + (s7 + s1) * _fixed(-0.899976223)
    p2 = shared + (s5 + s3) * _fixed(-2.562915447)
    p3 = (s7 + s3) * _fixed(-1.961570560)
    p4 = (s5 + s1) * _fixed(-0.390180644)
    odd = [
        s1 * _fixed(1.501321110) + p1 + p4,
        s3 * _fixed(3.072711026) + p2 + p3,
        s5 * _fixed(2.053119869) + p2 + p4,
        s7 * _fixed(0.298631336) + p1 + p3,
    ]
    return even, odd


def _combine(even: list[np.ndarray], odd: list[np.ndarray], bias: int, shift: int) -> np.ndarray:
    """The last step of the transform: (8, ...) outputs of one dimension, rounded by `bias` and `shift`."""
    sums = [(e + bias + o) >> shift for e, o in zip(even, odd, strict=True)]
    differences = [(e + bias - o) >> shift for e, o in zip(even, odd, strict=True)]
    return np.stack([*sums, *differences[::-1]])


def enlarge(plane: np.ndarray, size: tuple[int, int], factors: tuple[int, int]) -> np.ndarray:
    """(rows, columns) uint8 -> (height, width) uint8. factors: (down, across).

    Factors of 2 interpolate with weights 3/4 and 1/4; others repeat pixels.
    """
    pixels = plane.astype(np.int32)
    if factors == (2, 2):
        pixels = _double_columns(_double_rows(pixels), 16)
    elif factors == (2, 1):
        pixels = (_double_rows(pixels) + 2) >> 2
    elif factors == (1, 2):
        pixels = _double_columns(pixels, 4)
    else:
        pixels = pixels.repeat(factors[0], 0).repeat(factors[1], 1)
    return pixels[: size[0], : size[1]].astype(np.uint8)


def _double_rows(plane: np.ndarray) -> np.ndarray:
    """Twice as many rows, each 3 * the nearest + 1 * the second nearest, which at the edge is the same row.

    Not divided: 4 times too bright.
    """
    above = np.concatenate([plane[:1], plane[:-1]])
    below = np.concatenate([plane[1:], plane[-1:]])
    return np.stack([3 * plane + above, 3 * plane + below], 1).reshape(-1, plane.shape[1])


def _double_columns(plane: np.ndarray, divisor: int) -> np.ndarray:
    """Twice as many columns, with weights 3 and 1, divided by `divisor` and rounded.

    divisor: 4, or 16 for a plane from _double_rows. With 4, stb_image swaps the two weights of the second to
    last column; so does this function.
    """
    left = 3 * plane[:, 1:] + plane[:, :-1]
    right = 3 * plane[:, :-1] + plane[:, 1:]
    out = np.empty((len(plane), 2 * plane.shape[1]), np.int32)
    out[:, 2::2] = (left + divisor // 2) // divisor
    out[:, 1:-1:2] = (right + divisor // 2) // divisor
    edge_divisor = divisor // 4  # the outermost columns have one neighbour only
    out[:, 0] = (plane[:, 0] + edge_divisor // 2) // edge_divisor
    out[:, -1] = (plane[:, -1] + edge_divisor // 2) // edge_divisor
    if divisor == 4 and plane.shape[1] > 1:
        out[:, -2] = (3 * plane[:, -2] + plane[:, -1] + 2) // 4
    return out


def to_rgb(luminance: np.ndarray, blue: np.ndarray, red: np.ndarray) -> np.ndarray:
    """Three (H, W) uint8 planes, Y, Cb and Cr -> (H, W, 3) uint8.

    Fixed point with 20 bits; in green, the last 16 bits of Cb's share are dropped, as in stb_image.
    """
    y = (luminance.astype(np.int32) << 20) + (1 << 19)
    cb = blue.astype(np.int32) - 128
    cr = red.astype(np.int32) - 128

    r = y + cr * (_fixed(1.402) << 8)
    g = y - cr * (_fixed(0.71414) << 8) + (-cb * (_fixed(0.34414) << 8) & -65536)
    b = y + cb * (_fixed(1.772) << 8)
    return np.clip(np.stack([r, g, b], -1) >> 20, 0, 255).astype(np.uint8)
