"""F1 of single images and the best score threshold, against loops over every threshold and image."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from detectors.metrics.coco import judge_by_size
from detectors.metrics.per_image import best_f1, image_f1
from detectors.structures import Detections
from tests.metrics.test_resampling import random_case


def judged_case(seed: int):
    annotations, detections = random_case(seed, images=9)
    return annotations, judge_by_size(annotations, detections)


def f1_at(annotations, judged, score: float, image: int | None = None) -> float:
    counting = ~(annotations.difficult | annotations.crowd)
    boxes = sum(1 for n, kept in enumerate(counting) if kept and image in (None, annotations.image[n]))
    right = wrong = 0
    for n in range(len(judged.detections.score)):
        if judged.detections.score[n] >= score and image in (None, judged.detections.image[n]):
            right += bool(judged.right[n, 0, 0])
            wrong += bool(judged.wrong[n, 0, 0])
    total = right + wrong + boxes
    return 2 * right / total if total else 1.0


@pytest.mark.parametrize("seed", range(6))
def test_the_best_score_is_that_of_all_thresholds(seed):
    annotations, judged = judged_case(seed)
    score, value = best_f1([judged])
    thresholds = np.unique(judged.detections.score)
    values = [f1_at(annotations, judged, threshold) for threshold in thresholds]
    assert value == pytest.approx(max(values))
    assert f1_at(annotations, judged, score) == pytest.approx(value)


@pytest.mark.parametrize("seed", range(6))
def test_f1_of_each_image(seed):
    annotations, judged = judged_case(seed)
    expected = [f1_at(annotations, judged, 0.4, image) for image in range(9)]
    assert_allclose(image_f1(annotations, judged, 0.4), expected)


def test_without_detections():
    annotations, _ = random_case(0)
    judged = judge_by_size(annotations, Detections.concatenate([]))
    assert best_f1([judged]) == (1.0, 0.0)
    assert set(image_f1(annotations, judged, 0.5)) <= {0.0, 1.0}
