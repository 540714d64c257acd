"""COCO's twelve numbers through both entry points, against recorded and published ones.

pycocotools' numbers are recorded, see fixtures/evaluation/README.md.
"""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from detectors.annotations import Annotations
from detectors.commands.verify.evaluators import coco_records
from detectors.metrics.coco import STATISTICS, coco_results, evaluate_coco
from detectors.metrics.coco_reference import evaluate_json
from detectors.structures import Detections

FOLDER = Path(__file__).parents[1] / "fixtures" / "evaluation"
COCO_CASES = {
    **json.loads((FOLDER / "coco_edge.json").read_text()),
    **json.loads(gzip.decompress((FOLDER / "coco_random.json.gz").read_bytes())),
}
KNOWN = json.loads(gzip.decompress((FOLDER / "known_pairs.json.gz").read_bytes()))
NOTHING = Detections.concatenate([])


def test_no_case_is_missing():
    assert len(COCO_CASES) == 25 + 10


@pytest.mark.parametrize("entry", ["json", "records"])
@pytest.mark.parametrize("name", COCO_CASES)
def test_recorded_answers(name, entry, capsys):
    case = COCO_CASES[name]
    if entry == "json":
        result = evaluate_json(case["gt"], case["dt"])
    else:
        result = evaluate_coco(*coco_records(case))
    assert tuple(result.stats) == STATISTICS
    assert_equal(list(result.stats.values()), case["expected"]["stats"])
    assert_equal(result.ap, case["expected"]["ap_per_class"])
    assert_equal(result.ap50, case["expected"]["ap50_per_class"])
    assert_equal(result.ap75, case["expected"]["ap75_per_class"])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["cocoapi_val2014_fakebbox100", "padilla_sampled_coco"])
def test_published_pairs(name):
    """3 decimals in cocodataset/cocoapi, results/val2014_fake_eval_res.txt.

    6 decimals in rafaelpadilla's tests/test_eval_coco.py.
    """
    case = KNOWN[name]
    if "published_3dp" in case:
        published = case["published_3dp"]
        tolerance = 5e-4
    else:
        published = case["expected_6dp"]
        tolerance = 5e-7
    for result in (evaluate_json(case["gt"], case["dt"]), evaluate_coco(*coco_records(case))):
        numbers = list(result.stats.values())
        assert_equal(numbers, case["expected"])
        np.testing.assert_allclose(numbers, published, atol=1.001 * tolerance, rtol=0)


def test_string_image_ids_and_classes_in_another_order_change_nothing():
    """VOC's ids are strings; with its own class_names, a reader may hold category ids out of order."""
    annotations, detections = coco_records(COCO_CASES["random_2"])
    result = evaluate_coco(annotations, detections)
    last = len(annotations.class_names) - 1
    reversed_annotations = replace(
        annotations,
        class_names=annotations.class_names[::-1],
        category_ids=annotations.category_ids[::-1],
        labels=last - annotations.labels,
        image_ids=tuple(f"2007_{image_id}" for image_id in annotations.image_ids),
    )
    reversed_detections = replace(detections, labels=last - detections.labels)
    reversed_result = evaluate_coco(reversed_annotations, reversed_detections)
    assert reversed_result.stats == result.stats
    np.testing.assert_array_equal(reversed_result.ap50[::-1], result.ap50)
    assert reversed_result.class_names[::-1] == result.class_names


def test_results_that_went_through_json_give_the_same_numbers():
    case = COCO_CASES["random_2"]
    annotations, detections = coco_records(case)
    single = replace(detections, boxes=detections.boxes.float(), scores=detections.scores.float())
    results = json.loads(json.dumps(coco_results(annotations, single)))
    assert set(results[0]) == {"image_id", "category_id", "bbox", "score"}
    assert [(r["image_id"], r["category_id"]) for r in results] == [
        (r["image_id"], r["category_id"]) for r in case["dt"]
    ]
    np.testing.assert_allclose([r["bbox"] for r in results], [r["bbox"] for r in case["dt"]], atol=1e-3)
    assert evaluate_json(case["gt"], results).stats == evaluate_coco(annotations, single).stats


def test_results_of_another_split_are_refused():
    case = COCO_CASES["perfect"]
    with pytest.raises(ValueError, match=r"1 images .*\(99\).*another split"):
        evaluate_json(case["gt"], [case["dt"][0] | {"image_id": 99}])


class TestDifficult:
    """One image: a plain box on the left, a difficult one on the right, far apart."""

    PLAIN = (0.0, 0, 100, 100)
    DIFFICULT = (200.0, 0, 300, 100)

    def evaluate(self, *boxes, difficult=(False, True)):
        """The twelve numbers of detections with these boxes and descending scores."""
        annotations = Annotations(
            class_names=("thing",),
            image_ids=("000001",),
            paths=("000001.jpg",),
            sizes=np.array([[400, 400]]),
            offsets=np.array([0, 2]),
            boxes_original=np.array([self.PLAIN, self.DIFFICULT]),
            labels=np.zeros(2, np.int64),
            difficult=np.array(difficult),
            crowd=np.zeros(2, bool),
            areas=np.full(2, 1e4),
            category_ids=(1,),
        )
        zeros = torch.zeros(len(boxes), dtype=torch.int64)
        scores = torch.linspace(0.9, 0.5, len(boxes))
        detections = Detections(zeros, torch.tensor(boxes), scores, zeros)
        return evaluate_coco(annotations, detections).stats

    def test_missing_it_costs_nothing(self):
        assert self.evaluate(self.PLAIN)["AP"] == pytest.approx(1)
        assert self.evaluate(self.PLAIN, difficult=(False, False))["AP"] == pytest.approx(0.5, abs=0.01)

    def test_finding_it_costs_nothing(self):
        assert self.evaluate(self.DIFFICULT, self.PLAIN)["AP"] == pytest.approx(1)

    def test_finding_it_twice_is_one_false_positive(self):
        assert self.evaluate(self.DIFFICULT, self.DIFFICULT, self.PLAIN)["AP"] == pytest.approx(0.5)

    def test_a_small_box_inside_is_a_false_positive(self):
        """A crowd region would absorb it."""
        assert self.evaluate([240.0, 40, 260, 60], self.PLAIN)["AP"] == pytest.approx(0.5)

    def test_with_difficult_boxes_only_everything_is_undefined(self):
        assert set(self.evaluate(self.PLAIN, difficult=(True, True)).values()) == {-1}


def test_no_detections_give_zero_and_no_ground_truth_minus_one():
    annotations, _ = coco_records(COCO_CASES["perfect"])
    assert evaluate_coco(annotations, NOTHING).stats["AP"] == 0
    assert evaluate_coco(coco_records(COCO_CASES["no_gt"])[0], NOTHING).stats["AP"] == -1


def test_impossible_detections_are_refused():
    annotations, detections = coco_records(COCO_CASES["perfect"])
    with pytest.raises(ValueError, match=r"image outside 0\.\.0"):
        evaluate_coco(annotations, replace(detections, image=detections.image + 1))


def assert_equal(actual, expected):
    np.testing.assert_allclose(
        np.array(actual, dtype=np.float64), np.array(expected, dtype=np.float64), atol=1e-9, rtol=0
    )
