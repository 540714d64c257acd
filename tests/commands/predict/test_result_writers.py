"""What the files say is what was found: read back by json, csv and the readers of the data sets' formats."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detectors.annotations import Annotations
from detectors.commands.predict.options import FormatChoice
from detectors.commands.predict.predictor import Prediction
from detectors.commands.predict.result_writers import category_ids_of, result_writers
from detectors.data.class_names import COCO_CLASSES
from detectors.data.darknet_labels import read_darknet
from detectors.data.result_files import read_coco_results
from detectors.data.voc import read_voc

NAMES = ("cat", "big dog, old")


@pytest.fixture
def predictions() -> list[Prediction]:
    rng = np.random.default_rng(0)
    found = []
    for name, count in (("set/000012.jpg", 3), ("set/b.jpg", 0), ("set/c.jpg", 2)):
        low = rng.uniform(0, 40, (count, 2))
        boxes = np.hstack([low, low + rng.uniform(3, 19, (count, 2))]).astype(np.float32)
        scores = np.sort(rng.uniform(0.3, 1, count))[::-1].astype(np.float32)
        found.append(Prediction(name, (60, 80), boxes, scores, rng.integers(0, 2, count), NAMES))
    return found


def write(predictions, folder: Path, *formats: FormatChoice, count: bool = False) -> None:
    with result_writers(formats, count, folder) as writers:
        for prediction in predictions:
            for writer in writers:
                name = Path(Path(prediction.path).stem)
                writer.add(prediction, name if prediction.frame is None else name / f"{prediction.frame:06}")


def as_annotations(predictions) -> Annotations:
    counts = [len(prediction) for prediction in predictions]
    boxes = np.concatenate([prediction.boxes_xyxy for prediction in predictions]).astype(float)
    return Annotations(
        class_names=NAMES,
        image_ids=[Path(prediction.path).stem for prediction in predictions],
        paths=[prediction.path for prediction in predictions],
        sizes=np.array([(60, 80)] * len(counts)),
        offsets=np.cumsum([0, *counts]),
        boxes_original=boxes,
        labels=np.concatenate([prediction.labels for prediction in predictions]),
        difficult=np.zeros(len(boxes), bool),
        crowd=np.zeros(len(boxes), bool),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(1),
        category_ids=(1, 2),
    )


def test_json_is_one_list_with_a_line_for_each_image(predictions, tmp_path, capsys):
    write(predictions, tmp_path, FormatChoice("json", None))
    text = capsys.readouterr().out
    content = json.loads(text)
    assert [image["image"] for image in content] == [prediction.path for prediction in predictions]
    assert len(text.splitlines()) == 2 + len(predictions)
    for image, prediction in zip(content, predictions, strict=True):
        assert (image["height"], image["width"]) == (60, 80)
        assert [found["class"] for found in image["detections"]] == prediction.names
        np.testing.assert_array_equal(
            np.array([found["box"] for found in image["detections"]], np.float32).reshape(-1, 4),
            prediction.boxes_xyxy,
        )
    write([], tmp_path, FormatChoice("json", tmp_path / "none.json"))
    assert json.loads((tmp_path / "none.json").read_text()) == []


def test_csv_has_a_row_for_each_box(predictions, tmp_path):
    write(predictions, tmp_path, FormatChoice("csv", tmp_path / "found.csv"))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "found.csv").read_text())))
    assert [row["class"] for row in rows] == [name for one in predictions for name in one.names]
    assert float(rows[0]["xmax"]) == predictions[0].boxes_xyxy[0, 2] and rows[0]["frame"] == ""


def test_coco_results_are_read_back_by_our_reader(predictions, tmp_path):
    write(predictions, tmp_path, FormatChoice("coco", tmp_path / "results.json"))
    truths = as_annotations(predictions)
    found = read_coco_results(tmp_path / "results.json", truths)
    np.testing.assert_array_equal(found.image.numpy(), truths.image)
    np.testing.assert_array_equal(found.labels.numpy(), truths.labels)
    np.testing.assert_allclose(found.boxes.numpy(), truths.boxes_original, atol=1e-9)
    ids = {entry["image_id"] for entry in json.loads((tmp_path / "results.json").read_text())}
    assert ids == {12, "c"}


def test_cocos_own_category_ids():
    ids = dict(zip(COCO_CLASSES, category_ids_of(COCO_CLASSES), strict=True))
    published = {"person": 1, "stop sign": 13, "backpack": 27, "dining table": 67, "toothbrush": 90}
    assert len(ids) == 80 and published.items() <= ids.items()
    assert category_ids_of(NAMES) == [1, 2]


def test_voc_and_darknet_files_are_a_data_set(predictions, tmp_path):
    """Beside their images and a list, the readers give the boxes back."""
    root = tmp_path / "VOC"
    write(
        predictions,
        tmp_path,
        FormatChoice("voc", root / "Annotations"),
        FormatChoice("darknet", root / "labels"),
    )
    for folder in ("JPEGImages", "images"):
        (root / folder).mkdir()
        for prediction in predictions:
            Image.new("RGB", (80, 60)).save(root / folder / Path(prediction.path).name)
    (root / "ImageSets/Main").mkdir(parents=True)
    stems = [Path(prediction.path).stem for prediction in predictions]
    (root / "ImageSets/Main/val.txt").write_text("\n".join(stems))
    (root / "val.txt").write_text("".join(f"images/{stem}.jpg\n" for stem in stems))
    (root / "data.yaml").write_text("val: val.txt\nnames: [cat, 'big dog, old']\n")
    truths = as_annotations(predictions)
    for read in (
        read_voc(root=root, image_sets=["val"], class_names=list(NAMES)),
        read_darknet(root=root, image_sets=["val"]),
    ):
        np.testing.assert_array_equal(read.labels, truths.labels)
        np.testing.assert_array_equal(read.offsets, truths.offsets)
        np.testing.assert_allclose(read.boxes_original, truths.boxes_original, atol=1e-4)


def test_boxes_of_a_pixel_are_no_voc_objects(tmp_path):
    boxes = np.array([[5, 5, 5.5, 9], [1, 1, 9, 9]], np.float32)
    found = Prediction("a.jpg", (20, 20), boxes, np.ones(2, np.float32), np.zeros(2, np.int64), NAMES)
    write([found], tmp_path, FormatChoice("voc", None))
    assert (tmp_path / "voc/a.xml").read_text().count("<object>") == 1


def test_frames_have_a_number_everywhere(predictions, tmp_path, capsys):
    frame = replace(predictions[0], path="clip.mp4", frame=7)
    formats = [
        FormatChoice("lines", None),
        FormatChoice("json", tmp_path / "j"),
        FormatChoice("darknet", None),
    ]
    write([frame], tmp_path, *formats)
    assert capsys.readouterr().out.startswith("clip.mp4#7: ")
    assert json.loads((tmp_path / "j").read_text())[0]["frame"] == 7
    assert len((tmp_path / "darknet/clip/000007.txt").read_text().splitlines()) == 3


def test_counts_of_each_image_and_in_all(predictions, tmp_path, capsys):
    write(predictions, tmp_path, count=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "set/b.jpg: nothing"
    total = sum(
        int(part.split()[0]) for part in lines[-1].partition(": ")[2].split(", ") if part[0].isdigit()
    )
    assert lines[-1].startswith("in all 3 images: ") and total == 5


def test_after_an_error_no_file_is_there(predictions, tmp_path):
    formats = [FormatChoice("json", tmp_path / "found.json")]
    writers = result_writers(formats, False, tmp_path)
    writers.__enter__()[0].add(predictions[0], Path("a"))
    assert not (tmp_path / "found.json").exists()
    error = OSError("full")
    assert writers.__exit__(OSError, error, None) is False
    assert list(tmp_path.iterdir()) == []
