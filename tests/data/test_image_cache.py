"""The cache of decoded images: each is decoded once and shared; space is checked first; damage is noticed."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from detectors.annotations import Annotations
from detectors.data import image_cache, images
from detectors.data.image_cache import ImageCache, free_memory, open_cache
from detectors.data.images import ImageError, ImageReader, read_image
from detectors.data.voc import read_voc
from tests.data.files import write_image, write_voc

SIZE = (60, 80)
CACHE_BYTES = 3 * (4 + 60 * 80 * 3)  # for the three images below and their marks


@pytest.fixture
def annotations(tmp_path) -> Annotations:
    return read_voc(
        root=write_voc(tmp_path / "voc", {"a": "", "b": "", "c": ""}),
        image_sets=["train"],
        class_names=["cat"],
    )


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The names of the decoded files, in order."""
    names = []
    monkeypatch.setattr(
        images, "read_image", lambda path, limit: names.append(Path(path).stem) or read_image(path, limit)
    )
    return names


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_each_image_is_decoded_once(annotations, tmp_path, decoded, kind):
    reader = ImageReader(annotations, cache=open_cache(kind, annotations, tmp_path))
    first = [reader.read(row).image for row in (2, 0, 2, 1, 0)]
    assert decoded == ["c", "a", "b"]
    for row, image in zip((2, 0, 2, 1, 0), first, strict=True):
        assert_array_equal(image, read_image(annotations.paths[row]))
        image[:] = 0  # the caller may change the image
        assert_array_equal(reader.read(row).image, read_image(annotations.paths[row]))
    assert reader.read(0).size_original == SIZE
    assert len(decoded) == 3


def test_the_next_run_finds_the_images_on_disk(annotations, tmp_path, decoded):
    def reader() -> ImageReader:
        return ImageReader(annotations, cache=open_cache("disk", annotations, tmp_path / "cache"))

    reader().read(1)
    again = reader()
    assert_array_equal(again.read(1).image, read_image(annotations.paths[1]))
    again.read(0)
    assert decoded == ["b", "a"]
    assert len(list((tmp_path / "cache").iterdir())) == 1
    os.utime(annotations.paths[2], ns=(0, 0))  # a changed file leads to a new cache
    reader().read(1)
    assert decoded == ["b", "a", "b"]
    assert len(list((tmp_path / "cache").iterdir())) == 2
    with open(annotations.paths[2], "ab") as file:
        file.write(b"\0")
    os.utime(annotations.paths[2], ns=(0, 0))  # another length with the old time, as after cp -p
    reader()
    assert len(list((tmp_path / "cache").iterdir())) == 3


def _fill(cache: ImageCache, row: int, value: int) -> None:
    cache.put(row, np.full((*SIZE, 3), value, np.uint8))


@pytest.mark.parametrize("kind", ["ram", "disk"])
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_processes_share_the_cache(annotations, tmp_path, kind, method):
    cache = open_cache(kind, annotations, tmp_path)
    process = multiprocessing.get_context(method).Process(target=_fill, args=(cache, 1, 77))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert cache.get(0) is None
    assert_array_equal(cache.get(1), np.full((*SIZE, 3), 77))
    assert_array_equal(pickle.loads(pickle.dumps(cache)).get(1), cache.get(1))


def test_an_incomplete_image_is_not_returned(annotations, tmp_path):
    """Either a page was lost in a power cut after the mark was saved, or there is no mark yet."""
    cache = open_cache("disk", annotations, tmp_path)
    _fill(cache, 1, 77)
    path = Path(cache.path)
    content = bytearray(path.read_bytes())
    start = int(cache.starts[1]) + 4096
    content[start : start + 4096] = bytes(4096)
    path.write_bytes(content)
    assert open_cache("disk", annotations, tmp_path).get(1) is None
    cache.marks[2] = 0
    cache.bytes[cache.starts[2] :] = 5
    assert cache.get(2) is None


def test_an_image_of_another_size_is_not_cached(annotations, tmp_path, decoded):
    write_image(Path(annotations.paths[0]), (61, 79))  # rounding: used, but decoded each time
    write_image(Path(annotations.paths[1]), (70, 80))
    reader = ImageReader(annotations, cache=open_cache("ram", annotations, tmp_path))
    assert [reader.read(0).image.shape for _ in range(2)] == [(61, 79, 3)] * 2
    for _ in range(2):
        with pytest.raises(ImageError, match="its annotation says"):
            reader.read(1)
    reader.read(2)
    reader.read(2)
    assert decoded == ["a", "a", "b", "b", "c"]


def test_space_is_checked_first(annotations, tmp_path, monkeypatch):
    monkeypatch.setattr(image_cache, "free_memory", lambda: image_cache.MEMORY_MARGIN + CACHE_BYTES - 1)
    with pytest.raises(
        ValueError,
        match=r"data\.image_cache=ram: the decoded images take 0\.0 GB, and memory has room for 0\.0 GB; set",
    ):
        open_cache("ram", annotations, tmp_path)
    monkeypatch.setattr(image_cache, "free_memory", lambda: image_cache.MEMORY_MARGIN + CACHE_BYTES)
    assert open_cache("ram", annotations, tmp_path).starts[-1] == CACHE_BYTES
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: usage._replace(free=image_cache.DISK_MARGIN + CACHE_BYTES - 1)
    )
    with pytest.raises(
        ValueError,
        match=r"data\.image_cache=disk: .* the disk of .*cache has room for .*; set data\.image_cache=none",
    ):
        open_cache("disk", annotations, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    monkeypatch.undo()
    open_cache("disk", annotations, tmp_path / "cache")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    with pytest.raises(ValueError, match="image_cache=disk"):
        open_cache("disk", annotations, tmp_path / "other")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=image_cache.DISK_MARGIN))
    open_cache("disk", annotations, tmp_path / "cache")  # its space is already reserved


def test_a_full_disk_is_an_error(annotations, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        ValueError, match=r"image_cache=disk: no room for 0\.0 GB \(No space left on device\); set"
    ):
        open_cache("disk", annotations, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_folder_that_cannot_be_created_is_an_error(annotations, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        ValueError,
        match=r"image_cache=disk: .*/file/images cannot be written \(Not a directory\); set paths\.cache",
    ):
        open_cache("disk", annotations, tmp_path / "file/images")


def test_a_container_limits_the_free_memory(tmp_path, monkeypatch):
    assert 0 < free_memory() < 1 << 50
    (tmp_path / "max").write_text("1000\n")
    (tmp_path / "current").write_text("400\n")
    monkeypatch.setattr(
        image_cache,
        "MEMORY_LIMITS",
        [(tmp_path / "none", tmp_path / "none"), (tmp_path / "max", tmp_path / "current")],
    )
    assert free_memory() == 600
    (tmp_path / "max").write_text("max\n")
    assert free_memory() > 600


def test_memory_is_released(annotations, tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    cache = open_cache("ram", annotations, tmp_path)
    assert len(os.listdir("/proc/self/fd")) > before
    del cache
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_settings(annotations, tmp_path):
    assert open_cache("none", annotations, tmp_path) is None
    with pytest.raises(ValueError, match="choose none, ram or disk"):
        open_cache("tape", annotations, tmp_path)
    with pytest.raises(ValueError, match=r"data\.reduced_decode=true: a cache holds whole images"):
        ImageReader(annotations, cache=open_cache("ram", annotations, tmp_path), reduced=True)
