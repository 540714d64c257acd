"""The checksum of TensorBoard's records, CRC-32C, for long contents: TensorBoard's own takes a step of Python
for each byte.

A CRC that starts from 0 is linear. Zeros before a content do not change it, N zeros after it map it by a
matrix over bits. So the content is cut into rows of ROW bytes, all rows take their steps together, and
neighbours are joined: crc(left + right) = zeros(crc(left), len(right)) ^ crc(right).
"""

from __future__ import annotations

from functools import cache

import numpy as np
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow as tensorboards

ROW = 64  # bytes
SHORT = 2048  # bytes: fewer take TensorBoard's way
POLYNOMIAL = np.uint32(0x82F63B78)  # Castagnoli's, the lowest bit first
MASK_DELTA = 0xA282EAD8


def masked_crc32c(content: bytes) -> int:
    """As the records hold it: rotated by 15 bits, plus a constant."""
    crc = tensorboards.crc32c(content) if len(content) < SHORT else long_crc32c(content)
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF


def long_crc32c(content: bytes) -> int:
    """Of at least four bytes. Equals TensorBoard's (tests/training/test_crc32c.py)."""
    levels = ((len(content) - 1) // ROW).bit_length()
    padded = np.zeros(ROW << levels, np.uint8)
    first = padded.size - len(content)
    padded[first:] = np.frombuffer(content, np.uint8)
    padded[first : first + 4] ^= 0xFF  # the same as to start from all ones
    crcs = np.zeros(1 << levels, np.uint32)
    for column in np.ascontiguousarray(padded.reshape(-1, ROW).T):
        crcs = _after_byte(crcs ^ column)
    for level in range(levels):
        crcs = _mapped(_zeros(level), crcs[::2]) ^ crcs[1::2]
    return int(crcs[0]) ^ 0xFFFFFFFF


def _after_byte(crcs: np.ndarray) -> np.ndarray:
    return _byte_table()[crcs & 255] ^ crcs >> np.uint32(8)


@cache
def _byte_table() -> np.ndarray:
    """(256,) uint32: eight steps of a bit for each lowest byte."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ POLYNOMIAL, table >> 1)
    return table


@cache
def _zeros(level: int) -> np.ndarray:
    """(4, 256) uint32: what ROW * 2^level zeros make of each value of each of the four bytes of a CRC."""
    if level:
        half = _zeros(level - 1)
        return _mapped(half, half)
    places = 8 * np.arange(4, dtype=np.uint32)
    values = np.arange(256, dtype=np.uint32) << places[:, None]
    for _ in range(ROW):
        values = _after_byte(values)
    return values


def _mapped(tables: np.ndarray, crcs: np.ndarray) -> np.ndarray:
    """Each CRC through the tables of its four bytes."""
    return np.bitwise_xor.reduce([tables[byte][crcs >> np.uint32(8 * byte) & 255] for byte in range(4)])
