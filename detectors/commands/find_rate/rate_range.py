"""A learning-rate range test (Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017): the
loss while the rate rises exponentially.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np

LOWEST, HIGHEST = 1e-4, 1e2  # of the rates tried, as factors of optimizer.rate
DIVERGED = 4.0  # the smoothed loss over its minimum at which the test ends
NEIGHBOURS = 3  # on either side, over which the loss is smoothed


@dataclass(frozen=True)
class RateRange:
    """What a range test has seen. A loss that was not finite ended it, and is not among them."""

    rates: Sequence[float]
    losses: Sequence[float]
    end: str  # why it ended there

    @property
    def smoothed(self) -> np.ndarray:
        return smoothed(self.losses)

    @property
    def suggestion(self) -> float | None:
        """The rate at which the smoothed loss falls fastest before its minimum, by the rate's logarithm.

        None if it does not fall, or if there are too few points to tell.
        """
        curve = self.smoothed
        if len(curve) <= 2 * NEIGHBOURS:
            return None
        slopes = np.gradient(curve, np.log(self.rates))[: int(curve.argmin()) + 1]
        steepest = int(slopes.argmin())
        return self.rates[steepest] if slopes[steepest] < 0 else None

    @property
    def lowest(self) -> float | None:
        """The rate at which the smoothed loss is lowest."""
        return self.rates[int(self.smoothed.argmin())] if self.losses else None


def ramp(rate: float, steps: int) -> list[float]:
    """Rates from LOWEST to HIGHEST times `rate`, each the same factor above the one before."""
    return np.geomspace(LOWEST * rate, HIGHEST * rate, steps).tolist()


def smoothed(losses: Sequence[float]) -> np.ndarray:
    """The mean of each loss and its NEIGHBOURS on either side; at the ends there are fewer."""
    values = np.asarray(losses, dtype=np.float64)
    places = range(len(values))
    return np.array([values[max(0, n - NEIGHBOURS) : n + NEIGHBOURS + 1].mean() for n in places])


def range_test(step: Callable[[float], float], rates: Iterable[float]) -> RateRange:
    """step: trains one step at a rate and returns its loss. Ends early where the loss diverges."""
    tried: list[float] = []
    losses: list[float] = []
    for rate in rates:
        loss = step(rate)
        if not isfinite(loss):
            return RateRange(tried, losses, f"at {rate:.3g} the loss is not finite")
        tried.append(rate)
        losses.append(loss)
        curve = smoothed(losses)
        if curve[-1] > DIVERGED * curve.min():
            end = f"at {rate:.3g} the smoothed loss is {DIVERGED:g} times its minimum"
            return RateRange(tried, losses, end)
    return RateRange(tried, losses, "all rates were tried")
