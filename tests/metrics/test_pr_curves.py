"""Precision and recall over thresholds: counted anew at each threshold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.commands.verify.evaluators import voc_records
from detectors.metrics.pr_curves import SCORE_THRESHOLDS, pr_curves
from detectors.metrics.voc import evaluate_voc
from tests.metrics.test_voc import VOC_CASES, crowded_case


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_counts_at_each_threshold(seed):
    assert_counts(crowded_case(np.random.default_rng(seed)))


def test_a_large_case():
    assert_counts(VOC_CASES["large"])


def assert_counts(case):
    annotations, detections = voc_records(case)
    voc = evaluate_voc(annotations, detections)
    curves = pr_curves(voc)
    assert list(curves) == [name for name, n in zip(voc.class_names, voc.npos, strict=True) if n]
    scores, labels = detections.scores.double().numpy(), detections.labels.numpy()
    for name, curve in curves.items():
        label = voc.class_names.index(name)
        for n in range(0, 101, 5):
            kept = (labels == label) & (scores >= SCORE_THRESHOLDS[n])
            right = int((voc.codes[kept] == "T").sum())
            wrong = int((voc.codes[kept] == "F").sum())
            boxes = voc.npos[label]
            assert (curve.true_positives[n], curve.false_positives[n]) == (right, wrong)
            assert curve.false_negatives[n] == boxes - right
            assert curve.recall[n] == right / boxes
            assert curve.precision[n] == (right / (right + wrong) if right + wrong else 1)


@pytest.mark.parametrize("name", ["precision", "recall"])
def test_without_detections(name):
    annotations, detections = voc_records(VOC_CASES["edge_perfect_one"])
    (curve,) = pr_curves(evaluate_voc(annotations, detections.above(2.0))).values()
    assert getattr(curve, name).tolist() == [{"precision": 1, "recall": 0}[name]] * 101
