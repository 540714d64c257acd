"""Checks of image files written by Pillow and OpenCV, most of them with one unusual property."""

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


def orientation_tag(tag: int) -> Image.Exif:
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


def test_each_unusual_property_is_noted_once(picture, tmp_path):
    for kind, (name, data) in odd_files(picture).items():
        (tmp_path / name).write_bytes(data)
        facts = image_checks.inspect(str(tmp_path / name))
        assert [noted_kind for noted_kind, _ in facts.notes] == [kind]
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


def test_16_bit_grey_has_both_notes(tmp_path):
    Image.fromarray(np.arange(4800, dtype=np.uint16).reshape(SIZE)).save(tmp_path / "a.png")
    notes = image_checks.inspect(str(tmp_path / "a.png")).notes
    assert [kind for kind, _ in notes] == ["grayscale", "16-bit"]


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}, {"comment": b"\xff\xd9 no end"}]
)
def test_trailing_bytes(picture, options):
    """Also in progressive JPEGs, with restart markers, and with an end marker inside a comment."""
    data = encoded(picture, **options)
    assert image_checks.trailing_bytes(data) == 0
    assert image_checks.trailing_bytes(data + b"\0" * 7) == 7
    assert image_checks.trailing_bytes(data + data) == len(data)
    assert image_checks.trailing_bytes(data[:-2]) == 0  # no end marker


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_image(picture):
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


def test_an_exception_in_a_decoder_becomes_a_fault_of_the_file(tmp_path, monkeypatch):
    def fail(path, max_pixels):
        raise SystemError("decoder bug")

    monkeypatch.setattr(image_checks, "read_image", fail)
    assert image_checks.inspect("a.jpg").fault == (
        "broken-image",
        "the image cannot be decoded (SystemError: decoder bug)",
    )


def test_truncated_jpegs_are_broken(picture, tmp_path):
    data = encoded(picture)
    path = tmp_path / "a.jpg"
    for end in range(0, len(data) - 2, 37):
        path.write_bytes(data[:end])
        assert image_checks.inspect(str(path)).fault[0] == "broken-image"


def test_the_digest_depends_on_the_pixels_only(picture, tmp_path):
    """Different files with the same pixels share it. A tall and a wide image of one colour do not."""
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


def findings_of(path, size: tuple[int, int]) -> dict[str, str]:
    split = split_of([[]], paths=[str(path)], size=size)
    findings = image_checks.image_findings([split], image_checks.inspect_all([str(path)], 0))
    return {finding.problem.kind: str(finding) for finding in findings}


def test_rotated_images(picture, tmp_path):
    """A warning if the annotation describes the stored pixels, an error if it describes the rotated image."""
    folder = tmp_path / "JPEGImages"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(encoded(picture, exif=orientation_tag(6)))
    assert list(findings_of(folder / "a.jpg", SIZE)) == ["rotated"]
    ((kind, line),) = findings_of(folder / "a.jpg", SIZE[::-1]).items()
    assert kind == "size-differs"
    assert line.startswith(f"train: {tmp_path}/Annotations/a.xml: the image is 80 x 60 (width x height), ")
    assert "60 x 80" in line
    assert line.endswith("the camera's orientation tag is 6")


def test_sizes_may_differ_by_rounding(picture, tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded(picture))
    assert findings_of(tmp_path / "a.jpg", (61, 79)) == {}
    assert list(findings_of(tmp_path / "a.jpg", (62, 80))) == ["size-differs"]


def test_a_file_in_two_splits_is_reported_once(picture, tmp_path):
    path = str(tmp_path / "a.jpg")
    splits = [split_of([[]], paths=[path], name=name) for name in ("train", "val")]
    findings = image_checks.image_findings(splits, image_checks.inspect_all([path, path], 0))
    assert [finding.split for finding in findings] == ["train"]


def test_results_do_not_depend_on_the_number_of_workers(picture, tmp_path):
    for n, (name, data) in enumerate(odd_files(picture).values()):
        (tmp_path / f"{n}{name}").write_bytes(data)
    paths = [*map(str, sorted(tmp_path.iterdir())), str(tmp_path / "none.jpg")]
    facts = image_checks.inspect_all(paths, 0)
    assert list(facts) == paths
    assert image_checks.inspect_all(paths, 1) == facts
    assert image_checks.inspect_all(paths, 2) == facts
