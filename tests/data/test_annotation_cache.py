"""The cache of parsed annotations: it gives what the scan gave, notices every change, and never stands in the way."""

from __future__ import annotations

import dataclasses
import json
import logging
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from detectors.annotations import Annotations, Texts
from detectors.data import annotation_cache
from detectors.data.annotation_cache import MAGIC, Scanned, cached, unpack_annotations
from detectors.data.coco import coco_sources, scan_coco
from detectors.data.voc import scan_voc, voc_sources
from tests.data.files import box_xml, write_coco, write_voc

OBJECTS = {
    "a": box_xml("cat", 1, 1, 5, 5) + box_xml("dog", 9, 9, 9, 9),
    "ü": box_xml("dog", 2, 2, 7, 9.5) + box_xml("cat", "nan", 1, 5, 5),
}


class Reader:
    """scan_voc or scan_coco through the cache, with a count of the scans."""

    def __init__(self, scan, sources, folder: Path | None, **places):
        self.scan, self.sources, self.folder, self.places, self.scans = scan, sources, folder, places, 0

    def __call__(self, class_names: list[str] | None = None) -> Scanned:
        return cached(
            self.counted(), self.sources, folder=self.folder, class_names=class_names, **self.places
        )

    def counted(self):
        def scan(**arguments):
            self.scans += 1
            return self.scan(**arguments)

        scan.__name__ = self.scan.__name__
        return scan

    @property
    def file(self) -> Path:
        (file,) = self.folder.glob("*.annotations")
        return file


@pytest.fixture
def voc(tmp_path) -> Reader:
    root = write_voc(tmp_path / "voc", OBJECTS)
    return Reader(scan_voc, voc_sources, tmp_path / "cache/annotations", root=root, image_sets=["train"])


@pytest.fixture
def coco(tmp_path) -> Reader:
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 60, "width": 80} for i in (7, 3)],
        "categories": [{"id": 90, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"image_id": 3, "category_id": 90, "bbox": [1, 2, 3, 4], "area": 5.5, "iscrowd": 1},
            {"image_id": 3, "category_id": 90, "bbox": [1, 2, 3, float("nan")]},
        ],
    }
    return Reader(
        scan_coco, coco_sources, tmp_path / "cache/annotations", **write_coco(tmp_path / "coco", content)
    )


def assert_same(found: Scanned, expected: Scanned) -> None:
    for one, other in zip(found, expected, strict=True):
        if isinstance(one, list):
            assert one == other and all(type(a.box) is type(b.box) for a, b in zip(one, other, strict=True))
            continue
        for field in dataclasses.fields(Annotations):
            mine, theirs = getattr(one, field.name), getattr(other, field.name)
            assert type(mine) is type(theirs), field.name
            if isinstance(mine, np.ndarray):
                assert mine.dtype == theirs.dtype and mine.flags.writeable
                assert_array_equal(mine, theirs)
            else:
                assert mine == theirs, field.name


@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_the_second_reading_equals_the_first_without_a_scan(kind, request):
    read = request.getfixturevalue(kind)
    first = read()
    assert read.scans == 1 and first[1] and len(first[0].labels)
    assert_same(read(), first)
    assert_same(read.scan(**read.places), first)
    assert read.scans == 1
    assert read.file.stat().st_mode & 0o777 == 0o644


def test_each_choice_of_classes_has_its_own_file(voc):
    every, cats = voc(), voc(["cat"])
    assert every[0].class_names == ("cat", "dog") and cats[0].class_names == ("cat",)
    assert {problem.kind for problem in cats[1]} > {problem.kind for problem in every[1]}
    assert_same(voc(["cat"]), cats)
    assert_same(voc(), every)
    assert voc.scans == 2 and len(list(voc.folder.iterdir())) == 2


CHANGES = {
    "an XML": lambda root: (root / "Annotations/a.xml").write_text("<annotation/>"),
    "one number of an XML": lambda root: (root / "Annotations/a.xml").write_bytes(
        (root / "Annotations/a.xml").read_bytes().replace(b">5<", b">6<")
    ),
    "an XML gone": lambda root: (root / "Annotations/a.xml").unlink(),
    "the list": lambda root: (root / "ImageSets/Main/train.txt").write_text("a\n"),
    "an image gone": lambda root: (root / "JPEGImages/a.jpg").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_a_voc_set_is_noticed(voc, change):
    first = voc()
    time.sleep(0.02)  # a tick of the file system's clock
    CHANGES[change](voc.places["root"])
    found = voc()
    assert voc.scans == 2
    assert_same(found, voc.scan(**voc.places))
    assert (
        any(len(a) != len(b) for a, b in zip(found, first, strict=True))
        or (found[0].boxes_original != first[0].boxes_original).any()
    )
    assert_same(voc(), found)
    assert voc.scans == 2 and voc.file.exists()  # one file: the old one is overwritten


def test_another_length_at_the_same_time_is_noticed(voc):
    """As copies that keep their times can be."""
    voc()
    path = voc.places["root"] / "Annotations/a.xml"
    times = path.stat()
    path.write_text("<annotation/>")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert_array_equal(voc()[0].offsets, [0, 0, 1])


def test_every_change_of_a_coco_set_is_noticed(coco):
    coco()
    time.sleep(0.02)
    file = coco.places["annotation_file"]
    file.write_text(file.read_text().replace("[1, 2, 3, 4]", "[1, 2, 3, 9]"))
    assert_array_equal(coco()[0].boxes_original, [[1, 2, 4, 11]])
    time.sleep(0.02)
    (coco.places["image_folder"] / "7.jpg").unlink()
    assert [problem.kind for problem in coco()[1]] == ["missing-image", "broken-object"]
    assert coco.scans == 3


def test_a_set_that_was_moved_in_time_is_another_set(voc, tmp_path):
    """The paths are part of what is kept."""
    voc()
    voc.places["root"] = voc.places["root"].rename(tmp_path / "elsewhere")
    assert "elsewhere" in voc()[0].paths[0] and voc.scans == 2


def test_the_same_set_named_from_another_folder_has_paths_that_lead_there(voc, tmp_path, monkeypatch):
    """A relative root, then the same one from its own folder, then in full."""
    root = voc.places["root"]
    for folder, named in ((tmp_path, root.relative_to(tmp_path)), (root, Path(".")), (root, root)):
        monkeypatch.chdir(folder)
        voc.places["root"] = named
        assert all(map(os.path.exists, voc()[0].paths)), named
    assert voc.scans == 3


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]


DAMAGE = {
    "empty": lambda content: b"",
    "foreign": lambda content: b"PK\x03\x04 something else",
    "older": lambda content: content.replace(MAGIC, MAGIC[:-2] + b"0\n", 1),
    "header only": lambda content: content[: len(MAGIC) + 40],
    "longer": lambda content: content + b"\0",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_rebuilt_with_one_line(voc, damage, caplog):
    first = voc()
    voc.file.write_bytes(DAMAGE[damage](voc.file.read_bytes()))
    caplog.set_level(logging.INFO)
    assert_same(voc(), first)
    assert voc.scans == 2 and sum("it is rebuilt" in line for line in caplog.messages) == 1
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
    assert_same(voc(), first)
    assert voc.scans == 2


def test_no_flipped_bit_and_no_cut_goes_through(voc):
    voc()
    content = voc.file.read_bytes()
    for place in range(0, len(content), 37):
        for damaged in (flipped(content, place), content[:place]):
            with pytest.raises(ValueError, match="^damaged|^from another version"):
                unpack_annotations(damaged, "")


def test_a_folder_that_cannot_be_written_costs_one_warning(voc, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    voc.folder = tmp_path / "file/annotations"
    assert_same(voc(), voc())
    assert voc.scans == 2 and sum("parsed every time" in line for line in caplog.messages) == 1
    voc.folder = None
    assert_same(voc(), voc())
    assert voc.scans == 4


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(voc, caplog):
    voc.folder.mkdir(parents=True)
    voc.folder.chmod(0o555)
    assert_same(voc(), voc())
    assert "Permission denied" in caplog.text


def test_a_failed_write_leaves_nothing_behind(voc, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(annotation_cache.os, "replace", full)
    assert len(voc()[0]) == 2
    assert not list(voc.folder.iterdir())


def test_what_the_scan_refuses_is_refused_with_its_own_words(voc):
    voc()
    voc.places["image_sets"] = ["trian"]
    with pytest.raises(FileNotFoundError, match="no such split list; did you mean 'train'"):
        voc()
    voc.places["root"] = voc.places["root"] / "nowhere"
    with pytest.raises(FileNotFoundError, match="no such folder"):
        voc()


def _read_often(read: Reader, start, results, spoil: bool) -> None:
    start.wait()
    for _ in range(20):
        found = read()
        results.put((len(found[0]), len(found[1])))
        if spoil:
            read.file.write_bytes(b"spoilt")


def test_processes_that_write_at_once_all_read_the_truth(voc):
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    workers = [
        context.Process(target=_read_often, args=(voc, start, results, number == 0)) for number in range(3)
    ]
    for worker in workers:
        worker.start()
    start.set()
    found = [results.get(timeout=30) for _ in range(60)]
    for worker in workers:
        worker.join(30)
    assert set(found) == {(2, 2)} and [worker.exitcode for worker in workers] == [0, 0, 0]


def test_texts_of_any_kind_are_kept(tmp_path):
    """A file name that is not UTF-8, and half a surrogate out of JSON."""
    names = ["a", "", "ü", "\udcff.jpg", "\ud800"]
    texts = Texts(names)
    whole = np.zeros(0)
    empty = Annotations(
        (),
        texts,
        texts,
        np.zeros((5, 2), np.int64),
        np.zeros(6, np.int64),
        whole,
        whole,
        whole,
        whole,
        whole,
        (),
    )
    found = unpack_annotations(annotation_cache.pack("key", (empty, [])), "key")
    assert found[0].paths == names and json.dumps(list(found[0].image_ids))
    with pytest.raises(ValueError, match="have changed"):
        unpack_annotations(annotation_cache.pack("key", (empty, [])), "other")


@pytest.mark.slow
def test_a_set_of_the_size_of_cocos_training_set(tmp_path):
    """118,287 images with 860,001 boxes: less than 15 s from JSON, and 1 s from the cache, on a machine that does nothing else."""
    rng = np.random.default_rng(0)
    count, total = 118287, 860001
    (tmp_path / "images").mkdir()
    for number in range(count):
        (tmp_path / "images" / f"{number:012d}.jpg").touch()
    corner, sides = rng.uniform(0, 300, (total, 2)).round(2), rng.uniform(1, 300, (total, 2)).round(2)
    boxes, image, category = (
        np.concatenate([corner, sides], 1),
        rng.integers(0, count, total),
        rng.integers(1, 81, total),
    )
    columns = zip(boxes.tolist(), image.tolist(), category.tolist(), strict=True)
    content = {
        "images": [
            {"id": i, "file_name": f"{i:012d}.jpg", "height": 480, "width": 640, "date_captured": "2013"}
            for i in range(count)
        ],
        "categories": [{"id": i, "name": f"class {i}", "supercategory": "thing"} for i in range(1, 81)],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": box, "area": box[2] * box[3] / 2, "iscrowd": 0}
            for n, (box, i, c) in enumerate(columns)
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    del content
    read = Reader(
        scan_coco,
        coco_sources,
        tmp_path / "cache",
        annotation_file=tmp_path / "instances.json",
        image_folder=tmp_path / "images",
    )
    seconds = []
    for _ in range(2):
        started = time.process_time()
        truths, problems = read()
        seconds.append(time.process_time() - started)
        assert (len(truths), len(truths.labels), len(problems)) == (count, total, 0)
    assert read.scans == 1 and seconds[0] < 15 and seconds[1] < 1
