"""Which detectors no other one beats in both accuracy and cost: the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Cost -> what its axis and column are called.
PARETO_COSTS = {"latency_ms": "latency (ms)", "gflops": "GFLOPs"}


def pareto_fronts(detectors: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Cost -> the points of all detectors that have it and an AP, and the names of those on the front.

    detectors: as in comparison.json.
    """
    fronts = {}
    for cost in PARETO_COSTS:
        points = {
            detector["name"]: (x, detector["estimates"]["AP"]["value"])
            for detector in detectors
            if (x := cost_of(detector, cost)) is not None and "AP" in detector["estimates"]
        }
        if points:
            fronts[cost] = {
                "points": {name: list(point) for name, point in points.items()},
                "front": on_front(points),
            }
    return fronts


def cost_of(detector: Mapping[str, Any], cost: str) -> float | None:
    """GFLOPs of one image, or the median milliseconds of one image alone; None if unknown."""
    if cost == "gflops":
        return detector["gflops"]
    return detector["speed"] and detector["speed"]["latency_ms"]["total"]["median"]


def on_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Of (cost, AP): the names that no other point beats, by the cost.

    A point beats another if it is as good in both, and better in one of them.
    """

    def beaten(x: float, y: float) -> bool:
        return any(a <= x and b >= y and (a < x or b > y) for a, b in points.values())

    front = [name for name, point in points.items() if not beaten(*point)]
    return sorted(front, key=lambda name: points[name])
