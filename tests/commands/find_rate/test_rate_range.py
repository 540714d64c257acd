"""The range test on losses that are known: what it tries, where it ends, what it suggests."""

from __future__ import annotations

from math import log10, nan, tanh

import numpy as np
import pytest
from numpy.testing import assert_allclose

from detectors.commands.find_rate.rate_range import RateRange, ramp, range_test, smoothed


def test_the_rates_rise_by_one_factor_over_six_decades():
    rates = ramp(0.01, 7)
    assert_allclose(rates, [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1], rtol=1e-12)


def test_smoothing_equals_a_loop():
    losses = np.random.default_rng(0).uniform(size=20).tolist()
    for n in range(20):
        near = [losses[m] for m in range(20) if abs(m - n) <= 3]
        assert_allclose(smoothed(losses)[n], sum(near) / len(near), rtol=1e-12)
    assert len(smoothed([])) == 0


def loss_at(rate: float) -> float:
    """Falls around 1e-3, fastest there, and explodes above 1e-1."""
    return 10 - 5 * tanh(2 * (log10(rate) + 3)) + (rate / 0.1) ** 2


def test_it_suggests_the_steepest_descent_and_ends_where_the_loss_explodes():
    result = range_test(loss_at, ramp(0.01, 121))
    assert result.suggestion == pytest.approx(1e-3, rel=0.06)  # one step of the ramp is 12 %
    assert result.lowest == pytest.approx(0.02, rel=0.5)
    assert 0.3 < result.rates[-1] < 1
    assert result.end == f"at {result.rates[-1]:.3g} the smoothed loss is 4 times its minimum"
    assert len(result.rates) == len(result.losses)
    whole = range_test(loss_at, ramp(1e-4, 121))
    assert (len(whole.rates), whole.end) == (121, "all rates were tried")


def test_a_loss_that_is_not_finite_ends_it_without_an_error():
    result = range_test(lambda rate: nan if rate > 1e-2 else loss_at(rate), ramp(0.01, 121))
    assert result.end == "at 0.0112 the loss is not finite"
    assert result.rates[-1] == pytest.approx(1e-2)
    assert result.suggestion == pytest.approx(1e-3, rel=0.06)
    nothing = range_test(lambda rate: nan, ramp(0.01, 20))
    assert (nothing.rates, nothing.suggestion, nothing.lowest) == ([], None, None)


def test_nothing_is_suggested_for_a_loss_that_does_not_fall():
    assert RateRange(ramp(1, 20), [float(n) for n in range(20)], "").suggestion is None
    assert RateRange(ramp(1, 4), [4.0, 3.0, 2.0, 1.0], "").suggestion is None
