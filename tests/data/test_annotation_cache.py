"""The cache of annotations: it returns what the scan returned, notices every change, and is never fatal."""

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
    """scan_voc or scan_coco through the cache; counts the scans."""

    def __init__(self, scan, sources, folder: Path | None, **places):
        self.scan = scan
        self.sources = sources
        self.folder = folder
        self.places = places
        self.scans = 0

    def __call__(self, class_names: list[str] | None = None) -> Scanned:
        scan = self.counting_scan()
        return cached(scan, self.sources, folder=self.folder, class_names=class_names, **self.places)

    def counting_scan(self):
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
    files = write_coco(tmp_path / "coco", content)
    return Reader(scan_coco, coco_sources, tmp_path / "cache/annotations", **files)


def assert_same(actual: Scanned, expected: Scanned) -> None:
    annotations, problems = actual
    expected_annotations, expected_problems = expected
    for field in dataclasses.fields(Annotations):
        value = getattr(annotations, field.name)
        expected_value = getattr(expected_annotations, field.name)
        assert type(value) is type(expected_value), field.name
        if isinstance(value, np.ndarray):
            assert value.dtype == expected_value.dtype and value.flags.writeable
            assert_array_equal(value, expected_value)
        else:
            assert value == expected_value, field.name
    assert problems == expected_problems
    assert [type(problem.box) for problem in problems] == [type(problem.box) for problem in expected_problems]


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
    all_classes = voc()
    cats = voc(["cat"])
    assert all_classes[0].class_names == ("cat", "dog") and cats[0].class_names == ("cat",)
    assert {problem.kind for problem in cats[1]} > {problem.kind for problem in all_classes[1]}
    assert_same(voc(["cat"]), cats)
    assert_same(voc(), all_classes)
    assert voc.scans == 2 and len(list(voc.folder.iterdir())) == 2


CHANGES = {
    "an XML": lambda root: (root / "Annotations/a.xml").write_text("<annotation/>"),
    "one number of an XML": lambda root: (root / "Annotations/a.xml").write_bytes(
        (root / "Annotations/a.xml").read_bytes().replace(b">5<", b">6<")
    ),
    "a missing XML": lambda root: (root / "Annotations/a.xml").unlink(),
    "the split list": lambda root: (root / "ImageSets/Main/train.txt").write_text("a\n"),
    "a missing image": lambda root: (root / "JPEGImages/a.jpg").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_a_voc_set_is_noticed(voc, change):
    first = voc()
    time.sleep(0.02)  # a tick of the file system's clock
    CHANGES[change](voc.places["root"])
    second = voc()
    assert voc.scans == 2
    assert_same(second, voc.scan(**voc.places))
    other_length = any(len(a) != len(b) for a, b in zip(second, first, strict=True))
    assert other_length or (second[0].boxes_original != first[0].boxes_original).any()
    assert_same(voc(), second)
    assert voc.scans == 2 and voc.file.exists()  # only one file: the old one was overwritten


def test_another_length_at_the_same_time_is_noticed(voc):
    """This happens with copies that keep their modification times."""
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


def test_a_moved_data_set_is_scanned_again(voc, tmp_path):
    """The paths are part of the cached content."""
    voc()
    voc.places["root"] = voc.places["root"].rename(tmp_path / "elsewhere")
    assert "elsewhere" in voc()[0].paths[0] and voc.scans == 2


def test_relative_roots_lead_to_existing_paths(voc, tmp_path, monkeypatch):
    """The root relative to its parent, then relative to itself, then absolute."""
    root = voc.places["root"]
    for folder, given_root in ((tmp_path, root.relative_to(tmp_path)), (root, Path(".")), (root, root)):
        monkeypatch.chdir(folder)
        voc.places["root"] = given_root
        assert all(map(os.path.exists, voc()[0].paths)), given_root
    assert voc.scans == 3


def flipped(content: bytes, place: int) -> bytes:
    """The content with one bit of byte `place` flipped."""
    return content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]


DAMAGE = {
    "empty": lambda content: b"",
    "foreign": lambda content: b"PK\x03\x04 something else",
    "older": lambda content: content.replace(MAGIC, MAGIC[:-2] + b"0\n", 1),
    "header only": lambda content: content[: len(MAGIC) + 40],
    "longer": lambda content: content + b"\0",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_rebuilt_and_reported_once(voc, damage, caplog):
    first = voc()
    voc.file.write_bytes(DAMAGE[damage](voc.file.read_bytes()))
    caplog.set_level(logging.INFO)
    assert_same(voc(), first)
    assert voc.scans == 2 and sum("it is rebuilt" in line for line in caplog.messages) == 1
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
    assert_same(voc(), first)
    assert voc.scans == 2


def test_every_flipped_bit_and_every_truncation_is_noticed(voc):
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


def test_errors_of_the_scan_are_raised_unchanged(voc):
    voc()
    voc.places["image_sets"] = ["trian"]
    with pytest.raises(FileNotFoundError, match="no such split list; did you mean 'train'"):
        voc()
    voc.places["root"] = voc.places["root"] / "nowhere"
    with pytest.raises(FileNotFoundError, match="no such folder"):
        voc()


def _read_often(read: Reader, start, results, damage: bool) -> None:
    start.wait()
    for _ in range(20):
        annotations, problems = read()
        results.put((len(annotations), len(problems)))
        if damage:
            read.file.write_bytes(b"damaged")


def test_concurrent_processes_read_correct_annotations(voc):
    context = multiprocessing.get_context("fork")
    start = context.Event()
    results = context.Queue()
    workers = [
        context.Process(target=_read_often, args=(voc, start, results, number == 0)) for number in range(3)
    ]
    for worker in workers:
        worker.start()
    start.set()
    counts = [results.get(timeout=30) for _ in range(60)]
    for worker in workers:
        worker.join(30)
    assert set(counts) == {(2, 2)} and [worker.exitcode for worker in workers] == [0, 0, 0]


def test_unusual_texts_are_kept(tmp_path):
    """A file name that is not UTF-8, and a lone surrogate from JSON."""
    names = ["a", "", "ü", "\udcff.jpg", "\ud800"]
    texts = Texts(names)
    annotations = Annotations(
        class_names=(),
        image_ids=texts,
        paths=texts,
        sizes=np.zeros((5, 2), np.int64),
        offsets=np.zeros(6, np.int64),
        boxes_original=np.zeros(0),
        labels=np.zeros(0),
        difficult=np.zeros(0),
        crowd=np.zeros(0),
        areas=np.zeros(0),
        category_ids=(),
    )
    content = annotation_cache.pack("key", (annotations, []))
    unpacked, _ = unpack_annotations(content, "key")
    assert unpacked.paths == names and json.dumps(list(unpacked.image_ids))
    with pytest.raises(ValueError, match="have changed"):
        unpack_annotations(content, "other")


@pytest.mark.slow
def test_time_for_a_data_set_of_cocos_size(tmp_path):
    """118,287 images, 860,001 boxes: less than 15 s from JSON and 1 s from the cache, on an idle machine."""
    rng = np.random.default_rng(0)
    count = 118287  # images
    total = 860001  # boxes
    (tmp_path / "images").mkdir()
    for number in range(count):
        (tmp_path / "images" / f"{number:012d}.jpg").touch()
    corner = rng.uniform(0, 300, (total, 2)).round(2)
    sides = rng.uniform(1, 300, (total, 2)).round(2)
    boxes = np.concatenate([corner, sides], 1)
    image = rng.integers(0, count, total)
    category = rng.integers(1, 81, total)
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
        annotations, problems = read()
        seconds.append(time.process_time() - started)
        assert (len(annotations), len(annotations.labels), len(problems)) == (count, total, 0)
    assert read.scans == 1 and seconds[0] < 15 and seconds[1] < 1
