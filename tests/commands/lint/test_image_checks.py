"""Files that Pillow and OpenCV wrote, with one oddity each; what follows a JPEG against where Pillow's own writer stopped."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from detectors.commands.lint import image_checks
from tests.commands.lint.sets import split_of

SIZE = (60, 80)  # (height, width)


@pytest.fixture
def picture() -> Image.Image:
    """Smooth noise, so that a JPEG has entropy-coded bytes with stuffing."""
    small = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(cv2.resize(small, SIZE[::-1]))


def encoded(image: Image.Image, form: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def turned(tag: int) -> Image.Exif:
    exif = Image.Exif()
    exif[image_checks.ORIENTATION] = tag
    return exif


def odd_files(picture: Image.Image) -> dict[str, tuple[str, bytes]]:
    """Kind -> (file name, bytes)"""
    deep = (np.asarray(picture).astype(np.uint16) * 257)[..., ::-1]
    return {
        "grayscale": ("gray.jpg", encoded(picture.convert("L"))),
        "cmyk": ("inks.jpg", encoded(picture.convert("CMYK"))),
        "16-bit": ("deep.png", cv2.imencode(".png", deep)[1].tobytes()),
        "transparent": ("clear.png", encoded(picture.convert("P"), "PNG", transparency=3)),
        "trailing-bytes": ("padded.jpg", encoded(picture) + b"\0" * 500),
    }


def test_each_oddity_is_noted_once(picture, tmp_path):
    for kind, (name, data) in odd_files(picture).items():
        (tmp_path / name).write_bytes(data)
        facts = image_checks.inspect(str(tmp_path / name))
        assert [noted for noted, _ in facts.notes] == [kind]
        assert facts.size == SIZE
        assert facts.fault is None


@pytest.mark.parametrize(("form", "mode"), [("JPEG", "RGB"), ("PNG", "RGB"), ("PNG", "P"), ("WEBP", "RGB")])
def test_plain_files_have_no_notes(picture, tmp_path, form, mode):
    (tmp_path / "plain").write_bytes(encoded(picture.convert(mode), form))
    assert image_checks.inspect(str(tmp_path / "plain"))[:4] == (SIZE, None, (), 1)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_an_alpha_channel_is_noted(picture, tmp_path, mode):
    (tmp_path / "a.png").write_bytes(encoded(picture.convert(mode), "PNG"))
    assert "transparent" in dict(image_checks.inspect(str(tmp_path / "a.png")).notes)


def test_16_bit_gray_is_both(tmp_path):
    Image.fromarray(np.arange(4800, dtype=np.uint16).reshape(SIZE)).save(tmp_path / "a.png")
    assert [kind for kind, _ in image_checks.inspect(str(tmp_path / "a.png")).notes] == [
        "grayscale",
        "16-bit",
    ]


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}, {"comment": b"\xff\xd9 no end"}]
)
def test_trailing_bytes(picture, options):
    """Also after the end of a scan of many, restart markers, and a comment that holds an end of image."""
    data = encoded(picture, **options)
    assert image_checks.trailing_bytes(data) == 0
    assert image_checks.trailing_bytes(data + b"\0" * 7) == 7
    assert image_checks.trailing_bytes(data + data) == len(data)
    assert image_checks.trailing_bytes(data[:-2]) == 0  # no end at all


def test_a_thumbnails_end_is_not_the_images(picture):
    data = encoded(picture)
    thumbnail = encoded(picture.resize((8, 6)))
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    assert image_checks.trailing_bytes(data[:2] + segment + data[2:]) == 0


def test_other_files_have_no_trailing_bytes(picture):
    assert image_checks.trailing_bytes(encoded(picture, "PNG") + b"\0" * 7) == 0
    assert image_checks.trailing_bytes(b"") == 0


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (None, "missing-image"),
        (b"", "broken-image"),
        (b"no image", "broken-image"),
        (b"\xff\xd8\xff", "broken-image"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, data, kind):
    path = tmp_path / "a.jpg"
    if data is not None:
        path.write_bytes(data)
    facts = image_checks.inspect(str(path))
    assert facts.size is None
    assert facts.fault[0] == kind
    assert str(path) not in facts.fault[1]


def test_a_fault_inside_of_the_decoder_is_the_files(tmp_path, monkeypatch):
    def fail(path):
        raise SystemError("a decoder's own")

    monkeypatch.setattr(image_checks, "read_image", fail)
    assert image_checks.inspect("a.jpg").fault == (
        "broken-image",
        "the image cannot be decoded (SystemError: a decoder's own)",
    )


def test_every_cut_of_a_jpeg_is_survived(picture, tmp_path):
    data, path = encoded(picture), tmp_path / "a.jpg"
    for end in range(0, len(data) - 2, 37):
        path.write_bytes(data[:end])
        assert image_checks.inspect(str(path)).fault[0] == "broken-image"


def test_the_digest_is_of_the_pixels(picture, tmp_path):
    """Two files that differ and hold the same pixels have one; a tall and a wide image of one colour do not."""
    picture.save(tmp_path / "a.png", compress_level=1)
    picture.save(tmp_path / "b.png", compress_level=9)
    Image.new("RGB", (8, 4)).save(tmp_path / "wide.png")
    Image.new("RGB", (4, 8)).save(tmp_path / "tall.png")
    a, b, wide, tall = (
        image_checks.inspect(str(tmp_path / f"{name}.png")) for name in ("a", "b", "wide", "tall")
    )
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()
    assert a.digest == b.digest
    assert wide.digest != tall.digest


def kinds_of(path, size: tuple[int, int]) -> dict[str, str]:
    split = split_of([[]], paths=[str(path)], size=size)
    found = image_checks.image_findings([split], image_checks.inspect_all([str(path)], 0))
    return {finding.problem.kind: str(finding) for finding in found}


def test_turned_images(picture, tmp_path):
    """Stored pixels are used: a warning where the annotation is about them, an error where it is about the image turned upright."""
    folder = tmp_path / "JPEGImages"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(encoded(picture, exif=turned(6)))
    assert list(kinds_of(folder / "a.jpg", SIZE)) == ["rotated"]
    (told,) = kinds_of(folder / "a.jpg", SIZE[::-1]).items()
    assert told[0] == "size-differs"
    assert told[1].startswith(
        f"train: {tmp_path}/Annotations/a.xml: the image is 80 x 60 (width x height), its annotation says 60 x 80"
    )
    assert told[1].endswith("the camera's orientation tag says 6")


def test_sizes_may_differ_by_rounding(picture, tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded(picture))
    assert kinds_of(tmp_path / "a.jpg", (61, 79)) == {}
    assert list(kinds_of(tmp_path / "a.jpg", (62, 80))) == ["size-differs"]


def test_a_file_in_two_splits_is_told_once(picture, tmp_path):
    path = str(tmp_path / "a.jpg")
    splits = [split_of([[]], paths=[path], name=name) for name in ("train", "val")]
    assert [
        finding.split
        for finding in image_checks.image_findings(splits, image_checks.inspect_all([path, path], 0))
    ] == ["train"]


def test_workers_give_the_same(picture, tmp_path):
    for n, (name, data) in enumerate(odd_files(picture).values()):
        (tmp_path / f"{n}{name}").write_bytes(data)
    paths = [*map(str, sorted(tmp_path.iterdir())), str(tmp_path / "none.jpg")]
    alone = image_checks.inspect_all(paths, 0)
    assert list(alone) == paths
    assert image_checks.inspect_all(paths, 1) == alone
    assert image_checks.inspect_all(paths, 2) == alone
