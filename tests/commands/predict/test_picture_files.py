"""Crops and their folders. (The names of pictures: test_predictor.py.)"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from detectors.commands.predict.frames import Frame
from detectors.commands.predict.inputs import InputSource
from detectors.commands.predict.picture_files import class_folders, write_crops
from detectors.commands.predict.predictor import Prediction


def test_a_crop_holds_the_pixels_of_its_box(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    boxes = np.array([[2.4, 3.6, 10.2, 12], [38, 20, 40, 30], [7, 7, 7, 9]], np.float32)
    found = Prediction("a.png", (30, 40), boxes, np.ones(3, np.float32), np.array([1, 0, 1]), ("cat", "dog"))
    write_crops(Frame(InputSource("image", "a.png"), image), found, tmp_path, Path("sub/a"))
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")) == [
        "cat/sub/a-2.png",
        "dog/sub/a-1.png",
    ]
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "dog/sub/a-1.png"))[..., ::-1], image[3:12, 2:11])
    np.testing.assert_array_equal(
        cv2.imread(str(tmp_path / "cat/sub/a-2.png"))[..., ::-1], image[20:30, 38:40]
    )


def test_a_class_name_is_no_path():
    """Names from a checkpoint may be anything; each class has one folder, below the crops."""
    names = ["cat", "../../etc", "..", "a/b", "a:b", "", "Cat", "x\n", "vélo"]
    folders = class_folders(names)
    assert folders == [
        "cat-0",
        ".._.._etc".strip("."),
        "class-2",
        "a_b-3",
        "a_b-4",
        "class-5",
        "Cat-6",
        "x_",
        "vélo",
    ]
    assert len({folder.casefold() for folder in folders}) == len(names)
    assert all(Path(folder).name == folder and folder not in (".", "..") for folder in folders)
