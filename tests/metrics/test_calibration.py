"""Calibration of simulated detectors whose calibration is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from detectors.metrics.calibration import SCORE_BINS, reliability


def test_scores_that_are_probabilities_have_no_error():
    rng = np.random.default_rng(0)
    scores = rng.random(200_000)
    assert reliability(scores, rng.random(len(scores)) < scores).d_ece < 0.006


@pytest.mark.parametrize("power", [0.5, 2.0])
def test_the_error_of_a_known_miscalibration(power):
    """Right with probability s^power. Over uniform s, the mean of |s - s^power| is |1/2 - 1/(power + 1)|."""
    rng = np.random.default_rng(1)
    scores = rng.random(400_000)
    result = reliability(scores, rng.random(len(scores)) < scores**power)
    assert_allclose(result.d_ece, abs(0.5 - 1 / (power + 1)), atol=0.004)


def test_bins_against_a_loop():
    rng = np.random.default_rng(2)
    scores = np.concatenate([rng.random(500), [0.0, 0.05, 0.1, 1.0]])
    right = rng.random(len(scores)) < 0.4
    result = reliability(scores, right)
    error = 0.0
    for place in range(SCORE_BINS):
        low = -1.0 if place == 0 else place / SCORE_BINS
        rows = (scores > low) & (scores <= (place + 1) / SCORE_BINS)
        assert result.count[place] == rows.sum()
        assert_allclose(result.score[place], scores[rows].mean())
        assert_allclose(result.precision[place], right[rows].mean())
        error += rows.sum() * abs(right[rows].mean() - scores[rows].mean())
    assert_allclose(result.d_ece, error / len(scores))


def test_empty_bins_and_no_detections():
    result = reliability(np.array([0.52, 0.54]), np.array([True, False]))
    assert_array_equal(np.isnan(result.precision), result.count == 0)
    assert_allclose(result.d_ece, 0.03)
    assert np.isnan(reliability(np.zeros(0), np.zeros(0, bool)).d_ece)
