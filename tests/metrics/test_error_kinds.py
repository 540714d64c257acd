"""Error kinds: against TIDE's own program, and against cases whose costs follow from a drawing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from detectors.annotations import Annotations
from detectors.data.checks import to_offsets
from detectors.metrics.coco import judge_by_size
from detectors.metrics.error_kinds import ERROR_KINDS, ErrorCosts, error_costs
from detectors.structures import Detections

# Made by tidecv 1.0.1: inputs, counts, and AP50 and costs in AP.
TIDE = json.loads((Path(__file__).parents[1] / "fixtures" / "tide.json").read_text())


def one_set(truths: list[tuple], found: list[tuple], images: int, classes: int = 3) -> tuple:
    """truths: (image, class, box[, "difficult"]); found: (image, class, box, score)."""
    truths = sorted(truths, key=lambda row: row[0])
    image = np.array([row[0] for row in truths], np.int64)
    boxes = np.array([row[2] for row in truths], np.float64).reshape(-1, 4)
    annotations = Annotations(
        class_names=tuple("abcdefgh"[:classes]),
        image_ids=list(range(images)),
        paths=[str(row) for row in range(images)],
        sizes=np.full((images, 2), 500),
        offsets=to_offsets(np.bincount(image, minlength=images)),
        boxes_original=boxes,
        labels=np.array([row[1] for row in truths], np.int64),
        difficult=np.array([len(row) > 3 for row in truths], bool),
        crowd=np.zeros(len(truths), bool),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(1),
        category_ids=tuple(range(1, classes + 1)),
    )
    detections = Detections(
        torch.tensor([row[0] for row in found], dtype=torch.int64),
        torch.tensor([row[2] for row in found], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([row[3] for row in found], dtype=torch.float32),
        torch.tensor([row[1] for row in found], dtype=torch.int64),
    )
    return annotations, detections


def costs_in(annotations: Annotations, detections: Detections) -> ErrorCosts:
    return error_costs(annotations, judge_by_size(annotations, detections))


@pytest.mark.parametrize("case", TIDE, ids=lambda case: str(case["seed"]))
def test_costs_and_counts_equal_tide(case):
    truths = list(zip(case["gt_image"], case["gt_class"], case["gt_box"], strict=True))
    found = list(zip(case["image"], case["class"], case["box"], case["score"], strict=True))
    result = costs_in(*one_set(truths, found, images=case["images"], classes=4))
    assert {kind: result.counts[kind] for kind in ERROR_KINDS} == case["counts"]
    assert_allclose(result.ap50, case["ap50"], rtol=0, atol=1e-6)
    for kind, cost in case["costs"].items():
        assert_allclose(max(result.costs[kind], 0), cost, rtol=0, atol=1e-6, err_msg=kind)


A = (0, 0, 100, 100)
FAR = (300, 300, 400, 400)
HALF = (0, 0, 100, 40)  # IoU .4 with A
SHIFTED = (0, 0, 100, 90)  # IoU .9 with A


def costs_of(truths: list[tuple], found: list[tuple], images: int = 2) -> dict[str, float]:
    result = costs_in(*one_set(truths, found, images))
    return {kind: round(cost, 5) for kind, cost in result.costs.items() if kind in ERROR_KINDS and cost}


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ((0, 0, HALF, 0.9), "location"),
        ((0, 1, SHIFTED, 0.9), "class"),
        ((0, 1, HALF, 0.9), "both"),
        ((0, 0, FAR, 0.9), "background"),
        ((1, 0, FAR, 0.9), "background"),  # an image without boxes
    ],
)
def test_a_wrong_detection_above_the_right_one(wrong, kind):
    """The right one comes second, so that its precision, and AP, is 1/2: removing the wrong one gains 1/2.

    Class 2 has nothing but a box that is found. The mean over both halves each cost.
    """
    truths = [(0, 0, A), (1, 2, A)]
    found = [(0, 0, A, 0.5), (1, 2, A, 0.5), wrong]
    result = costs_in(*one_set(truths, found, 2))
    if kind == "class":  # class 1 has no box, so its wrong detection costs nothing
        assert result.counts["class"] == 1 and result.ap50 == pytest.approx(1)
        return
    if kind == "both":
        assert result.counts["both"] == 1 and result.ap50 == pytest.approx(1)
        return
    assert result.ap50 == pytest.approx(0.75)
    assert costs_of(truths, found) == {kind: 0.25}


def test_a_duplicate_above_another_box():
    truths = [(0, 0, A), (1, 0, A)]
    found = [(0, 0, A, 0.9), (0, 0, SHIFTED, 0.8), (1, 0, A, 0.7)]
    # Precision 1 up to recall 1/2 (51 levels), 2/3 above (50 levels); without the duplicate 1.
    assert costs_of(truths, found) == {"duplicate": round((50 / 101) * (1 / 3), 5)}


def test_a_missed_box_costs_the_recall_that_it_takes():
    truths = [(0, 0, A), (1, 0, A)]
    assert costs_of(truths, [(0, 0, A, 0.9)]) == {"missed": round(50 / 101, 5)}


def test_a_box_that_a_repaired_error_would_find_is_not_missed():
    truths = [(0, 0, A), (1, 0, A)]
    found = [(0, 0, A, 0.9), (1, 0, HALF, 0.8), (1, 0, HALF, 0.7)]
    result = costs_in(*one_set(truths, found, 2))
    assert (result.counts["missed"], result.counts["location"], result.counts["unfound"]) == (0, 2, 1)
    assert costs_of(truths, found) == {"location": round(50 / 101, 5)}


def test_a_class_error_moves_to_the_class_of_its_box():
    truths = [(0, 0, A), (1, 1, A)]
    found = [(0, 0, A, 0.9), (1, 0, SHIFTED, 0.8)]
    # Class a: AP 1 before and after. Class b: 0, then 1. Class c has no box and does not count.
    assert costs_of(truths, found) == {"class": 0.5}


def test_a_detection_on_a_difficult_box_is_no_error():
    truths = [(0, 0, A), (1, 0, A, "difficult")]
    result = costs_in(*one_set(truths, [(1, 0, A, 0.9), (0, 0, A, 0.8)], 2))
    assert result.ap50 == pytest.approx(1)
    assert all(result.counts[kind] == 0 for kind in ERROR_KINDS)


def test_without_detections_everything_is_missed():
    result = costs_in(*one_set([(0, 0, A), (1, 1, A)], [], 2))
    assert (result.ap50, result.counts["missed"]) == (0, 2)


def test_without_boxes_there_is_no_ap():
    assert np.isnan(costs_in(*one_set([], [(0, 0, A, 0.9)], 2)).ap50)
