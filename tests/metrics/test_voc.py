"""VOC's AP against recordings of the originals, published pairs and a naive double loop.

The recordings are described in fixtures/evaluation/README.md.
"""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.commands.verify.evaluators import voc_records
from detectors.metrics.voc import ap_11_point, ap_area, evaluate_voc
from tests.oracles import voc_ap, voc_judge

FOLDER = Path(__file__).parents[1] / "fixtures" / "evaluation"
VOC_CASES = {
    **json.loads((FOLDER / "voc_edge.json").read_text()),
    **json.loads(gzip.decompress((FOLDER / "voc_random.json.gz").read_bytes())),
    **json.loads(gzip.decompress((FOLDER / "voc_large.json.gz").read_bytes())),
}
KNOWN = json.loads(gzip.decompress((FOLDER / "known_pairs.json.gz").read_bytes()))


def test_no_case_is_missing():
    assert len(VOC_CASES) == 29 + 14 + 1


@pytest.mark.parametrize("threshold", ["0.5", "0.75"])
@pytest.mark.parametrize("name", VOC_CASES)
def test_recorded_answers(name, threshold):
    annotations, detections = voc_records(VOC_CASES[name])
    expected = VOC_CASES[name]["expected"][threshold]
    strict = expected["strict"]
    inclusive_answer = expected.get("inclusive", strict)  # stored only where it differs
    for inclusive, answer in [(False, strict), (True, inclusive_answer)]:
        result = evaluate_voc(annotations, detections, iou=float(threshold), inclusive=inclusive)
        assert result.npos.tolist() == VOC_CASES[name]["npos"]
        assert "".join(result.codes) == answer["codes"]
        assert_equal(result.ap07, answer["ap07"])
        assert_equal(result.ap10, answer["ap10"])
        assert_equal([result.map07, result.map10], [answer["map07"], answer["map10"]])


@pytest.mark.parametrize("threshold", ["0.1", "0.3", "0.5", "0.75"])
def test_published_pair_of_padilla(threshold):
    """github.com/rafaelpadilla/Object-Detection-Metrics, whose rule is IoU >= t.

    At IoU .3 it has 26.84 % (11 points) and 24.56 % (all points).
    """
    case = KNOWN["padilla_7_images_15_gt_24_det"]
    result = evaluate_voc(*voc_records(case), iou=float(threshold), inclusive=True)
    expected = case["expected"][threshold]
    assert_equal([result.map07, result.map10], [expected["ap07"], expected["ap10"]])


def test_published_curve_of_caffe():
    """caffe (branch ssd), test_bbox_util.cpp, TestComputeAP; its tolerance is 1e-5.

    Its MaxIntegral is VOC2010's area. Its 11 points are i / 10.f, so a recall of 3/5 reaches .6; in VOC's own
    code it misses .6 by one ulp. Adding 1e-7 to the recall makes up for that.
    """
    case = KNOWN["caffe_ssd_compute_ap"]
    for length, expected in [(len(case["tp"]), case["expected"]), (7, case["first7"])]:
        right = np.cumsum(case["tp"][:length])
        recall = right / case["num_pos"]
        precision = right / np.arange(1, length + 1)
        ap07 = ap_11_point(recall + 1e-7, precision)
        ap10 = ap_area(recall, precision)
        np.testing.assert_allclose(ap07, expected["11point"], atol=1e-5, rtol=0)
        np.testing.assert_allclose(ap10, expected["MaxIntegral"], atol=1e-5, rtol=0)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), threshold=st.sampled_from([0.25, 0.5]), inclusive=st.booleans())
def test_naive_double_loop(seed, threshold, inclusive):
    case = crowded_case(np.random.default_rng(seed))
    result = evaluate_voc(*voc_records(case), iou=threshold, inclusive=inclusive)
    gt = case["gt"]
    det = case["det"]
    for label in range(case["n_classes"]):
        gt_boxes = [
            (image, edges(box), difficult)
            for image, cls, box, difficult in zip(
                gt["image"], gt["cls"], gt["box"], gt["difficult"], strict=True
            )
            if cls == label
        ]
        rows = [row for row, cls in enumerate(det["cls"]) if cls == label]
        detections = [(det["image"][row], edges(det["box"][row]), det["score"][row]) for row in rows]
        codes = voc_judge(gt_boxes, detections, threshold, inclusive)
        assert codes == result.codes[rows].tolist()
        npos = sum(not difficult for _, _, difficult in gt_boxes)
        assert npos == result.npos[label]
        scores = [score for _, _, score in detections]
        ap07, ap10 = voc_ap(codes, scores, npos) if npos else (None, None)
        assert_equal([result.ap07[label], result.ap10[label]], [ap07, ap10])


def test_crowd_regions_are_treated_like_difficult_boxes():
    case = VOC_CASES["edge_first_det_on_difficult_then_tp"]
    annotations, detections = voc_records(case)
    as_crowd = replace(annotations, crowd=annotations.difficult, difficult=annotations.crowd)
    assert annotations.difficult.any()
    np.testing.assert_array_equal(
        evaluate_voc(as_crowd, detections).codes, evaluate_voc(annotations, detections).codes
    )


def test_curve_holds_what_the_ap_was_computed_from():
    annotations, detections = voc_records(VOC_CASES["large"])
    result = evaluate_voc(annotations, detections)
    for label, curve in enumerate(result.curves):
        assert (np.diff(curve.scores) <= 0).all()
        assert len(curve.scores) == np.sum((detections.labels.numpy() == label) & (result.codes != "I"))
        np.testing.assert_allclose(ap_area(curve.recall, curve.precision), result.ap10[label], rtol=1e-12)


def test_float32_detections_give_the_same_codes():
    annotations, detections = voc_records(VOC_CASES["large"])
    single = replace(detections, boxes=detections.boxes.float(), scores=detections.scores.float())
    np.testing.assert_array_equal(
        evaluate_voc(annotations, single).codes, evaluate_voc(annotations, detections).codes
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": torch.tensor([7])}, r"1 detections .*\(7\).*image outside 0\.\.0"),
        ({"labels": torch.tensor([-1])}, r"\(-1\).*label outside 0\.\.0.*c0"),
        ({"scores": torch.tensor([float("nan")])}, r"\(id0\).*NaN or infinite.*diverged"),
        ({"boxes": torch.tensor([[0.0, 0, float("inf"), 1]])}, r"\(id0\).*NaN or infinite"),
    ],
)
def test_impossible_detections_are_refused(change, message):
    annotations, detections = voc_records(VOC_CASES["edge_perfect_one"])
    with pytest.raises(ValueError, match=message):
        evaluate_voc(annotations, replace(detections, **change))


def edges(box):
    """VOC's 1-based inclusive corners -> continuous edges."""
    return [box[0] - 1, box[1] - 1, box[2], box[3]]


def crowded_case(random):
    """Small integer boxes in few places, with few distinct scores.

    Overlaps, duplicates, equal IoUs, tied scores and IoUs of exactly 1/2 all occur.
    """

    def boxes(count):
        low = random.integers(1, 4, (count, 2))
        return np.concatenate([low, low + random.integers(0, 4, (count, 2))], 1).tolist()

    def records(count):
        return {
            "image": random.integers(0, 3, count).tolist(),
            "cls": random.integers(0, 2, count).tolist(),
            "box": boxes(count),
        }

    gt = records(random.integers(0, 8))
    gt["difficult"] = (random.random(len(gt["box"])) < 0.3).tolist()
    det = records(random.integers(0, 25))
    det["score"] = (random.integers(1, 6, len(det["box"])) / 8).tolist()
    return {"n_images": 3, "n_classes": 2, "size": [10, 10], "gt": gt, "det": det}


def assert_equal(actual, expected):
    """To 1e-9; None stands for undefined (NaN)."""
    expected = np.array([np.nan if value is None else value for value in expected], dtype=np.float64)
    np.testing.assert_allclose(np.array(actual, dtype=np.float64), expected, atol=1e-9, rtol=0)
