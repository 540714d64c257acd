"""The COCO reader: ids with gaps, crowd, negatives, selected classes, and its errors."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from detectors.data.coco import read_coco
from tests.data.files import write_coco

CONTENT = {
    "images": [
        {"id": 7, "file_name": "g.jpg", "height": 60, "width": 80},
        {"id": 3, "file_name": "c.jpg"},
        {"id": 5, "file_name": "e.jpg"},
    ],
    "categories": [{"id": 90, "name": "toothbrush"}, {"id": 2, "name": "bicycle"}, {"id": 13, "name": "stop sign"}],
    "annotations": [
        {"id": 1, "image_id": 5, "category_id": 90, "bbox": [1, 2, 3, 4], "area": 9.5, "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 2, "bbox": [10.5, 20, 30, 10.25], "iscrowd": 1},
        {"id": 3, "image_id": 5, "category_id": 2, "bbox": [0, 0, 80, 60]},
    ],
}


def test_everything_is_read(tmp_path):
    truths = read_coco(**write_coco(tmp_path, CONTENT))
    assert truths.class_names == ("bicycle", "stop sign", "toothbrush") and truths.category_ids == (2, 13, 90)
    assert truths.image_ids == (7, 3, 5)
    assert_array_equal(truths.sizes, [[60, 80]] * 3)  # the second and third from the image files
    assert_array_equal(truths.offsets, [0, 1, 1, 3])  # image 3 is a negative
    assert_array_equal(truths.boxes_original, [[10.5, 20, 40.5, 30.25], [1, 2, 4, 6], [0, 0, 80, 60]])
    assert_array_equal(truths.labels, [0, 2, 0])
    assert_array_equal(truths.crowd, [True, False, False])
    assert_array_equal(truths.areas, [30 * 10.25, 9.5, 4800])
    assert not truths.difficult.any()


def test_class_names_select_and_order(tmp_path):
    truths = read_coco(**write_coco(tmp_path, CONTENT), class_names=["toothbrush", "stop sign"])
    assert truths.category_ids == (90, 13) and len(truths) == 3
    assert_array_equal(truths.labels, [0])
    assert_array_equal(truths.boxes_original, [[1, 2, 4, 6]])
    with pytest.raises(ValueError, match="no category 'bicicle'; did you mean 'bicycle'"):
        read_coco(**write_coco(tmp_path, CONTENT), class_names=["bicicle"])


def test_degenerate_boxes(tmp_path, caplog):
    content = copy.deepcopy(CONTENT)
    content["annotations"] += [
        {"id": 44, "image_id": 3, "category_id": 13, "bbox": [5, 5, 0, 9]},
        {"id": 45, "image_id": 7, "category_id": 13, "bbox": [5, float("nan"), 1, 9]},
    ]
    files = write_coco(tmp_path, content)
    with pytest.raises(ValueError, match="2 boxes without area") as caught:
        read_coco(**files)
    for fault in ("annotation 44 of c.jpg: stop sign [5, 5, 0, 9]", "annotation 45 of g.jpg", "data.on_degenerate=drop"):
        assert fault in str(caught.value)
    truths = read_coco(**files, on_degenerate="drop")
    assert "annotation 44" in caplog.text
    assert_array_equal(truths.offsets, [0, 1, 1, 3])


FAULTS = {
    "no annotations": (lambda content: content.pop("annotations"), "instances.json: no list of 'annotations'"),
    "no bbox": (lambda content: content["annotations"][1].pop("bbox"), r"instances.json annotations\[1\]: lacks 'bbox'"),
    "bad bbox": (lambda content: content["annotations"][1].update(bbox=[1, 2, 3]), r"annotation 2: bbox is \[1, 2, 3\], not four numbers"),
    "unknown image": (lambda content: content["annotations"][0].update(image_id=99), "annotation 1: image_id 99 is listed nowhere"),
    "unknown category": (lambda content: content["annotations"][0].update(category_id=1), "annotation 1: category_id 1 is listed nowhere"),
    "same id twice": (lambda content: content["images"][0].update(id=3), "1 images repeat the id of another"),
    "no image": (lambda content: content.update(images=[]), "instances.json: lists no image"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_one_error_that_names_the_entry(tmp_path, fault):
    breaks, message = FAULTS[fault]
    content = copy.deepcopy(CONTENT)
    breaks(content)
    with pytest.raises(ValueError, match=message):
        read_coco(**write_coco(tmp_path, content))


def test_missing_files(tmp_path):
    files = write_coco(tmp_path, CONTENT)
    with pytest.raises(FileNotFoundError, match="elsewhere: no such folder"):
        read_coco(annotation_file=files["annotation_file"], image_folder=tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"no\.json: no such annotation file"):
        read_coco(annotation_file=tmp_path / "no.json", image_folder=files["image_folder"])
    (files["image_folder"] / "e.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"images/e\.jpg: no such image"):
        read_coco(**files)
    files["annotation_file"].write_text('{"images": [')
    with pytest.raises(ValueError, match=r"instances\.json: not valid JSON"):
        read_coco(**files)


@pytest.mark.data
@pytest.mark.parametrize(("split", "images", "boxes"), [("train", 209, 1899), ("val", 206, 1786)])
def test_coco_mini(shared, split, images, boxes):
    """Counts of PROVENANCE.md, and every box against the file, read independently."""
    file = shared / f"data/coco2017-mini/annotations/instances_{split}2017_official.json"
    truths = read_coco(annotation_file=file, image_folder=shared / f"data/coco2017-mini/{split}2017")
    assert (len(truths), len(truths.labels), len(truths.class_names)) == (images, boxes, 80)
    content = json.loads(file.read_text())
    for row in range(0, images, 7):
        here = [truth for truth in content["annotations"] if truth["image_id"] == truths.image_ids[row]]
        rows = truths.rows(row)
        xywh = np.array([truth["bbox"] for truth in here]).reshape(-1, 4)
        assert_allclose(truths.boxes_original[rows, 2:] - truths.boxes_original[rows, :2], xywh[:, 2:], atol=1e-9)
        assert [truths.category_ids[label] for label in truths.labels[rows]] == [truth["category_id"] for truth in here]
        assert_array_equal(truths.crowd[rows], [truth["iscrowd"] for truth in here])
        assert_array_equal(truths.areas[rows], [truth["area"] for truth in here])


@pytest.mark.data
def test_coco_mini_crowd_and_negatives(shared):
    folder = shared / "data/coco2017-mini"
    truths = [
        read_coco(annotation_file=folder / f"annotations/instances_{split}2017_official.json", image_folder=folder / f"{split}2017")
        for split in ("train", "val")
    ]
    assert sum(int(part.crowd.sum()) for part in truths) == 39
    negatives = {part.image_ids[row] for part in truths for row in np.flatnonzero(np.diff(part.offsets) == 0)}
    assert negatives <= {250, 508, 262284, 58636, 226111} and 226111 in negatives
