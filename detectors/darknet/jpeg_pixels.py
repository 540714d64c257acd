"""From a JPEG file's coefficients to pixels in stb_image's fixed-point arithmetic, whose results other decoders miss by a level or two."""

from __future__ import annotations

import numpy as np


def inverse_transform(blocks: np.ndarray) -> np.ndarray:
    """(n, 8, 8) int32 coefficients -> (n, 8, 8) uint8, in stb_image's fixed-point arithmetic: first down, then across."""
    even, odd = _butterflies(*blocks.transpose(1, 0, 2))
    columns = _cross(even, odd, 512, 10)  # (8, n, 8): rows first
    even, odd = _butterflies(*columns.transpose(2, 1, 0))
    return np.clip(_cross(even, odd, 65536 + (128 << 17), 17), 0, 255).astype(np.uint8).transpose(1, 2, 0)


def _fixed(value: float) -> int:
    """Towards zero after adding a half, also for negative numbers, as in C."""
    return int(value * 4096 + 0.5)


def _butterflies(s0, s1, s2, s3, s4, s5, s6, s7) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """One-dimensional inverse DCT up to the last step, scaled by 4096: the even part and the odd part."""
    turned = (s2 + s6) * _fixed(0.5411961)
    low, high = turned + s6 * _fixed(-1.847759065), turned + s2 * _fixed(0.765366865)
    plus, minus = (s0 + s4) << 12, (s0 - s4) << 12
    even = [plus + high, minus + low, minus - low, plus - high]
    p3, p4 = s7 + s3, s5 + s1
    shared = (p3 + p4) * _fixed(1.175875602)
    p1, p2 = shared + (s7 + s1) * _fixed(-0.899976223), shared + (s5 + s3) * _fixed(-2.562915447)
    p3, p4 = p3 * _fixed(-1.961570560), p4 * _fixed(-0.390180644)
    odd = [
        s1 * _fixed(1.501321110) + p1 + p4,
        s3 * _fixed(3.072711026) + p2 + p3,
        s5 * _fixed(2.053119869) + p2 + p4,
        s7 * _fixed(0.298631336) + p1 + p3,
    ]
    return even, odd


def _cross(even: list[np.ndarray], odd: list[np.ndarray], bias: int, shift: int) -> np.ndarray:
    """(8, ...) outputs of one dimension."""
    sums = [(e + bias + o) >> shift for e, o in zip(even, odd, strict=True)]
    differences = [(e + bias - o) >> shift for e, o in zip(even, odd, strict=True)]
    return np.stack([*sums, *differences[::-1]])


def enlarge(plane: np.ndarray, size: tuple[int, int], factors: tuple[int, int]) -> np.ndarray:
    """(rows, columns) uint8 -> (height, width) uint8, by `factors` (down, across): weights 3/4 and 1/4 for factors of 2, else repeated."""
    wide = plane.astype(np.int32)
    if factors == (2, 2):
        wide = _double_across(_mix_rows(wide), 16)
    elif factors == (2, 1):
        wide = (_mix_rows(wide) + 2) >> 2
    elif factors == (1, 2):
        wide = _double_across(wide, 4)
    else:
        wide = wide.repeat(factors[0], 0).repeat(factors[1], 1)
    return wide[: size[0], : size[1]].astype(np.uint8)


def _mix_rows(plane: np.ndarray) -> np.ndarray:
    """Twice as many rows, each 3 * the nearest + the next nearest; the outermost have only one."""
    above, below = np.concatenate([plane[:1], plane[:-1]]), np.concatenate([plane[1:], plane[-1:]])
    return np.stack([3 * plane + above, 3 * plane + below], 1).reshape(-1, plane.shape[1])


def _double_across(plane: np.ndarray, whole: int) -> np.ndarray:
    """Twice as many columns from a plane that is whole / 4 times too bright, divided by `whole` and rounded.

    stb_image's last but one column of a plane that was not mixed down takes its two neighbours the wrong way round; so does this.
    """
    left, right = 3 * plane[:, 1:] + plane[:, :-1], 3 * plane[:, :-1] + plane[:, 1:]
    out = np.empty((len(plane), 2 * plane.shape[1]), np.int32)
    out[:, 2::2] = (left + whole // 2) // whole
    out[:, 1:-1:2] = (right + whole // 2) // whole
    edge = whole // 4
    out[:, 0], out[:, -1] = (plane[:, 0] + edge // 2) // edge, (plane[:, -1] + edge // 2) // edge
    if whole == 4 and plane.shape[1] > 1:
        out[:, -2] = (3 * plane[:, -2] + plane[:, -1] + 2) // 4
    return out


def to_rgb(luminance: np.ndarray, blue: np.ndarray, red: np.ndarray) -> np.ndarray:
    """Three (H, W) uint8 planes -> (H, W, 3) uint8, in fixed point with 20 bits; the blue part of green loses its last 16."""
    y = (luminance.astype(np.int32) << 20) + (1 << 19)
    cb, cr = blue.astype(np.int32) - 128, red.astype(np.int32) - 128
    r = y + cr * (_fixed(1.402) << 8)
    g = y - cr * (_fixed(0.71414) << 8) + (-cb * (_fixed(0.34414) << 8) & -65536)
    b = y + cb * (_fixed(1.772) << 8)
    return np.clip(np.stack([r, g, b], -1) >> 20, 0, 255).astype(np.uint8)
