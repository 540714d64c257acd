"""The checksum of TensorBoard's records equals TensorBoard's own, whatever the length."""

import numpy as np
import pytest
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow as tensorboards

from detectors.training.crc32c import ROW, SHORT, long_crc32c, masked_crc32c

LENGTHS = (4, 5, ROW - 1, ROW, ROW + 1, 2 * ROW, 2 * ROW + 1, SHORT - 1, SHORT, 5 * ROW - 7, 50_001)


def test_a_known_value():
    """Of RFC 3720, B.4: 32 zeros, and 32 bytes of all ones."""
    assert long_crc32c(b"123456789") == 0xE3069283
    assert long_crc32c(bytes(32)) == 0x8A9136AA
    assert long_crc32c(b"\xff" * 32) == 0x62A8AB43


@pytest.mark.parametrize("length", LENGTHS)
def test_it_equals_tensorboards(length):
    content = np.random.default_rng(length).bytes(length)
    assert long_crc32c(content) == tensorboards.crc32c(content)
    assert masked_crc32c(content) == tensorboards.masked_crc32c(content)
    assert masked_crc32c(content[:3]) == tensorboards.masked_crc32c(content[:3])
