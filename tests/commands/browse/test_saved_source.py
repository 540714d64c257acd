"""detectors browse --detections: which images, what is right and wrong, pixels, every format, messages."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from detectors.annotations import Annotations
from detectors.commands.browse import command
from detectors.config.check import check
from detectors.config.composing import composed
from detectors.drawing.drawn_boxes import class_colours
from detectors.drawing.framed_images import CAPTION
from detectors.structures import Detections
from detectors.training.detections_file import write_detections
from detectors.training.ground_truth import read_annotations
from tests.data.files import box_xml, write_voc

SIZE = (100, 200)
ROWS = [  # image, box, score, label; of 003 nothing is found
    (0, [42, 20, 120, 80], 0.9, 1),
    (0, [0, 60, 30, 90], 0.8, 0),
    (0, [44, 20, 118, 80], 0.6, 1),  # a second time
    (0, [100, 0, 150, 50], 0.2, 0),
    (1, [10, 10, 50, 48], 0.7, 0),
    (2, [30, 30, 60, 60], 0.1, 0),
]


class Written:
    def __init__(self, place: Path):
        self.root = place / "set"
        dog = box_xml("dog", 41, 21, 120, 80)
        cat = box_xml("cat", 11, 11, 50, 50)
        write_voc(self.root, {"001": dog, "002": cat, "003": cat + dog}, size=SIZE, split="val")
        shutil.copy(self.root / "ImageSets/Main/val.txt", self.root / "ImageSets/Main/train.txt")
        for name in ("001", "002", "003"):
            cv2.imwrite(str(self.root / f"JPEGImages/{name}.jpg"), np.zeros((*SIZE, 3), np.uint8))
        self.data = ["data=voc", f"data.root={self.root}", "data.cache=null"]
        self.annotations: Annotations = read_annotations(check(composed(self.data)).data, "val")
        image, boxes, scores, labels = zip(*ROWS, strict=True)
        found = Detections(
            torch.tensor(image), torch.tensor(boxes).float(), torch.tensor(scores), torch.tensor(labels)
        )
        self.npz = place / "detections.npz"
        write_detections(self.npz, self.annotations, found)
        self.coco = place / "coco.json"
        entries = [
            {
                "image_id": f"00{i + 1}",
                "category_id": c + 1,
                "bbox": [*b[:2], b[2] - b[0], b[3] - b[1]],
                "score": s,
            }
            for i, b, s, c in ROWS
        ]
        self.coco.write_text(json.dumps(entries))
        self.lists = place / "results"
        self.lists.mkdir()
        for label, name in enumerate(("cat", "dog")):
            lines = [
                f"00{i + 1} {s} {b[0] + 1} {b[1] + 1} {b[2]} {b[3]}\n" for i, b, s, c in ROWS if c == label
            ]
            (self.lists / f"comp4_det_test_{name}.txt").write_text("".join(lines))


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Written:
    return Written(tmp_path_factory.mktemp("saved"))


def browse(*arguments: object) -> None:
    command.main([str(argument) for argument in arguments])


def table_of(printed: str) -> list[tuple]:
    """(image, right, wrong, missed) of each image shown."""
    rows = re.findall(r"^(00\d) +(\d+) +(\d+) +(\d+)$", printed, re.MULTILINE)
    return [(name, *map(int, counts)) for name, *counts in rows]


def test_images_with_most_errors_come_first(written, tmp_path, capsys):
    browse("--detections", written.npz, "--output", tmp_path, "--width", 400)
    printed = capsys.readouterr().out
    assert (
        "3 images, 4 boxes of 2 classes; from score 0.3 on at IoU .5: 2 right, 2 wrong, 2 missed" in printed
    )
    assert table_of(printed) == [("001", 1, 2, 0), ("003", 0, 0, 2), ("002", 1, 0, 0)]
    assert (tmp_path / "detections.png").is_file()
    assert not list(tmp_path.glob("samples*"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--order", "data", "--images", "2"], [("001", 1, 2, 0), ("002", 1, 0, 0)]),
        (["--ids", "3", "001"], [("003", 0, 0, 2), ("001", 1, 2, 0)]),  # also by their number
        (["--score", "0.05", "--order", "data"], [("001", 1, 3, 0), ("002", 1, 0, 0), ("003", 0, 1, 2)]),
        (["--classes", "cat", "--order", "data"], [("001", 0, 1, 0), ("002", 1, 0, 0), ("003", 0, 0, 1)]),
    ],
    ids=["in the order of the data", "by id", "lower scores", "one class"],
)
def test_which_images_classes_and_scores(arguments, expected, written, tmp_path, capsys):
    browse("--detections", written.npz, "--output", tmp_path, "--width", 400, *arguments)
    assert table_of(capsys.readouterr().out) == expected


def test_every_format_gives_the_same_picture(written, tmp_path, capsys):
    """VOC's lists and COCO's results need the data set; our file may have it, too."""
    for name, place in (("coco", written.coco), ("lists", written.lists), ("own", written.npz)):
        folder = tmp_path / name
        browse("--detections", place, *written.data, "--split", "val", "--output", folder, "--width", 400)
    browse("--detections", written.npz, "--output", tmp_path / "alone", "--width", 400)
    pictures = {path.parent.name: path.read_bytes() for path in tmp_path.glob("*/detections.png")}
    assert set(pictures) == {"coco", "lists", "own", "alone"}
    assert len(set(pictures.values())) == 1
    assert "voc val: 3 images" in capsys.readouterr().out


def test_detections_are_drawn_where_they_were_found_beside_the_truth(written, tmp_path):
    """Cells of 400 pixels: twice the image. The right cell begins after the gap of four pixels."""
    browse("--detections", written.npz, "--ids", "001", "--output", tmp_path, "--width", 1612)
    picture = cv2.imread(str(tmp_path / "detections.png"))[..., ::-1]
    assert picture.shape == (200 + CAPTION, 2 * 400 + 4, 3)
    truth, found = picture[CAPTION:, :400], picture[CAPTION:, 404:]
    cat, dog = class_colours(2)
    y0, x1, y1 = (2 * edge for edge in (20, 120, 80))
    assert (truth[y0 + 30 : y1 - 1, x1 - 1] == dog).all()
    assert not (truth == cat).all(-1).any()
    assert (found[2 * 60 + 30 : 2 * 90 - 1, 2 * 30 - 1] == cat).all()  # the wrong one
    assert (found[y0 + 30 : y1 - 1, x1 - 1] == dog).all()
    assert (found[y0 + 30 : y1 - 1, 2 * 40] == 255).all(-1).any()  # the dashed truth


def test_images_that_are_gone_are_named(tmp_path, capsys):
    gone = Written(tmp_path)
    (gone.root / "JPEGImages/001.jpg").unlink()
    arguments = ["--detections", gone.npz, "--width", 400]
    browse(*arguments, "--output", tmp_path / "out")
    assert re.search(r"^left out: \S+/001\.jpg: ", capsys.readouterr().err, re.MULTILINE)
    with pytest.raises(SystemExit, match="2"):
        browse(*arguments, "--ids", "001", "--output", tmp_path / "none")
    assert "none of the images can be read, see above; name the data set" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--anchors"], "--anchors: --detections shows saved boxes on original images"),
        (["--checkpoint", "r"], "--checkpoint: --detections shows saved boxes"),
        (["model=ssd300"], "model=ssd300: --detections needs no network"),
        (["--split", "test"], "--split test: name the data set, too, as data="),
        (["--classes", "cta"], "--classes cta: the ground truth has no such class; did you mean cat"),
        (["--ids", "009"], "--ids 009: the ground truth has no such image"),
        (["--score", "-1"], "--score -1.0: must be 0 or more"),
    ],
)
def test_wrong_arguments_of_detections(arguments, message, written, capsys):
    with pytest.raises(SystemExit, match="2"):
        browse("--detections", written.npz, *arguments)
    assert message in capsys.readouterr().err


def test_options_that_need_detections(written, capsys):
    for arguments in (["--score", "0.5"], ["--ids", "1"], ["--order", "data"], ["--classes", "cat"]):
        with pytest.raises(SystemExit, match="2"):
            browse(*written.data, *arguments)
        assert f"{arguments[0]}: is for saved detections; add --detections FILE" in capsys.readouterr().err


def test_another_programs_file_needs_the_data_set(written, capsys):
    with pytest.raises(SystemExit, match="2"):
        browse("--detections", written.coco)
    assert "holds no ground truth; name the data set" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        browse("--detections", written.root / "nothing.npz")
    assert "no such file of detections" in capsys.readouterr().err
