"""Detections in the files of other programs: the same numbers again, and one message for what is wrong."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from detectors.annotations import Annotations
from detectors.metrics.coco import coco_results
from detectors.metrics.coco_reference import evaluate_json, ground_truth_json
from detectors.metrics.report import report
from detectors.structures import Detections
from detectors.training.detections_file import read_detections, write_detections
from detectors.training.saved_detections import COCO_RESULTS, NPZ, VOC_LISTS, find_saved, known_of, load_saved
from tests.metrics.test_coco_arrays import random_case
from tests.metrics.test_voc import VOC_CASES, voc_records


def write_voc_lists(folder: Path, annotations: Annotations, detections: Detections, digits: int) -> None:
    """As VOC's devkit wants them: corners count from 1, the last pixel belongs to the box."""
    folder.mkdir()
    for label, name in enumerate(annotations.class_names):
        with (folder / f"comp4_det_test_{name}.txt").open("w") as file:
            for row in np.flatnonzero(detections.labels.numpy() == label):
                image = annotations.image_ids[int(detections.image[row])]
                x0, y0, x1, y1 = detections.boxes[row].tolist()
                numbers = (detections.scores[row].item(), x0 + 1, y0 + 1, x1, y1)
                file.write(f"{image} {' '.join(f'{number:.{digits}f}' for number in numbers)}\n")


def loaded(place: Path | str, annotations: Annotations):
    return load_saved(find_saved(str(place)), lambda: annotations)


def numbers_of(annotations: Annotations, detections: Detections) -> np.ndarray:
    result = report(annotations, detections)
    rows = [result.scalars, *result.per_class.values()]
    return np.array([np.nan if value is None else value for row in rows for value in row.values()])


@pytest.mark.parametrize("seed", range(3))
def test_round_trips_give_the_same_numbers(tmp_path, seed):
    annotations, detections = random_case(seed)
    # Shifts that six digits hold: a size may lie on the limit of small boxes, and must not move.
    shift = torch.randint(64, (len(detections.boxes), 1), generator=torch.Generator().manual_seed(seed)) / 64
    detections = replace(detections, boxes=detections.boxes + shift)
    expected = numbers_of(annotations, detections)
    write_detections(tmp_path / "d.npz", annotations, detections)
    (tmp_path / "d.json").write_text(json.dumps(coco_results(annotations, detections)))
    write_voc_lists(tmp_path / "lists", annotations, detections, digits=17)
    write_voc_lists(tmp_path / "darknet", annotations, detections, digits=6)
    kinds = {"d.npz": NPZ, "d.json": COCO_RESULTS, "lists": VOC_LISTS, "darknet/comp4*.txt": VOC_LISTS}
    for name, kind in kinds.items():
        saved = loaded(tmp_path / name, annotations)
        assert (saved.kind, saved.notes) == (kind, [])
        np.testing.assert_allclose(numbers_of(annotations, saved.detections), expected, rtol=0, atol=1e-9)
    own = load_saved(find_saved(str(tmp_path / "d.npz")), None)
    np.testing.assert_array_equal(numbers_of(own.annotations, own.detections), expected)


def test_numbers_of_a_results_file_are_pycocotools(tmp_path):
    annotations, detections = random_case(5)
    results = coco_results(annotations, detections)
    for number, result in enumerate(results):  # more digits than float32 has, and boxes of negative size
        result["score"] += number * 1e-9
        result["bbox"][2] *= -1 if number % 9 == 0 else 1
    (tmp_path / "r.json").write_text(json.dumps(results))
    saved = loaded(tmp_path / "r.json", annotations)
    theirs = evaluate_json(ground_truth_json(annotations, annotations.image_ids), results)
    assert report(annotations, saved.detections).scalars["AP"] == theirs.stats["AP"]
    assert saved.notes[0].endswith("boxes of negative size, which match nothing and count as wrong")


def test_recorded_answers_of_voc_eval(tmp_path):
    """The recordings' own corners, written as they are; boxes of float64 stay so in detections.npz."""
    case = VOC_CASES["large"]
    annotations, detections = voc_records(case)
    write_voc_lists(tmp_path / "results", annotations, detections, digits=17)
    saved = loaded(tmp_path / "results", annotations)
    expected = case["expected"]["0.5"]["strict"]
    assert report(annotations, saved.detections).scalars["AP50_voc10"] == pytest.approx(
        expected["map10"], abs=1e-9
    )
    write_detections(tmp_path / "d.npz", annotations, saved.detections)
    _, again = read_detections(tmp_path / "d.npz", "")
    torch.testing.assert_close(again.boxes, saved.detections.boxes, rtol=0, atol=0)


@pytest.fixture
def truths() -> Annotations:
    """One image 000012 with a cat and a dog."""
    boxes = np.array([[0.0, 0, 10, 10], [20, 20, 40, 40]])
    flags = np.zeros(2, dtype=bool)
    return Annotations(
        class_names=("cat", "hot dog"),
        image_ids=("VOC2007/000012",),
        paths=("/set/VOC2007/JPEGImages/000012.jpg",),
        sizes=np.array([[50, 60]]),
        offsets=np.array([0, 2]),
        boxes_original=boxes,
        labels=np.array([0, 1]),
        difficult=flags,
        crowd=flags,
        areas=np.array([100.0, 400]),
        category_ids=(1, 2),
    )


RESULT = {"image_id": 12, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.5}


@pytest.mark.parametrize(
    ("own", "written"),
    [
        ("000012", ["000012", "12", 12, 12.0]),
        ("VOC2007/000012", ["VOC2007/000012", "000012"]),
        (12, [12, "12", "000012", 12.0]),
    ],
)
def test_names_of_an_image(tmp_path, truths, own, written):
    """The id, the stem of its file, and its number."""
    truths = replace(truths, image_ids=(own,))
    (tmp_path / "r.json").write_text(json.dumps([RESULT | {"image_id": name} for name in written]))
    assert loaded(tmp_path / "r.json", truths).detections.image.tolist() == [0] * len(written)
    (tmp_path / "r.json").write_text(json.dumps([RESULT | {"image_id": "2012"}]))
    with pytest.raises(ValueError, match="is it another split"):
        loaded(tmp_path / "r.json", truths)


def test_lists_of_voc(tmp_path, truths):
    """Pixels 1 to 10, both included, are the box from 0 to 10. A class without a file is named."""
    (tmp_path / "comp4_det_test_hot dog.txt").write_text(
        "\ufeff000012 0.5 1 1 10 10\r\n\n000012 .25 5 5 3 3\n"
    )
    saved = loaded(tmp_path, truths)
    assert saved.detections.boxes.tolist() == [[0, 0, 10, 10], [4, 4, 3, 3]]
    assert saved.detections.labels.tolist() == [1, 1]
    assert saved.notes == [
        "no file, so no detections, of: cat",
        "1 boxes of negative size, which match nothing and count as wrong",
    ]
    (tmp_path / "comp4_det_test_cat.txt").touch()
    assert loaded(tmp_path, truths).notes[0].startswith("1 boxes")
    (tmp_path / "comp3_det_test_cat.txt").touch()
    with pytest.raises(ValueError, match="both are of the class cat; give one"):
        loaded(tmp_path, truths)
    assert len(loaded(f"{tmp_path}/comp4*.txt", truths).detections.scores) == 2


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.json", "{}", "a.json: not a list of COCO's results"),
        ("a.json", "[1", "a.json: not valid JSON"),
        ("a.json", '[{"image_id": 1}]', "a.json: entry 0: is {'image_id': 1}, must have image_id"),
        ("a.json", [RESULT, RESULT | {"bbox": [1, 2, 3]}], "a.json: entry 1: bbox [1, 2, 3] and score 0.5"),
        ("a.json", [RESULT | {"score": "high"}], "entry 0: bbox [0, 0, 10, 10] and score 'high'"),
        ("a.json", [RESULT | {"score": True}], "score True, must be"),
        ("a.json", [RESULT | {"category_id": 7}], "category_id 7 is not one of the ground truth's (1, 2)"),
        ("a.json", [RESULT | {"category_id": None}], "image_id and category_id are 12 and None"),
        ("a.json", [RESULT | {"score": float("nan")}], "entry 0: score and box are nan, 0, 0, 10"),
        ("a.json", [RESULT | {"bbox": [0, 0, 10**400, 1]}], "score and box are 0.5, 0, 0, inf, 1"),
        ("a.json", [RESULT | {"image_id": 13}] * 2, "2 detections are of 1 images that the ground truth"),
        ("x_cat.txt", "000012 .5 1 1 9 9\n000012 .5 1 1 9\n", "x_cat.txt: line 2: is '000012 .5 1 1 9'"),
        ("x_cat.txt", "000012 .5 1 1 9 nine", "x_cat.txt: line 1: is '000012 .5 1 1 9 nine'"),
        ("x_cat.txt", "\n000012 .5 1 inf 9 9", "x_cat.txt: line 2: score and box are 0.5, 1, inf, 9, 9"),
        ("x_cat.txt", "000013 .5 1 1 9 9", "the ground truth does not have (000013)"),
        ("x_cta.txt", "", "ends with no class of the ground truth, as ..._CLASS.txt; did you mean cat?"),
        ("x_cat.txt", "a\0b", "the list of detections contains zero bytes"),
        ("a.npz", "PK but no archive", "a.npz: not a file of detections that can be used"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, truths, name, text, problem):
    truths = replace(truths, image_ids=("000012",))
    (tmp_path / name).write_text(text if isinstance(text, str) else json.dumps(text))
    with pytest.raises(ValueError, match=re.escape(problem)):
        loaded(tmp_path / name, truths)


def test_what_is_not_there_is_named(tmp_path, truths):
    for place, problem in (
        (tmp_path / "none.json", "none.json: no such file of detections"),
        (tmp_path / "none*.txt", "none.*txt: no file matches"),
        (tmp_path, r"holds no \*.txt, \*.json or \*.npz"),
    ):
        with pytest.raises(FileNotFoundError, match=problem):
            find_saved(str(place))
    (tmp_path / "a.json").write_text("[]")
    assert find_saved(str(tmp_path)).base == tmp_path
    with pytest.raises(ValueError, match=r"a.json: holds no ground truth; name the data set"):
        load_saved(find_saved(str(tmp_path)), None)
    (tmp_path / "x_cat.txt").touch()
    with pytest.raises(
        ValueError, match=r"holds several \(a.json, x_cat.txt, ...\); name one, such as detec"
    ):
        find_saved(str(tmp_path))
    (tmp_path / "y_cat.txt").write_text("[]")
    with pytest.raises(ValueError, match=r"y_cat.txt: COCO results, which is one file; name it alone"):
        find_saved(f"{tmp_path}/*.txt")


def test_our_own_file_on_other_truths(tmp_path, truths):
    """Classes and images are those of the same names. An evaluation beside it tells what is known."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]])
    found = Detections(torch.zeros(2).long(), boxes, torch.tensor([0.5, 0.6]), torch.tensor([0, 1]))
    write_detections(tmp_path / "detections_test.npz", truths, found)
    other = replace(truths, class_names=("hot dog", "cat"), labels=np.array([1, 0]))
    saved = loaded(tmp_path / "detections_test.npz", other)
    assert saved.detections.labels.tolist() == [1, 0]
    assert report(other, saved.detections).scalars["AP"] == pytest.approx(1)
    with pytest.raises(ValueError, match="the ground truth has no class 'cat'; there are: fox, hot dog"):
        loaded(tmp_path / "detections_test.npz", replace(truths, class_names=("fox", "hot dog")))
    place = find_saved(str(tmp_path / "detections_test.npz"))
    assert known_of(place) == {}
    (tmp_path / "evaluation_test.json").write_text('{"data": "pets", "split": "test", "AP": 0.5}')
    assert known_of(place) == {"data": "pets", "split": "test"}
