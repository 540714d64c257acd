"""Compares our numbers with recorded ones: tolerances, comparisons, and notes on what differs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch


class Tolerance(NamedTuple):
    """|ours - recorded| <= absolute + relative * |recorded| + of_largest * max |recorded|, elementwise."""

    absolute: float = 0.0
    relative: float = 0.0
    of_largest: float = 0.0

    def __str__(self) -> str:
        parts = [f"{self.absolute:.0e}"] if self.absolute else []
        parts += [f"{self.relative:.0e} x value"] if self.relative else []
        parts += [f"{self.of_largest:.0e} x largest"] if self.of_largest else []
        return " + ".join(parts) or "exact"

    def limits(self, recorded: np.ndarray) -> np.ndarray:
        """The largest error allowed for each number, in the shape of `recorded`."""
        magnitude = np.abs(np.where(np.isfinite(recorded), recorded, 0))
        return self.absolute + self.relative * magnitude + self.of_largest * magnitude.max(initial=0)


EXACT = Tolerance()


@dataclass(frozen=True)
class Comparison:
    """One line of the table."""

    what: str
    absolute: float  # largest |ours - recorded|; infinite if the shapes or the places of NaN differ
    relative: float  # absolute / the largest |recorded| of the same array
    tolerance: str
    passed: bool
    note: str = ""  # what differs, and where
    known: str = ""  # the reason for a documented difference, which does not count as a failure


class Fixture(NamedTuple):
    """A case of a recording: its name, and the function that compares it."""

    name: str
    run: Callable[[], Iterable[Comparison]]


def compare_numbers(what: str, ours: Any, recorded: Any, tolerance: Tolerance) -> Comparison:
    """Compares tensors, arrays, lists (None counts as NaN) or scalars. NaN equals NaN, inf equals inf."""
    ours = _array(ours)
    recorded = _array(recorded)
    if ours.shape != recorded.shape:
        return _incomparable(what, tolerance, f"shape {ours.shape}, recorded {recorded.shape}")
    same = (ours == recorded) | (np.isnan(ours) & np.isnan(recorded))
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.abs(ours - recorded))
    if not np.isfinite(error).all():
        index = _first_index(~np.isfinite(error))
        return _incomparable(what, tolerance, f"at {index}: {ours[index]}, recorded {recorded[index]}")
    worst = float(error.max(initial=0))
    largest = float(np.abs(recorded[np.isfinite(recorded)]).max(initial=0))
    if worst == 0:
        relative = 0.0
    else:
        relative = worst / largest if largest else np.inf
    wrong = error > tolerance.limits(recorded)
    note = ""
    if wrong.any():
        index = _first_index(wrong & (error == error[wrong].max()))
        note = (
            f"{int(wrong.sum())} of {wrong.size} differ, most at {index}: "
            f"{ours[index]:.9g}, recorded {recorded[index]:.9g}"
        )
    return Comparison(what, worst, relative, str(tolerance), not wrong.any(), note)


def agree(what: str, ours: Any, recorded: Any) -> Comparison:
    """Compares sets, lists, dicts, strings or single values, which must be equal.

    The absolute error is the number of members that differ, the relative error their fraction.
    """
    if isinstance(ours, str | bytes) or not isinstance(ours, Collection):
        count = int(ours != recorded)
        size = 1
        examples = [f"{_shortened(ours)}, recorded {_shortened(recorded)}"]
    else:
        only_ours = _members(ours) - _members(recorded)
        only_recorded = _members(recorded) - _members(ours)
        count = len(only_ours) + len(only_recorded)
        size = max(len(recorded), 1)
        if not count and ours != recorded:  # the same members, but in another order, or some more often
            count = 1
            examples = ["another order or number"]
        else:
            sides = (("only ours", only_ours), ("only recorded", only_recorded))
            examples = [f"{side} {sorted(members, key=repr)[:3]}" for side, members in sides if members]
    return Comparison(
        what,
        count,
        count / size,
        str(EXACT),
        count == 0,
        f"{count} differ: {'; '.join(examples)}" if count else "",
    )


def merge(what: str, comparisons: Sequence[Comparison]) -> Comparison:
    """One or more comparisons as one: the largest errors, and the note of the first that failed."""
    failed = [c for c in comparisons if not c.passed]
    tolerances = dict.fromkeys(c.tolerance for c in comparisons)
    note = ""
    if failed:
        note = f"{failed[0].what}: {failed[0].note}"
    if len(failed) > 1:
        note += f" (and {len(failed) - 1} more)"
    worst = max(c.absolute for c in comparisons)
    relative = max(c.relative for c in comparisons)
    return Comparison(what, worst, relative, " / ".join(tolerances), not failed, note)


def known_difference(comparison: Comparison, reason: str) -> Comparison:
    """Marks a documented difference between an original program and this code.

    `comparison` must check that the difference is the documented one. If it fails, the row is a failure.
    """
    return replace(comparison, known=reason)


def _incomparable(what: str, tolerance: Tolerance, note: str) -> Comparison:
    return Comparison(what, np.inf, np.inf, str(tolerance), False, note)


def _array(values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    return np.asarray(values, dtype=np.float64)


def _first_index(mask: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(mask)[0])


def _members(values: Collection) -> set:
    return set(values.items()) if isinstance(values, dict) else set(values)


def _shortened(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
