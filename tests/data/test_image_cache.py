"""Decoded images kept: the same pixels, decoded once, shared by processes, found again; space looked at first; damage noticed."""

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
WHOLE = 3 * (4 + 60 * 80 * 3)  # bytes of the three images below and of their marks


@pytest.fixture
def truths(tmp_path) -> Annotations:
    return read_voc(
        root=write_voc(tmp_path / "voc", {"a": "", "b": "", "c": ""}),
        image_sets=["train"],
        class_names=["cat"],
    )


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """Names of the files that were decoded."""
    names = []
    monkeypatch.setattr(images, "read_image", lambda path: names.append(Path(path).stem) or read_image(path))
    return names


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_each_image_is_decoded_once(truths, tmp_path, decoded, kind):
    reader = ImageReader(truths, cache=open_cache(kind, truths, tmp_path))
    first = [reader.read(row).image for row in (2, 0, 2, 1, 0)]
    assert decoded == ["c", "a", "b"]
    for row, image in zip((2, 0, 2, 1, 0), first, strict=True):
        assert_array_equal(image, read_image(truths.paths[row]))
        image[:] = 0  # whoever gets an image may do with it what it likes
        assert_array_equal(reader.read(row).image, read_image(truths.paths[row]))
    assert reader.read(0).size_original == SIZE
    assert len(decoded) == 3


def test_the_next_run_finds_what_is_on_disk(truths, tmp_path, decoded):
    def reader() -> ImageReader:
        return ImageReader(truths, cache=open_cache("disk", truths, tmp_path / "cache"))

    reader().read(1)
    again = reader()
    assert_array_equal(again.read(1).image, read_image(truths.paths[1]))
    again.read(0)
    assert decoded == ["b", "a"]
    assert len(list((tmp_path / "cache").iterdir())) == 1
    os.utime(truths.paths[2], ns=(0, 0))  # a file that was changed makes another cache
    reader().read(1)
    assert decoded == ["b", "a", "b"]
    assert len(list((tmp_path / "cache").iterdir())) == 2
    with open(truths.paths[2], "ab") as file:
        file.write(b"\0")
    os.utime(truths.paths[2], ns=(0, 0))  # another file with the time of the old one, as cp -p makes it
    reader()
    assert len(list((tmp_path / "cache").iterdir())) == 3


def _fill(cache: ImageCache, row: int, value: int) -> None:
    cache.put(row, np.full((*SIZE, 3), value, np.uint8))


@pytest.mark.parametrize("kind", ["ram", "disk"])
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_processes_share_it(truths, tmp_path, kind, method):
    cache = open_cache(kind, truths, tmp_path)
    process = multiprocessing.get_context(method).Process(target=_fill, args=(cache, 1, 77))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert cache.get(0) is None
    assert_array_equal(cache.get(1), np.full((*SIZE, 3), 77))
    assert_array_equal(pickle.loads(pickle.dumps(cache)).get(1), cache.get(1))


def test_what_is_half_written_is_not_there(truths, tmp_path):
    """A page lost in a power cut, marks of it saved; an image that is still being written has no mark."""
    cache = open_cache("disk", truths, tmp_path)
    _fill(cache, 1, 77)
    path = Path(cache.path)
    content = bytearray(path.read_bytes())
    start = int(cache.starts[1]) + 4096
    content[start : start + 4096] = bytes(4096)
    path.write_bytes(content)
    assert open_cache("disk", truths, tmp_path).get(1) is None
    cache.marks[2] = 0
    cache.bytes[cache.starts[2] :] = 5
    assert cache.get(2) is None


def test_an_image_of_another_size_has_no_place(truths, tmp_path, decoded):
    write_image(Path(truths.paths[0]), (61, 79))  # rounding: used, and decoded each time
    write_image(Path(truths.paths[1]), (70, 80))
    reader = ImageReader(truths, cache=open_cache("ram", truths, tmp_path))
    assert [reader.read(0).image.shape for _ in range(2)] == [(61, 79, 3)] * 2
    for _ in range(2):
        with pytest.raises(ImageError, match="its annotation says"):
            reader.read(1)
    reader.read(2)
    reader.read(2)
    assert decoded == ["a", "a", "b", "b", "c"]


def test_space_is_looked_at_first(truths, tmp_path, monkeypatch):
    monkeypatch.setattr(image_cache, "free_memory", lambda: image_cache.MEMORY_MARGIN + WHOLE - 1)
    with pytest.raises(
        ValueError,
        match=r"data\.image_cache=ram: the decoded images take 0\.0 GB, and memory has room for 0\.0 GB; set",
    ):
        open_cache("ram", truths, tmp_path)
    monkeypatch.setattr(image_cache, "free_memory", lambda: image_cache.MEMORY_MARGIN + WHOLE)
    assert open_cache("ram", truths, tmp_path).starts[-1] == WHOLE
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: usage._replace(free=image_cache.DISK_MARGIN + WHOLE - 1)
    )
    with pytest.raises(
        ValueError,
        match=r"data\.image_cache=disk: .* the disk of .*cache has room for .*; set data\.image_cache=none",
    ):
        open_cache("disk", truths, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    monkeypatch.undo()
    open_cache("disk", truths, tmp_path / "cache")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    with pytest.raises(ValueError, match="image_cache=disk"):
        open_cache("disk", truths, tmp_path / "other")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=image_cache.DISK_MARGIN))
    open_cache("disk", truths, tmp_path / "cache")  # its space has been taken already


def test_a_disk_that_says_no(truths, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        ValueError, match=r"image_cache=disk: no room for 0\.0 GB \(No space left on device\); set"
    ):
        open_cache("disk", truths, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_folder_that_cannot_be_made(truths, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        ValueError,
        match=r"image_cache=disk: .*/file/images cannot be written \(Not a directory\); set paths\.cache",
    ):
        open_cache("disk", truths, tmp_path / "file/images")


def test_free_memory_is_the_container_s_if_that_is_less(tmp_path, monkeypatch):
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


def test_memory_is_given_back(truths, tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    cache = open_cache("ram", truths, tmp_path)
    assert len(os.listdir("/proc/self/fd")) > before
    del cache
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_choices(truths, tmp_path):
    assert open_cache("none", truths, tmp_path) is None
    with pytest.raises(ValueError, match="choose none, ram or disk"):
        open_cache("tape", truths, tmp_path)
    with pytest.raises(ValueError, match=r"data\.reduced_decode=true: a cache holds whole images"):
        ImageReader(truths, cache=open_cache("ram", truths, tmp_path), reduced=True)
