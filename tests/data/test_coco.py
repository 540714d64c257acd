"""The COCO reader: ids with gaps, crowd boxes, images without boxes, selected classes, and its errors."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from detectors.data.coco import read_coco, scan_coco
from tests.data.files import write_coco

CONTENT = {
    "images": [
        {"id": 7, "file_name": "g.jpg", "height": 60, "width": 80},
        {"id": 3, "file_name": "c.jpg"},
        {"id": 5, "file_name": "e.jpg"},
    ],
    "categories": [
        {"id": 90, "name": "toothbrush"},
        {"id": 2, "name": "bicycle"},
        {"id": 13, "name": "stop sign"},
    ],
    "annotations": [
        {"id": 1, "image_id": 5, "category_id": 90, "bbox": [1, 2, 3, 4], "area": 9.5, "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 2, "bbox": [10.5, 20, 30, 10.25], "iscrowd": 1},
        {"id": 3, "image_id": 5, "category_id": 2, "bbox": [0, 0, 80, 60]},
    ],
}


def test_everything_is_read(tmp_path):
    annotations = read_coco(**write_coco(tmp_path, CONTENT))
    assert annotations.class_names == ("bicycle", "stop sign", "toothbrush")
    assert annotations.category_ids == (2, 13, 90)
    assert tuple(annotations.image_ids) == (7, 3, 5)
    assert_array_equal(annotations.sizes, [[60, 80]] * 3)  # the second and third from the image files
    assert_array_equal(annotations.offsets, [0, 1, 1, 3])  # image 3 has no boxes
    assert_array_equal(annotations.boxes_original, [[10.5, 20, 40.5, 30.25], [1, 2, 4, 6], [0, 0, 80, 60]])
    assert_array_equal(annotations.labels, [0, 2, 0])
    assert_array_equal(annotations.crowd, [True, False, False])
    assert_array_equal(annotations.areas, [30 * 10.25, 9.5, 4800])
    assert not annotations.difficult.any()


def test_class_names_select_and_order(tmp_path):
    annotations = read_coco(**write_coco(tmp_path, CONTENT), class_names=["toothbrush", "stop sign"])
    assert annotations.category_ids == (90, 13) and len(annotations) == 3
    assert_array_equal(annotations.labels, [0])
    assert_array_equal(annotations.boxes_original, [[1, 2, 4, 6]])
    with pytest.raises(ValueError, match="no category 'bicicle'; did you mean 'bicycle'"):
        read_coco(**write_coco(tmp_path, CONTENT), class_names=["bicicle"])


def test_degenerate_boxes(tmp_path, caplog):
    content = copy.deepcopy(CONTENT)
    content["annotations"] += [
        {"id": 44, "image_id": 3, "category_id": 13, "bbox": [5, 5, 0, 9]},
        {"id": 45, "image_id": 7, "category_id": 13, "bbox": [5, float("nan"), 1, 9]},
    ]
    files = write_coco(tmp_path, content)
    with pytest.raises(ValueError, match="boxes without area: 1") as caught:
        read_coco(**files)
    for fault in (
        "annotation 44 of c.jpg: stop sign [5, 5, 0, 9]",
        "annotation 45 of g.jpg",
        "data.on_error=skip",
    ):
        assert fault in str(caught.value)
    annotations = read_coco(**files, on_error="skip")
    assert "annotation 44" in caplog.text and "annotation 45" in caplog.text
    assert_array_equal(annotations.offsets, [0, 1, 1, 3])


FAULTS = {
    # What breaks the content, the kind of the problem, its text, and how many of the three boxes are left.
    "no bbox": (
        lambda content: content["annotations"][1].pop("bbox"),
        "broken-object",
        "annotations[1] lacks 'bbox'",
        2,
    ),
    "not an object": (
        lambda content: content["annotations"].append(5),
        "broken-object",
        "annotations[3] is 5, not an object",
        3,
    ),
    "three numbers": (
        lambda content: first_entry(content).update(bbox=[1, 2, 3]),
        "broken-object",
        "annotation 1: bbox is [1, 2, 3], not four",
        2,
    ),
    "a string": (
        lambda content: first_entry(content).update(bbox=["1", 2, 3, 4]),
        "broken-object",
        "bbox is ['1', 2, 3, 4], not four numbers",
        2,
    ),
    "a boolean": (
        lambda content: first_entry(content).update(bbox=[True, 2, 3, 4]),
        "broken-object",
        "bbox is [True, 2, 3, 4], not four",
        2,
    ),
    "not a list": (
        lambda content: first_entry(content).update(bbox={"x": 1}),
        "broken-object",
        "bbox is {'x': 1}, not four numbers",
        2,
    ),
    "infinite": (
        lambda content: first_entry(content).update(bbox=[math.inf, 2, 3, 4]),
        "broken-object",
        "annotation 1 of e.jpg: toothbrush [inf, ",
        2,
    ),
    "huge": (
        lambda content: first_entry(content).update(bbox=[1, 2, 1e308, 4]),
        "broken-object",
        "toothbrush [1, 2, 1e+308, 4]",
        2,
    ),
    "huge integer": (
        lambda content: first_entry(content).update(bbox=[10**400, 2, 3, 4]),
        "broken-object",
        "annotation 1 of e.jpg",
        2,
    ),
    "negative": (
        lambda content: first_entry(content).update(bbox=[1, 2, -3, 4]),
        "no-area",
        "toothbrush [1, 2, -3, 4]",
        2,
    ),
    "thin": (
        lambda content: first_entry(content).update(bbox=[100, 2, 1e-9, 4]),
        "no-area",
        "toothbrush [100, 2, 1e-09, 4]",
        2,
    ),
    "unknown image": (
        lambda content: first_entry(content).update(image_id=99),
        "broken-object",
        "annotation 1: image_id 99 is not in the file's images",
        2,
    ),
    "invalid image id": (
        lambda content: first_entry(content).update(image_id=[5]),
        "broken-object",
        "image_id [5] is not in the file's images",
        2,
    ),
    "unknown category": (
        lambda content: first_entry(content).update(category_id=1),
        "unknown-class",
        "annotation 1: category_id 1 is not in the file's categories",
        2,
    ),
    "invalid category id": (
        lambda content: first_entry(content).update(category_id={}),
        "unknown-class",
        "category_id {} is not in the file's categories",
        2,
    ),
    "same image twice": (
        lambda content: content["images"].append(dict(content["images"][1])),
        "broken-entry",
        "images[3] c.jpg repeats",
        3,
    ),
    "no file name": (
        lambda content: content["images"][0].update(file_name=None),
        "broken-entry",
        "images[0] has the id 7 and the file_name",
        2,
    ),
    "image id": (
        lambda content: content["images"][1].update(id=3.5),
        "broken-entry",
        "images[1] has the id 3.5",
        3,
    ),
    "no category name": (
        lambda content: content["categories"].append({"id": 4}),
        "broken-entry",
        "categories[3] lacks 'name'",
        3,
    ),
    "category id": (
        lambda content: content["categories"].append({"id": "4", "name": "x"}),
        "broken-entry",
        "categories[3] has the id '4'",
        3,
    ),
    "huge category id": (
        lambda content: content["categories"].append({"id": 2**63, "name": "x"}),
        "broken-entry",
        "categories[3] has the id 9223372036854775808",
        3,
    ),
    "same category": (
        lambda content: content["categories"].append({"id": 2, "name": "x"}),
        "broken-entry",
        "categories[3] repeats",
        3,
    ),
}


def first_entry(content: dict) -> dict:
    return content["annotations"][0]


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_one_problem_and_nothing_else_is_lost(tmp_path, fault, caplog):
    breaks, kind, text, left = FAULTS[fault]
    content = copy.deepcopy(CONTENT)
    files = write_coco(tmp_path, content)  # the images of the whole content
    breaks(content)
    files["annotation_file"].write_text(json.dumps(content))
    annotations, (problem,) = scan_coco(**files)
    assert problem.kind == kind and text in problem.what and problem.file == str(files["annotation_file"])
    assert len(annotations.labels) == left
    assert np.isfinite(annotations.boxes_original).all() and np.isfinite(annotations.areas).all()
    with pytest.raises(ValueError, match="data.on_error=skip") as caught:
        read_coco(**files)
    assert text in str(caught.value)
    assert len(read_coco(**files, on_error="skip").labels) == left and text in caplog.text


@pytest.mark.parametrize("value", ["", None, 0, -5, 1e308, math.nan, math.inf, [480], 10**30])
def test_invalid_sizes_areas_and_flags_are_replaced(tmp_path, value):
    content = copy.deepcopy(CONTENT)
    content["images"][0]["height"] = value
    first_entry(content)["area"] = value
    first_entry(content)["iscrowd"] = value
    content["images"][1] |= {"height": True, "width": True}  # true is no number
    annotations, problems = scan_coco(**write_coco(tmp_path, content))
    assert not problems
    assert_array_equal(annotations.sizes, [[60, 80]] * 3)
    first_area = 0 if value == 0 else 3 * 4
    assert_array_equal(annotations.areas, [30 * 10.25, first_area, 4800])
    assert_array_equal(annotations.crowd, [True, False, False])


def test_ids_that_share_a_name_are_one_class(tmp_path):
    """Nothing is lost; the class has the lowest of its ids."""
    content = copy.deepcopy(CONTENT)
    content["categories"] += [{"id": 91, "name": "bicycle"}, {"id": 1, "name": "stop sign"}]
    content["categories"] += [{"id": 1, "name": "stop sign"}]
    content["annotations"][1]["category_id"] = 91
    content["annotations"][0]["category_id"] = 1
    files = write_coco(tmp_path, content)
    annotations, problems = scan_coco(**files)
    assert not problems
    assert annotations.class_names == ("stop sign", "bicycle", "toothbrush")
    assert annotations.category_ids == (1, 2, 90)
    assert_array_equal(annotations.labels, [1, 0, 1])
    chosen = read_coco(**files, class_names=["zebra", "bicycle", "stop sign"])
    assert chosen.category_ids == (92, 2, 1)  # 92: unused in the file
    assert_array_equal(chosen.labels, [1, 2, 1])


def test_whole_valued_floats_are_ids(tmp_path):
    """Of images and categories, in their own lists and in the annotations."""
    content = copy.deepcopy(CONTENT)
    for entry in (*content["images"], *content["categories"]):
        entry["id"] = float(entry["id"])
    content["annotations"][0] |= {"image_id": 5.0, "category_id": 90.0}
    annotations, problems = scan_coco(**write_coco(tmp_path, content))
    assert not problems and annotations.category_ids == (2, 13, 90)
    assert list(annotations.image_ids) == [7, 3, 5] and all(type(i) is int for i in annotations.image_ids)
    assert_array_equal(annotations.labels, [0, 2, 0])


@pytest.mark.parametrize("value", [3.5, math.nan, math.inf, True, None, [1]])
def test_other_ids_are_reported(tmp_path, value):
    content = copy.deepcopy(CONTENT)
    files = write_coco(tmp_path, content)
    content["images"].append({"id": value, "file_name": "g.jpg"})
    content["images"].append({"id": 1, "file_name": "g.jpg"})
    content["categories"].append({"id": value, "name": "x"})
    content["categories"].append({"id": 1, "name": "y"})
    content["annotations"].append({"id": 8, "image_id": value, "category_id": 2, "bbox": [1, 1, 5, 5]})
    content["annotations"].append({"id": 9, "image_id": 7, "category_id": value, "bbox": [1, 1, 5, 5]})
    files["annotation_file"].write_text(json.dumps(content))
    annotations, problems = scan_coco(**files)
    assert [problem.what.partition(",")[0] for problem in problems] == [
        f"categories[3] has the id {value} and the name 'x'",
        f"images[3] has the id {value} and the file_name 'g.jpg'",
        f"annotation 8: image_id {value} is not in the file's images",
        f"annotation 9: category_id {value} is not in the file's categories",
    ]
    assert len(annotations.labels) == 3


STRUCTURE = {
    "no annotations": (
        lambda content: content.pop("annotations"),
        "instances.json: no list of 'annotations'",
    ),
    "an object": (lambda content: content.update(images={}), "instances.json: no list of 'images'"),
    "no image": (lambda content: content.update(images=[]), "instances.json: lists no image"),
}


@pytest.mark.parametrize("fault", STRUCTURE)
def test_a_file_without_its_lists_is_refused(tmp_path, fault):
    breaks, message = STRUCTURE[fault]
    content = copy.deepcopy(CONTENT)
    breaks(content)
    (tmp_path / "images").mkdir()
    (tmp_path / "instances.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        scan_coco(annotation_file=tmp_path / "instances.json", image_folder=tmp_path / "images")


def test_a_class_that_only_another_split_has_gets_an_id(tmp_path):
    """The id is unused, and boxes keep their classes. A list without any known name is an error."""
    files = write_coco(tmp_path, CONTENT)
    annotations = read_coco(**files, class_names=["zebra", "bicycle", "stop sign", "toothbrush"])
    assert annotations.category_ids == (91, 2, 13, 90)
    assert_array_equal(annotations.labels, [1, 3, 1])
    with pytest.raises(ValueError, match="no category 'zebra'"):
        read_coco(**files, class_names=["zebra"])


def test_image_ids_may_be_strings(tmp_path):
    content = copy.deepcopy(CONTENT)
    for image in content["images"]:
        image["id"] = f"no. {image['id']}"
    for entry in content["annotations"]:
        entry["image_id"] = f"no. {entry['image_id']}"
    annotations = read_coco(**write_coco(tmp_path, content))
    assert annotations.image_ids == ("no. 7", "no. 3", "no. 5") and json.dumps(list(annotations.image_ids))
    assert_array_equal(annotations.offsets, [0, 1, 1, 3])


def test_missing_files(tmp_path):
    files = write_coco(tmp_path, CONTENT)
    with pytest.raises(FileNotFoundError, match="elsewhere: no such folder"):
        read_coco(annotation_file=files["annotation_file"], image_folder=tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"no\.json: no such annotation file"):
        read_coco(annotation_file=tmp_path / "no.json", image_folder=files["image_folder"])
    (files["image_folder"] / "e.jpg").unlink()
    (files["image_folder"] / "c.jpg").write_bytes(b"no image")  # the JSON file does not have its size
    annotations, problems = scan_coco(**files)
    assert [(problem.kind, problem.file[-5:]) for problem in problems] == [
        ("broken-image", "c.jpg"),
        ("missing-image", "e.jpg"),
    ]
    assert tuple(annotations.image_ids) == (7,)
    assert_array_equal(annotations.boxes_original, [[10.5, 20, 40.5, 30.25]])
    (files["image_folder"] / "g.jpg").unlink()
    with pytest.raises(ValueError, match="no image is left"):
        read_coco(**files, on_error="skip")


@pytest.mark.parametrize(
    "text",
    ['{"images": [', "", "[1, 2]", "null", "[" * 100000, '{"images": ' + "1" * 5000 + "}", "\udcff\udcfe"],
)
def test_invalid_json_is_refused(tmp_path, text):
    (tmp_path / "instances.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(
        ValueError,
        match=r"instances\.json: (not valid JSON|the annotation file is not UTF-8|no list of 'categories')",
    ):
        read_coco(annotation_file=tmp_path / "instances.json", image_folder=tmp_path)


@pytest.mark.data
@pytest.mark.parametrize(("split", "images", "boxes"), [("train", 209, 1899), ("val", 206, 1786)])
def test_coco_mini(shared, split, images, boxes):
    """The counts of PROVENANCE.md, and the boxes of every seventh image against the file."""
    file = shared / f"data/coco2017-mini/annotations/instances_{split}2017_official.json"
    annotations = read_coco(annotation_file=file, image_folder=shared / f"data/coco2017-mini/{split}2017")
    assert (len(annotations), len(annotations.labels), len(annotations.class_names)) == (images, boxes, 80)
    content = json.loads(file.read_text())
    for row in range(0, images, 7):
        image_id = annotations.image_ids[row]
        entries = [entry for entry in content["annotations"] if entry["image_id"] == image_id]
        rows = annotations.rows(row)
        xywh = np.array([entry["bbox"] for entry in entries]).reshape(-1, 4)
        boxes_here = annotations.boxes_original[rows]
        assert_allclose(boxes_here[:, 2:] - boxes_here[:, :2], xywh[:, 2:], atol=1e-9)
        category_ids = [annotations.category_ids[label] for label in annotations.labels[rows]]
        assert category_ids == [entry["category_id"] for entry in entries]
        assert_array_equal(annotations.crowd[rows], [entry["iscrowd"] for entry in entries])
        assert_array_equal(annotations.areas[rows], [entry["area"] for entry in entries])


@pytest.mark.data
def test_coco_mini_crowd_boxes_and_images_without_boxes(shared):
    folder = shared / "data/coco2017-mini"
    splits = [
        read_coco(
            annotation_file=folder / f"annotations/instances_{split}2017_official.json",
            image_folder=folder / f"{split}2017",
        )
        for split in ("train", "val")
    ]
    assert sum(int(split.crowd.sum()) for split in splits) == 39
    empty = {split.image_ids[row] for split in splits for row in np.flatnonzero(np.diff(split.offsets) == 0)}
    assert empty <= {250, 508, 262284, 58636, 226111} and 226111 in empty
