"""Decoding of every kind of file; a file that cannot be used is one error that names it and says why."""

from __future__ import annotations

import io
import os
import pickle
import struct

import cv2
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image, ImageFile

from detectors.config.check import check
from detectors.config.composing import composed
from detectors.data import images
from detectors.data.image_headers import ORIENTATION, header_size
from detectors.data.images import ImageError, ImageReader, check_size, divisor_for, read_image, read_reduced
from detectors.data.voc import read_voc
from detectors.training.assemble import eval_loader, train_loader
from detectors.training.ground_truth import read_annotations
from tests.data.files import box_xml, write_image, write_voc


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_grey_images_get_three_channels(tmp_path, suffix):
    grey = cv2.resize(np.random.default_rng(0).integers(0, 256, (4, 4), dtype=np.uint8), (30, 20))
    cv2.imwrite(str(tmp_path / f"grey{suffix}"), grey)
    image = read_image(str(tmp_path / f"grey{suffix}"))
    assert image.shape == (20, 30, 3) and image.dtype == np.uint8
    assert_array_equal(image[..., 0], image[..., 2])
    assert np.abs(image[..., 1].astype(int) - grey).max() <= 8


def test_transparent_and_16_bit_png(tmp_path):
    """Both become 8-bit RGB."""
    values = np.random.default_rng(0).integers(0, 256, (9, 11, 4), dtype=np.uint8)
    values[..., 3] = 255
    cv2.imwrite(str(tmp_path / "alpha.png"), values)
    assert_array_equal(read_image(str(tmp_path / "alpha.png")), values[..., 2::-1])
    cv2.imwrite(str(tmp_path / "deep.png"), values[..., :3].astype(np.uint16) * 256 + 7)
    assert_array_equal(read_image(str(tmp_path / "deep.png")), values[..., 2::-1])


def test_the_orientation_tag_is_ignored(tmp_path):
    """Boxes refer to the stored pixels, as <size> does in the annotations of such files."""
    write_image(tmp_path / "plain.jpg", (20, 30))
    data = (tmp_path / "plain.jpg").read_bytes()
    # Orientation 6: rotate by 90 degrees.
    tag = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    segment = b"\xff\xe1" + (len(tag) + 2).to_bytes(2, "big") + tag
    (tmp_path / "turned.jpg").write_bytes(data[:2] + segment + data[2:])
    assert_array_equal(read_image(str(tmp_path / "turned.jpg")), read_image(str(tmp_path / "plain.jpg")))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def smooth(mode: str = "RGB", size: tuple[int, int] = (40, 60)) -> Image.Image:
    """An image of slowly changing colour. size: (height, width)."""
    small = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(cv2.resize(small, size[::-1])).convert(mode)


@pytest.mark.parametrize(
    ("kind", "mode", "difference"),
    [
        ("JPEG", "RGB", 3),
        ("JPEG", "L", 3),
        ("JPEG", "CMYK", 4),
        ("PNG", "P", 0),
        ("PNG", "RGBA", 0),
        ("PNG", "LA", 0),
        ("PNG", "1", 0),
        ("GIF", "P", 0),
    ],
)
def test_every_kind_of_file_reads_as_pillow_reads_it(tmp_path, kind, mode, difference):
    """CMYK as Adobe's programs write it, palettes, one bit per pixel, transparency (opaque here)."""
    data = encoded(smooth(mode), kind)
    (tmp_path / "file").write_bytes(data)
    image = read_image(str(tmp_path / "file"))
    assert image.shape == (40, 60, 3) and image.dtype == np.uint8
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(image - expected).max() <= difference


def test_the_first_frame_of_an_animation_is_read(tmp_path):
    first = smooth("P")
    second = first.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    assert_array_equal(
        read_image(str(tmp_path / "a.gif")), np.asarray(Image.open(tmp_path / "a.gif").convert("RGB"))
    )


@pytest.mark.parametrize(
    ("content", "kind", "what"),
    [
        (None, "missing-image", "the image cannot be read (No such file or directory)"),
        ("folder", "broken-image", "the image cannot be read (it is a folder, not a file)"),
        (b"", "broken-image", "the image cannot be decoded (the file is empty)"),
        (b"not an image", "broken-image", "the image cannot be decoded (Unsupported image file"),
        (b"\xff\xd8\xff", "broken-image", "the image cannot be decoded ("),
        (b"\x89PNG\r\n\x1a\n", "broken-image", "the image cannot be decoded ("),
    ],
)
def test_the_error_names_the_file_and_the_reason(tmp_path, content, kind, what):
    path = tmp_path / "a.jpg"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        read_image(str(path))
    assert str(caught.value).startswith(f"{path}: {what}")
    error = pickle.loads(pickle.dumps(caught.value))  # errors of workers are pickled
    assert str(error) == str(caught.value)
    assert error.problem.kind == kind
    assert error.problem.file == str(path)
    assert str(error.problem) == str(caught.value)


@pytest.mark.parametrize(("kind", "keep"), [("JPEG", 0.6), ("JPEG", 0.99), ("PNG", 0.6), ("PNG", 0.97)])
def test_a_truncated_file_is_refused(tmp_path, kind, keep):
    data = encoded(smooth(size=(200, 300)), kind)
    (tmp_path / "file").write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ImageError, match="cannot be decoded"):
        read_image(str(tmp_path / "file"))
    if kind == "JPEG":
        with pytest.raises(ImageError, match="cannot be decoded"):
            read_reduced(str(tmp_path / "file"), 2)


def test_the_error_for_another_size_gives_both_sizes():
    check_size((61, 79), (60, 80), "a.jpg")  # rounding
    with pytest.raises(
        ImageError, match=r"a\.jpg: the image is 90 x 60 \(width x height\), its annotation says 80 x 60$"
    ) as caught:
        check_size((60, 90), (60, 80), "a.jpg")
    assert caught.value.problem.kind == "size-differs"
    with pytest.raises(ImageError, match="swapped"):
        check_size((80, 60), (60, 80), "a.jpg")


def test_divisors():
    """The largest divisor that leaves enough pixels, in height and in width."""
    size = (1200, 1600)
    assert divisor_for(size, (1200, 1)) == 1
    assert divisor_for(size, (601, 1)) == 1
    assert divisor_for(size, (600, 800)) == 2
    assert divisor_for(size, (600, 801)) == 1
    assert divisor_for(size, (300, 300)) == 4
    assert divisor_for(size, (151, 1)) == 4
    assert divisor_for(size, (150, 200)) == 8
    assert divisor_for((9000, 9000), (1, 1)) == 8
    assert divisor_for(size, (float("inf"), float("inf"))) == 1


@pytest.mark.parametrize("divisor", [2, 4, 8])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_reduced_image_is_the_mean_of_squares(tmp_path, divisor, mode):
    """Against a plain loop: pixel (i, j) covers the square of the whole image from (i, j) * divisor on."""
    (tmp_path / "a.jpg").write_bytes(encoded(smooth(mode, (203, 301)), "JPEG", quality=95))
    whole = read_image(str(tmp_path / "a.jpg")).astype(float)
    decoded = read_reduced(str(tmp_path / "a.jpg"), divisor)
    assert (decoded.divisor, decoded.size_original) == (divisor, (203, 301))
    rows = -(-203 // divisor)
    columns = -(-301 // divisor)
    assert decoded.image.shape == (rows, columns, 3)
    expected = np.zeros((rows, columns, 3))
    for i in range(rows):
        for j in range(columns):
            square = whole[i * divisor : (i + 1) * divisor, j * divisor : (j + 1) * divisor]
            expected[i, j] = square.mean((0, 1))
    # The last row and column reach over the edge.
    assert_allclose(decoded.image[:-1, :-1], expected[:-1, :-1], atol=4)
    difference = np.abs(decoded.image - expected)[:-1, 1:-1].mean()
    shifted_difference = np.abs(decoded.image - np.roll(expected, 1, axis=1))[:-1, 1:-1].mean()
    assert difference < 0.5 * shifted_difference


def test_only_grey_and_rgb_jpeg_can_be_reduced(tmp_path):
    for kind, mode in (("PNG", "RGB"), ("JPEG", "CMYK"), ("GIF", "P")):
        (tmp_path / "file").write_bytes(encoded(smooth(mode), kind))
        assert read_reduced(str(tmp_path / "file"), 2) is None


def test_the_reader_keeps_the_wanted_size(tmp_path):
    root = write_voc(tmp_path, {"a": box_xml("cat", 1, 1, 50, 50)}, size=(120, 200))
    annotations = read_voc(root=root, image_sets=["train"])
    whole = ImageReader(annotations)
    reduced = ImageReader(annotations, reduced=True)
    for wanted, divisor in ((None, 1), ((61, 10), 1), ((60, 100), 2), ((30, 50), 4), ((1, 1), 8)):
        decoded = reduced.read(0, wanted)
        assert (decoded.divisor, decoded.size_original) == (divisor, (120, 200))
        assert decoded.image.shape[:2] == (120 // divisor, 200 // divisor)
        assert whole.read(0, wanted).divisor == 1
    write_image(root / "JPEGImages/a.jpg", (120, 230))
    for reader in (whole, reduced):
        with pytest.raises(ImageError, match="the image is 230 x 120"):
            reader.read(0, (10, 10))


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("BMP", "RGB", {}),
        ("BMP", "L", {}),
        ("TIFF", "RGB", {}),
        ("TIFF", "CMYK", {}),
        ("TIFF", "RGBA", {"compression": "tiff_lzw"}),
        ("TIFF", "1", {"compression": "group4"}),
        ("WEBP", "RGB", {}),
    ],
)
def test_formats_that_pillow_decodes(tmp_path, kind, mode, options):
    data = encoded(smooth(mode), kind, **options)
    (tmp_path / "file").write_bytes(data)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert_array_equal(read_image(str(tmp_path / "file")), expected)
    assert header_size(tmp_path / "file") == (40, 60)
    (tmp_path / "file").write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match="cannot be decoded"):
        read_image(str(tmp_path / "file"))


def test_tiff_with_16_or_32_bits_and_as_stored(tmp_path):
    """The upper 8 bits, as of PNG; numbers without a range are refused; the orientation tag is ignored."""
    deep = np.arange(12 * 20, dtype=np.uint16).reshape(12, 20) * 257
    for order in ("<", ">"):
        Image.fromarray(deep.astype(f"{order}u2")).save(tmp_path / "deep.tif")
        assert_array_equal(read_image(str(tmp_path / "deep.tif")), (deep >> 8)[..., None].repeat(3, 2))
    Image.fromarray(deep.astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ImageError, match=r"its pixels are 32-bit numbers; save it with 8 bits per channel"):
        read_image(str(tmp_path / "float.tif"))
    smooth().save(tmp_path / "turned.tif", tiffinfo={ORIENTATION: 6})
    assert header_size(tmp_path / "turned.tif") == (40, 60)
    assert_array_equal(read_image(str(tmp_path / "turned.tif")), np.asarray(smooth()))


KINDS_OF_FILES = [
    ("JPEG", "RGB", {}),
    ("JPEG", "L", {"progressive": True}),
    ("JPEG", "RGB", {"exif": b"Exif\0\0" + bytes(60000), "comment": b"\xff\xc0" * 30000}),
    ("PNG", "RGB", {}),
    ("BMP", "RGB", {}),
    ("TIFF", "L", {}),
    ("GIF", "P", {}),
    ("WEBP", "RGB", {}),
]


@pytest.mark.parametrize(("kind", "mode", "options"), KINDS_OF_FILES)
def test_the_header_has_the_size(tmp_path, kind, mode, options, monkeypatch):
    """An image with more than max_pixels is refused before any decoder sees it."""
    path = tmp_path / "file"
    monkeypatch.setattr(ImageFile, "MAXBLOCK", 1 << 18)  # older Pillow has no room for a long comment
    path.write_bytes(encoded(smooth(mode, (41, 67)), kind, **options))
    assert header_size(path) == (41, 67)
    assert read_image(str(path), 41 * 67).shape == (41, 67, 3)
    for name in ("decode_image", "pillow_reader"):
        monkeypatch.setattr(images, name, None)
    monkeypatch.setattr(images.Image, "open", None)
    for read in (
        lambda: read_image(str(path), 41 * 67 - 1),
        lambda: read_reduced(str(path), 2, 41 * 67 - 1),
    ):
        with pytest.raises(ImageError) as caught:
            read()
        assert str(caught.value) == f"{path}: the image has 67 x 41 pixels, more than data.max_pixels=2746"
        assert caught.value.problem.kind == "too-large"


def bomb(kind: str, side: int) -> bytes:
    """A small file whose header states side x side pixels."""
    data = bytearray(encoded(smooth(), kind))
    if kind == "PNG":
        data[16:24] = struct.pack(">2I", side, side)
    else:
        place = data.index(b"\xff\xc0") + 5
        data[place : place + 4] = struct.pack(">2H", side, side)
    return bytes(data)


@pytest.mark.parametrize(("kind", "side"), [("PNG", 13378), ("PNG", 2**31 - 1), ("JPEG", 65000)])
def test_the_default_limit_refuses_bombs(tmp_path, kind, side):
    (tmp_path / "file").write_bytes(bomb(kind, side))
    with pytest.raises(
        ImageError, match=rf"has {side} x {side} pixels, more than data.max_pixels=178956970$"
    ):
        read_image(str(tmp_path / "file"))
    assert header_size(tmp_path / "file") == (side, side)


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xd9", b"\xff\xd8\xff\xc0\0", b"\x89PNG\r\n\x1a\n", b"BM", b"II"]
)
def test_a_header_without_size_is_an_error(tmp_path, data):
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(ValueError, match=r"the image cannot be opened \(its header states no size\)"):
        header_size(tmp_path / "file")


@pytest.mark.parametrize("reduced", [False, True])
def test_data_max_pixels_is_that_of_the_loaders(tmp_path, reduced):
    root = write_voc(tmp_path, {"a": box_xml("cat", 1, 1, 5, 5)}, size=(60, 80))
    settings = [
        "data=voc",
        f"data.root={root}",
        f"data.reduced_decode={reduced}",
        "data.max_pixels=4799",
        "data.class_names=[cat]",
    ]
    config = check(composed([*settings, f"paths.cache={tmp_path / 'cache'}"]))
    annotations = read_annotations(config.data, "train")
    loaders = [
        train_loader(config, annotations, start_step=0),
        eval_loader(config, annotations, batch_size=1),
    ]
    for loader in loaders:
        with pytest.raises(ImageError, match=r"a\.jpg: the image has 80 x 60 pixels, more than data"):
            next(iter(loader))


def test_special_files_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path, reason in {tmp_path / "fifo": "a FIFO", "/dev/zero": "a device", tmp_path: "a folder"}.items():
        for read in (read_image, lambda path: read_reduced(path, 2)):
            with pytest.raises(ImageError) as caught:
                read(str(path))
            assert str(caught.value) == f"{path}: the image cannot be read (it is {reason}, not a file)"
        with pytest.raises(ValueError, match=f"it is {reason}, not a file"):
            header_size(path)


@pytest.mark.data
def test_real_broken_and_unusual_files(shared):
    """A truncated JPEG is refused; zero padding after the end, grey and unannotated images are accepted."""
    folder = shared / "bad-input/images"
    for read in (read_image, lambda path: read_reduced(path, 2)):
        with pytest.raises(ImageError, match=r"kangaroo_00090_truncated\.jpg: .*truncated"):
            read(str(folder / "kangaroo_00090_truncated.jpg"))
    assert read_image(str(folder / "kangaroo_00053_zero_padded_524288.jpg")).shape == (655, 1000, 3)
    assert read_reduced(str(folder / "kangaroo_00053_zero_padded_524288.jpg"), 2).image.shape == (328, 500, 3)
    for name in ("raccoon-150", "raccoon-152", "raccoon-161", "coco_000000000086_grayscale"):
        path = str(folder / f"{name}.jpg")
        for image in (read_image(path), read_reduced(path, 4).image):
            assert image.shape[2] == 3 and (image[..., 0] == image[..., 1]).all()
    assert read_image(str(folder / "coco_000000226111_no_annotations.jpg")).shape == (640, 480, 3)
    for name in ("BloodImage_00338", "BloodImage_00343"):
        assert read_image(str(folder / f"{name}.jpg")).shape == (480, 640, 3)
