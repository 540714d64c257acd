"""Arbitrary bytes and boxes.

An image is read, or refused with an error that names it. No augmentation yields a box that a loss cannot use.
"""

from __future__ import annotations

import io
import math
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from detectors.annotations import Annotations
from detectors.config.build import build
from detectors.config.schema import CONF
from detectors.data.augment.mixing import Mixing
from detectors.data.augment.transforms import Transform, build_transform
from detectors.data.dataset import DetectionDataset
from detectors.data.images import ImageError, ImageReader, read_image, read_reduced
from detectors.data.sampling import Key
from tests.test_configs import checked

FOR_CLASSIFIERS = {"darknet_classifier", "digits", "small_images"}
AUGMENTATIONS = sorted({path.stem for path in (CONF / "augment").glob("*.yaml")} - FOR_CLASSIFIERS)
RESIZE = {"ssd": "stretch", "darknet_2016": "stretch"}
QUIET = {
    "deadline": 5000,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    "derandomize": True,
}
HEIGHT = 37
WIDTH = 53


@cache
def originals() -> list[bytes]:
    """Small JPEG and PNG files of several kinds."""
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8))
    image = small.resize((WIDTH, HEIGHT))
    contents = []
    for mode, kind, options in (
        ("RGB", "JPEG", {}),
        ("RGB", "JPEG", {"progressive": True, "subsampling": 0}),
        ("L", "JPEG", {}),
        ("CMYK", "JPEG", {}),
        ("RGB", "PNG", {}),
        ("P", "PNG", {}),
        ("RGBA", "PNG", {}),
        ("I;16", "PNG", {}),
        ("P", "GIF", {}),
        ("RGB", "WEBP", {}),
    ):
        stream = io.BytesIO()
        source = image.convert("L").convert("I") if mode == "I;16" else image
        source.convert(mode).save(stream, kind, **options)
        contents.append(stream.getvalue())
    return contents


@st.composite
def files(draw) -> bytes:
    """A file with some bytes changed, removed, inserted or cut off; or random bytes after a valid start."""
    data = bytearray(originals()[draw(st.integers(0, len(originals()) - 1))])
    for _ in range(draw(st.integers(0, 6))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.sampled_from(["change", "remove", "insert", "cut", "repeat"])):
            case "change":
                data[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
            case "remove":
                del data[place : place + draw(st.integers(1, 40))]
            case "insert":
                data[place:place] = draw(st.binary(max_size=40))
            case "cut":
                del data[place:]
            case "repeat":
                data[place:place] = data[place : place + 60]
    return bytes(data) if draw(st.integers(0, 9)) else bytes(data[:12]) + draw(st.binary(max_size=300))


def annotations(path: str, boxes: np.ndarray) -> Annotations:
    """One image with unchecked boxes."""
    count = len(boxes)
    return Annotations(
        class_names=("a", "b", "c"),
        image_ids=("one",),
        paths=(path,),
        sizes=np.array([[HEIGHT, WIDTH]]),
        offsets=np.array([0, count]),
        boxes_original=boxes,
        labels=np.arange(count) % 3,
        difficult=np.zeros(count, dtype=bool),
        crowd=np.zeros(count, dtype=bool),
        areas=np.ones(count),
        category_ids=(1, 2, 3),
    )


def attempt(read, path: str) -> tuple[np.ndarray | None, ImageError | None]:
    try:
        return read(path), None
    except ImageError as error:
        return None, error


def check_files(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    for read in (read_image, lambda path: getattr(read_reduced(path, 2), "image", None)):
        image, error = attempt(read, str(path))
        assert error is None or str(error).startswith(f"{path}: the image cannot be ")
        if image is not None:
            assert image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8 and image.size
    for mode in ("stop", "replace", "leave_out"):
        data = annotations(str(path), np.array([[1.0, 1, 30, 30]]))
        reader = ImageReader(data, reduced=mode == "leave_out")
        dataset = DetectionDataset(data, transform("none", False), seed=0, on_error=mode, reader=reader)
        fetched = dataset.__getitems__([Key(0, 0)])
        assert len(fetched.samples) == (fetched.error is None and not fetched.problems)
        assert {problem.file for problem in fetched.problems} <= {str(path)}


@settings(max_examples=40, **QUIET)
@given(content=files())
def test_any_bytes_are_an_image_or_one_error(tmp_path, content):
    check_files(content, tmp_path / "image.jpg")


@pytest.mark.slow
@settings(max_examples=1500, **QUIET)
@given(content=files())
def test_any_bytes_are_an_image_or_one_error_with_many_examples(tmp_path, content):
    check_files(content, tmp_path / "image.jpg")


LARGE = (1e6, 1e30, 1e308, math.inf)
SPECIAL = (0.0, -0.0, 1e-12, 0.5, 37.0, 53.0, *LARGE, *(-number for number in LARGE), math.nan)
NUMBERS = st.one_of(st.floats(-20, 80), st.sampled_from(SPECIAL))
BOXES = st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), max_size=12)


@lru_cache(maxsize=16)
def transform(name: str, train: bool) -> Transform:
    resize = RESIZE.get(name, "letterbox")
    config = checked("model=yolov2_160", f"augment={name}", f"input.resize={resize}")
    return build_transform(augment=build(config.augment), size=(64, 96), resize=resize, train=train)


def check_boxes(name: str, given_boxes: list, seed: int, tmp_path, mixing: Mixing | None = None) -> None:
    path = tmp_path / "image.png"
    if not path.exists():
        path.write_bytes(originals()[4])
    data = annotations(str(path), np.array(given_boxes, dtype=np.float64).reshape(-1, 4))
    images = 5 if mixing else 1  # at most four of a mosaic and one of mixup
    for train in (True, False):
        dataset = DetectionDataset(data, transform(name, train), seed=seed, mixing=mixing)
        if not np.isfinite(given_boxes).all():
            with pytest.raises(ImageError, match="a box with NaN or infinity in its annotation"):
                dataset[0, 0]
            continue
        sample = dataset[0, 0]
        boxes = sample.boxes.numpy()
        assert sample.image.shape == (64, 96, 3)
        assert np.isfinite(boxes).all()
        assert (boxes >= 0).all() and (boxes <= [96, 64, 96, 64]).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert len(sample.labels) == len(boxes) <= len(given_boxes) * images


MIXINGS = st.sampled_from([None, Mixing(0.5, 0.5)])


@pytest.mark.parametrize("name", AUGMENTATIONS)
@settings(max_examples=8, **QUIET)
@given(given_boxes=BOXES, seed=st.integers(0, 2**31), mixing=MIXINGS)
def test_every_box_is_valid_after_augmentation(tmp_path, name, given_boxes, seed, mixing):
    check_boxes(name, given_boxes, seed, tmp_path, mixing)


@pytest.mark.slow
@pytest.mark.parametrize("name", AUGMENTATIONS)
@settings(max_examples=250, **QUIET)
@given(given_boxes=BOXES, seed=st.integers(0, 2**31), mixing=MIXINGS)
def test_every_box_is_valid_after_augmentation_with_many_examples(tmp_path, name, given_boxes, seed, mixing):
    check_boxes(name, given_boxes, seed, tmp_path, mixing)
