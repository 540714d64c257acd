"""Darknet's resizing against its recorded images, and the way back from the letterbox."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from detectors.darknet.framing import darknet_letterbox, darknet_resize, frame, letterbox_size, to_unit


@pytest.mark.parametrize("case", ["letterbox0", "letterbox1", "letterbox2", "resize0", "resize1"])
def test_images_equal_darknets(case, fixtures):
    recorded = np.load(fixtures / "darknet/ops.npz")
    given, expected = recorded[f"{case}/input"], recorded[f"{case}/output"]
    ours = (darknet_letterbox if case.startswith("letterbox") else darknet_resize)(given, expected.shape[1:])
    assert_allclose(ours, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("source", "target"),
    [((7, 5), (3, 9)), ((4, 1), (2, 3)), ((1, 4), (3, 2)), ((5, 6), (1, 1)), ((3, 8), (42, 8))],
)
def test_resize_equals_darknets_loops(source, target):
    """src/image.c, resize_image, one pixel at a time. 3 rows to 42: rounding puts the last one above the image's last row."""
    image = np.random.default_rng(0).random((2, *source), dtype=np.float32)
    (height, width), (rows, columns), one = source, target, np.float32(1)
    wide, expected = np.empty((2, height, columns), np.float32), np.empty((2, *target), np.float32)
    for c in range(columns):
        place = np.float32(c) * (np.float32(width - 1) / np.float32(max(columns - 1, 1)))
        left = int(place)
        part = place - np.float32(left)
        last = c == columns - 1 or width == 1
        wide[:, :, c] = (
            image[:, :, -1] if last else (one - part) * image[:, :, left] + part * image[:, :, left + 1]
        )
    for r in range(rows):
        place = np.float32(r) * (np.float32(height - 1) / np.float32(max(rows - 1, 1)))
        above = int(place)
        part = place - np.float32(above)
        expected[:, r] = (one - part) * wide[:, above]
        if r < rows - 1 and height > 1:
            expected[:, r] += part * wide[:, above + 1]
    assert_array_equal(darknet_resize(image, target), expected)


def test_bytes_become_parts_of_one():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3) * 20
    assert_array_equal(to_unit(image), (image.transpose(2, 0, 1) / 255).astype(np.float32))
    assert to_unit(image).dtype == np.float32


@pytest.mark.parametrize(
    ("image", "net", "inside"),
    [((576, 768), (224, 224), (168, 224)), ((500, 353), (64, 96), (64, 45)), ((10, 10), (96, 64), (64, 64))],
)
def test_letterbox_sizes_and_the_way_back(image, net, inside):
    """correct_region_boxes takes the exact half of the free space, also where the image lies half a pixel beside it."""
    assert letterbox_size(image, net) == inside
    info = frame(image, net, "letterbox")
    assert info.shift_xy == ((net[1] - inside[1]) / 2, (net[0] - inside[0]) / 2)
    assert info.scale_xy == (inside[1] / image[1], inside[0] / image[0])
    stretched = frame(image, net, "stretch")
    assert (stretched.shift_xy, stretched.scale_xy) == ((0.0, 0.0), (net[1] / image[1], net[0] / image[0]))


def test_an_image_too_narrow_for_its_letterbox():
    with pytest.raises(
        ValueError, match="an image of 1000 x 2 pixels has no room in a letterbox of 224 x 224"
    ):
        darknet_letterbox(np.zeros((3, 2, 1000), np.float32), (224, 224))
