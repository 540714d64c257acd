"""The generated data set: reproducible from its seed, with boxes that fit the shapes, written atomically."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from detectors.data import shapes
from detectors.data.images import read_image
from detectors.data.shapes import CLASSES, draw_shapes, write_shapes
from detectors.data.voc import read_voc


def digest(root: Path) -> str:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    content = b"".join(str(path.relative_to(root)).encode() + path.read_bytes() for path in files)
    return hashlib.sha256(content).hexdigest()


def test_the_seed_determines_every_byte(tmp_path):
    first, again, other = (
        write_shapes(folder=tmp_path / name, seed=seed, train=6, val=3)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert digest(first) == digest(again) != digest(other)
    # An image does not depend on the number of images.
    longer = write_shapes(folder=tmp_path / "a", seed=0, train=8, val=3)
    assert longer != first
    for name in ("JPEGImages/train_00005.jpg", "Annotations/val_00002.xml"):
        assert (longer / name).read_bytes() == (first / name).read_bytes()


def test_the_data_set_is_written_once(tmp_path):
    root = write_shapes(folder=tmp_path, train=2, val=1)
    before = (root / "ImageSets/Main/train.txt").stat().st_mtime_ns
    assert write_shapes(folder=tmp_path, train=2, val=1) == root
    assert (root / "ImageSets/Main/train.txt").stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.iterdir()] == [root.name]
    assert f"v{shapes.SHAPES_VERSION}-seed0-train2-val1-size160" in root.name


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes, "draw_shapes", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_shapes(folder=tmp_path, train=2, val=1)
    assert not list(tmp_path.iterdir())


def test_a_failure_to_write_is_an_error(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(
        ValueError,
        match=r"cannot be written there \(No space left on device\); set paths\.cache",
    ):
        write_shapes(folder=tmp_path, train=2, val=1)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(
        ValueError,
        match=r"/file: the generated images cannot be written there \((Not a directory|File exists)\)",
    ):
        write_shapes(folder=tmp_path / "file", train=2, val=1)


def test_processes_that_start_at_once_do_not_clash(tmp_path):
    context = multiprocessing.get_context("fork")
    runs = [
        context.Process(target=write_shapes, kwargs={"folder": tmp_path, "train": 12, "val": 4})
        for _ in range(3)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0, 0, 0]
    (root,) = tmp_path.iterdir()
    assert digest(root) == digest(write_shapes(folder=tmp_path / "alone", train=12, val=4))


def test_the_reader_reads_back_what_was_drawn(tmp_path):
    """The image equals the drawn one up to JPEG's loss, the boxes exactly; the class names are sorted."""
    root = write_shapes(folder=tmp_path, seed=5, train=40, val=10, size=96)
    for number, (split, count) in enumerate({"train": 40, "val": 10}.items()):
        annotations = read_voc(root=root, image_sets=[split], class_names=list(CLASSES))
        assert len(annotations) == count
        for index in range(count):
            image, labels, boxes = draw_shapes(np.random.default_rng((5, number, index)), 96)
            rows = annotations.rows(index)
            assert_array_equal(annotations.labels[rows], labels)
            assert_array_equal(annotations.boxes_original[rows], np.reshape(boxes, (-1, 4)))
            if index == 0:
                assert np.abs(read_image(annotations.paths[0]).astype(int) - image).mean() < 8
    assert tuple(sorted(CLASSES)) == CLASSES  # read_voc's order without class_names


def test_boxes_fit_the_visible_shapes(monkeypatch):
    """Flat red shapes on black, without blur and noise: the boxes frame the red pixels exactly."""
    monkeypatch.setattr(shapes, "_background", lambda rng, size: np.zeros((size, size, 3), dtype=np.float32))
    monkeypatch.setattr(
        shapes, "_texture", lambda rng, shape, label: np.tile(np.float32([255, 0, 0]), (*shape, 1))
    )
    monkeypatch.setattr(shapes.cv2, "GaussianBlur", lambda image, *arguments: image)

    class Quiet:
        """A generator without noise."""

        def __init__(self, seed):
            self.generator = np.random.default_rng(seed)

        def normal(self, *arguments):
            return 0.0

        def __getattr__(self, name):
            return getattr(self.generator, name)

    for seed in range(40):
        image, _, boxes = draw_shapes(Quiet(seed), 120)
        red = image[..., 0] >= 128
        if boxes:
            rows, columns = np.nonzero(red)
            low = np.min(boxes, 0)
            high = np.max(boxes, 0)
            assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (*low[:2], *high[2:])
        else:
            assert not red.any()


def test_statistics_of_the_data_set():
    """About three shapes per image, balanced classes, some empty images, overlaps, varied sizes."""
    drawn = [draw_shapes(np.random.default_rng((0, 0, index)), 160) for index in range(150)]
    counts = np.array([len(labels) for _, labels, _ in drawn])
    boxes = np.array([box for _, _, boxes in drawn for box in boxes])
    per_class = np.bincount([label for _, labels, _ in drawn for label in labels], minlength=len(CLASSES))
    assert 2.4 < counts.mean() < 3.4 and 0.01 < (counts == 0).mean() < 0.12
    assert per_class.min() > 0.6 * per_class.mean()
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    assert min(width.min(), height.min()) >= 10 and np.maximum(width, height).max() > 75
    assert (width / height).max() > 1.4 and (width / height).min() < 1 / 1.4
    assert (boxes >= 0).all() and (boxes <= 160).all()
    touching = 0
    for _, _, image_boxes in drawn:
        for row, left in enumerate(image_boxes):
            for right in image_boxes[:row]:
                touching += (np.maximum(left[:2], right[:2]) < np.minimum(left[2:], right[2:])).all()
    assert touching > 30


def test_bad_settings_are_refused(tmp_path):
    with pytest.raises(ValueError, match="train=0"):
        write_shapes(folder=tmp_path, train=0)
    with pytest.raises(ValueError, match="size=16"):
        write_shapes(folder=tmp_path, size=16)
