"""detections.npz gives back what was measured, bit for bit, and refuses anything else."""

from __future__ import annotations

import re
import zipfile

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from detectors.annotations import Annotations
from detectors.metrics.report import report, truths_hash
from detectors.structures import Detections
from detectors.training.detections_file import read_detections, write_detections
from tests.metrics.test_coco_arrays import random_case

FIX = "evaluate again"


@pytest.mark.parametrize("named", [False, True])
def test_what_is_read_gives_the_same_numbers(tmp_path, named):
    annotations, detections = random_case(1)
    if named:  # VOC's images have names, not numbers
        ids = [f"2007_{number:06d}" for number in range(len(annotations))]
        annotations = Annotations(**{**vars(annotations), "image_ids": ids})
    write_detections(tmp_path / "d.npz", annotations, detections)
    again, found = read_detections(tmp_path / "d.npz", FIX)
    assert truths_hash(again) == truths_hash(annotations)
    assert report(again, found).as_dict() == report(annotations, detections).as_dict()
    assert list(again.image_ids) == list(annotations.image_ids)
    assert list(again.paths) == list(annotations.paths)
    assert again.category_ids == annotations.category_ids
    assert_array_equal(found.boxes, detections.boxes)


def test_no_detections_and_no_images(tmp_path):
    nothing = Detections(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), torch.zeros(0), torch.zeros(0))
    write_detections(tmp_path / "d.npz", Annotations.without_images(["a"]), nothing)
    annotations, detections = read_detections(tmp_path / "d.npz", FIX)
    assert (len(annotations), len(detections.scores)) == (0, 0)


def changed(path, **columns) -> None:
    with np.load(path) as stored:
        content = dict(stored)
    np.savez(path, **{name: column for name, column in (content | columns).items() if column is not None})


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"scores": None}, "scores"),
        ({"scores": np.zeros(3, np.float32)}, "scores has the shape (3,) and the type float32"),
        ({"boxes": np.zeros(4)}, "boxes has the shape (4,) and the type float64"),
        ({"labels": np.array(["a"])}, "labels has the shape (1,) and the type <U1"),
        ({"offsets": np.array([0, 3, 1, 9, 9, 9, 9, 9])}, "offsets do not fit the images"),
        ({"truth_labels": "far"}, "truth_labels name a class that there is not"),
        ({"areas": "nan"}, "boxes_original or areas are not finite"),
        ({"scores": "nan"}, "detections cannot be evaluated"),
        ({"image": "far"}, "image outside 0..6"),
        ({"scores": np.array([object()])}, "allow_pickle=False"),
    ],
)
def test_other_contents_are_refused(tmp_path, columns, problem):
    path = tmp_path / "d.npz"
    write_detections(path, *random_case(1))
    with np.load(path) as stored:
        for name, value in columns.items():
            if isinstance(value, str):
                columns = {name: np.full_like(stored[name], {"far": 99, "nan": np.nan}[value])}
    changed(path, **columns)
    expected = rf"{re.escape(str(path))}: not a file of detections.*{re.escape(problem)}.*; evaluate again"
    with pytest.raises(ValueError, match=expected):
        read_detections(path, FIX)


def test_files_that_are_no_archives(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file; evaluate again"):
        read_detections(tmp_path / "d.npz", FIX)
    path = tmp_path / "d.npz"
    write_detections(path, *random_case(1))
    for content in (b"", b"not an archive", path.read_bytes()[:-200]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a file of detections that can be used"):
            read_detections(path, FIX)
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match="it is a folder, not a file"):
        read_detections(path, FIX)


def test_an_archive_that_unpacks_to_more_than_memory_holds(tmp_path, monkeypatch):
    path = tmp_path / "d.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.npy", bytes(10_000_000))
    monkeypatch.setattr("detectors.training.detections_file.LARGEST_FILE", 9_000_000)
    with pytest.raises(ValueError, match="GiB unpacked"):
        read_detections(path, FIX)
