"""Darknet's resizing against recorded images, and the inverse of the letterbox."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from detectors.darknet.framing import darknet_letterbox, darknet_resize, frame, letterbox_size, to_unit


@pytest.mark.parametrize("case", ["letterbox0", "letterbox1", "letterbox2", "resize0", "resize1"])
def test_images_equal_darknets(case, fixtures):
    recorded = np.load(fixtures / "darknet/ops.npz")
    expected = recorded[f"{case}/output"]
    resize = darknet_letterbox if case.startswith("letterbox") else darknet_resize
    resized = resize(recorded[f"{case}/input"], expected.shape[1:])
    assert_allclose(resized, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("source", "target"),
    [((7, 5), (3, 9)), ((4, 1), (2, 3)), ((1, 4), (3, 2)), ((5, 6), (1, 1)), ((3, 8), (42, 8))],
)
def test_resize_equals_darknets_loops(source, target):
    """src/image.c, resize_image, one row and one column at a time.

    3 rows to 42: rounding puts the last row just above the image's last row.
    """
    image = np.random.default_rng(0).random((2, *source), dtype=np.float32)
    height, width = source
    rows, columns = target
    one = np.float32(1)
    wide = np.empty((2, height, columns), np.float32)
    for c in range(columns):
        position = np.float32(c) * (np.float32(width - 1) / np.float32(max(columns - 1, 1)))
        left = int(position)
        weight = position - np.float32(left)
        if c == columns - 1 or width == 1:
            wide[:, :, c] = image[:, :, -1]
        else:
            wide[:, :, c] = (one - weight) * image[:, :, left] + weight * image[:, :, left + 1]
    expected = np.empty((2, *target), np.float32)
    for r in range(rows):
        position = np.float32(r) * (np.float32(height - 1) / np.float32(max(rows - 1, 1)))
        above = int(position)
        weight = position - np.float32(above)
        expected[:, r] = (one - weight) * wide[:, above]
        if r < rows - 1 and height > 1:
            expected[:, r] += weight * wide[:, above + 1]
    assert_array_equal(darknet_resize(image, target), expected)


def test_to_unit_scales_bytes_to_0_1():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3) * 20
    assert_array_equal(to_unit(image), (image.transpose(2, 0, 1) / 255).astype(np.float32))
    assert to_unit(image).dtype == np.float32


@pytest.mark.parametrize(
    ("image_size", "net_size", "inner_size"),
    [((576, 768), (224, 224), (168, 224)), ((500, 353), (64, 96), (64, 45)), ((10, 10), (96, 64), (64, 64))],
)
def test_scale_and_shift_of_letterbox_and_stretch(image_size, net_size, inner_size):
    """The shift is exactly half of the free space, even where the image is placed half a pixel beside it."""
    height, width = image_size
    net_height, net_width = net_size
    inner_height, inner_width = inner_size
    assert letterbox_size(image_size, net_size) == inner_size
    letterboxed = frame(image_size, net_size, "letterbox")
    assert letterboxed.shift_xy == ((net_width - inner_width) / 2, (net_height - inner_height) / 2)
    assert letterboxed.scale_xy == (inner_width / width, inner_height / height)
    stretched = frame(image_size, net_size, "stretch")
    assert stretched.shift_xy == (0.0, 0.0)
    assert stretched.scale_xy == (net_width / width, net_height / height)


def test_an_image_too_narrow_for_its_letterbox_is_refused():
    with pytest.raises(
        ValueError, match="an image of 1000 x 2 pixels has no room in a letterbox of 224 x 224"
    ):
        darknet_letterbox(np.zeros((3, 2, 1000), np.float32), (224, 224))
