"""Darknet's JPEG decoder against a photo decoded by Darknet, loops over stb_image's formulas, and libjpeg."""

from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from detectors.darknet.framing import darknet_resize, to_unit
from detectors.darknet.jpeg import ZIGZAG, UnsupportedJpeg, decode
from detectors.darknet.jpeg_pixels import enlarge, inverse_transform, to_rgb


def picture(height: int, width: int) -> np.ndarray:
    """Slow waves in three colours, and some noise."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 11)], -1)
    noise = np.random.default_rng(0).normal(0, 6, (height, width, 3))
    return np.clip(128 + 90 * waves + noise, 0, 255).astype(np.uint8)


def encode(image: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "jpeg", **options)
    return file.getvalue()


@pytest.mark.data
def test_a_photograph_is_decoded_as_darknet_does(shared):
    """Bit for bit, every pixel that the stretching resize reads: nearly half of dog.jpg."""
    folder = shared / "weights/yolo-lite/oracle"
    image = decode((folder / "dog.jpg").read_bytes())
    recorded = np.load(folder / "darknet_dog_224.npz")
    assert_array_equal(darknet_resize(to_unit(image), (224, 224)), recorded["x__resize"])


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("size", [(48, 64), (37, 53), (8, 8), (5, 17), (1, 1), (17, 6)])
@pytest.mark.parametrize(
    "options", [{}, {"optimize": True}, {"restart_marker_blocks": 2}, {"quality": 98}], ids=str
)
def test_close_to_libjpeg(subsampling, size, options):
    """Both round, so they may differ by three levels.

    The last two columns of 4:2:2, where stb_image swaps two weights, are left out; see
    test_enlarge_equals_the_loops.

    """

    data = encode(picture(*size), subsampling=subsampling, **options)
    expected = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    decoded = decode(data)
    assert decoded.shape == expected.shape
    columns = slice(0, -2 if subsampling == "4:2:2" and size[1] > 1 else None)
    assert np.abs(decoded.astype(int) - expected)[:, columns].max() <= 3


def test_grey_images_with_and_without_restart_markers():
    grey = picture(21, 30)[..., 0]
    for options in ({}, {"restart_marker_blocks": 3}):
        data = encode(grey, **options)
        decoded = decode(data)
        expected = np.array(Image.open(io.BytesIO(data)))[..., None]
        assert np.abs(decoded.astype(int) - expected).max() <= 1
        assert_array_equal(decoded[..., 0], decoded[..., 2])


def test_zigzag():
    expected = [0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5]
    assert ZIGZAG[:16].tolist() == expected
    assert (63 - ZIGZAG[::-1])[:16].tolist() == expected  # the same from the end backwards
    assert sorted(ZIGZAG.tolist()) == list(range(64))


def test_inverse_transform_is_the_cosine_transform():
    coefficients = np.random.default_rng(1).integers(-120, 120, (50, 8, 8))
    k, n = np.mgrid[:8, :8]
    basis = (
        np.cos((2 * n + 1) * k * np.pi / 16) * np.where(k == 0, np.sqrt(0.5), 1) / 2
    )  # (frequency, position)
    exact = np.clip(np.einsum("bij,iy,jx->byx", coefficients, basis, basis) + 128, 0, 255)
    pixels = inverse_transform(coefficients.astype(np.int32))
    assert np.abs(pixels - exact).max() < 0.6  # 0.5 for rounding, the rest for fixed point


def double_rows(row: list[int]) -> list[int]:
    """stbi__resample_row_h_2"""
    if len(row) == 1:
        return row * 2
    out = [row[0], (3 * row[0] + row[1] + 2) >> 2]
    for i in range(1, len(row) - 1):
        out += [(3 * row[i] + 2 + row[i - 1]) >> 2, (3 * row[i] + 2 + row[i + 1]) >> 2]
    return [*out, (3 * row[-2] + row[-1] + 2) >> 2, row[-1]]


def double_both(near: list[int], far: list[int]) -> list[int]:
    """stbi__resample_row_hv_2"""
    sums = [3 * a + b for a, b in zip(near, far, strict=True)]
    out = [(sums[0] + 2) >> 2]
    for before, this in pairwise(sums):
        out += [(3 * before + this + 8) >> 4, (3 * this + before + 8) >> 4]
    return [*out, (sums[-1] + 2) >> 2]


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (4, 1), (3, 6), (7, 2)])
def test_enlarge_equals_the_loops(shape):
    height, width = shape
    plane = np.random.default_rng(2).integers(0, 256, shape).astype(np.uint8)
    rows = plane.tolist()
    pairs = []  # nearest row and second nearest, for each output row
    for r in range(2 * height):
        neighbour = r // 2 + (1 if r % 2 else -1)
        pairs.append((rows[r // 2], rows[min(max(neighbour, 0), height - 1)]))
    assert_array_equal(enlarge(plane, (height, 2 * width), (1, 2)), [double_rows(row) for row in rows])
    assert_array_equal(
        enlarge(plane, (2 * height, 2 * width), (2, 2)), [double_both(*pair) for pair in pairs]
    )
    mixed = [[(3 * a + b + 2) >> 2 for a, b in zip(*pair, strict=True)] for pair in pairs]
    assert_array_equal(enlarge(plane, (2 * height, width), (2, 1)), mixed)
    assert_array_equal(enlarge(plane, (3 * height, width), (3, 1)), plane.repeat(3, 0))
    assert enlarge(plane, (2 * height - 1, 2 * width - 1), (2, 2)).shape == (2 * height - 1, 2 * width - 1)


def test_colours():
    """Black, grey, white and the JFIF standard's full red, all exact."""
    y = np.array([[0, 128, 255, 76]], np.uint8)
    cb = np.array([[128, 128, 128, 85]], np.uint8)
    cr = np.array([[128, 128, 128, 255]], np.uint8)
    assert to_rgb(y, cb, cr)[0].tolist() == [[0, 0, 0], [128, 128, 128], [255, 255, 255], [254, 0, 0]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a JPEG file"),
        (b"\x89PNG", "not a JPEG file"),
        (encode(picture(16, 16), progressive=True), "not sequential"),
        (encode(picture(16, 16))[:300], "damaged"),
        (encode(picture(64, 64))[:-400], "a code that no table has|damaged"),
        (
            encode(picture(16, 16)).replace(b"\x11\x08\x00\x10\x00\x10", b"\x11\x08\xff\xff\xff\xff"),
            "65535 x 65535 pixels",
        ),
        (
            encode(picture(16, 16), subsampling="4:4:4").replace(b"\x03\x01\x11", b"\x03\x01\x51", 1),
            "sampling factors outside 1 to 4",
        ),
        (
            encode(picture(16, 16), subsampling="4:4:4").replace(
                b"\x03\x01\x11\x00\x02\x11", b"\x03\x01\x31\x00\x02\x21", 1
            ),
            "sampling factors that do not divide one another",
        ),
    ],
    ids=["empty", "png", "progressive", "truncated table", "truncated scan", "huge", "5 across", "3 and 2"],
)
def test_other_files_are_unsupported(data, message):
    with pytest.raises(UnsupportedJpeg, match=message):
        decode(data)


def test_damaged_bytes_never_crash():
    """For any bytes, the result is an image or UnsupportedJpeg."""
    data = encode(picture(24, 40), restart_marker_blocks=1)
    rng = np.random.default_rng(3)
    refused = 0
    for _ in range(300):
        damaged = bytearray(data)
        for position in rng.integers(2, len(data), rng.integers(1, 6)):
            damaged[position] = rng.integers(256)
        length = rng.integers(len(data) // 2, len(data) + 1)
        try:
            assert decode(bytes(damaged[:length])).dtype == np.uint8
        except UnsupportedJpeg:
            refused += 1
    assert refused > 100
