"""How recorded numbers are compared with ours: tolerances, comparisons, and how differences are reported."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch


class Tolerance(NamedTuple):
    """|ours - recorded| <= absolute + relative * |recorded|, number by number, or with of_largest * the
    largest |recorded|.
    """

    absolute: float = 0.0
    relative: float = 0.0
    of_largest: float = 0.0

    def __str__(self) -> str:
        parts = [f"{self.absolute:.0e}"] if self.absolute else []
        parts += [f"{self.relative:.0e} x value"] if self.relative else []
        parts += [f"{self.of_largest:.0e} x largest"] if self.of_largest else []
        return " + ".join(parts) or "exact"

    def limits(self, recorded: np.ndarray) -> np.ndarray:
        size = np.abs(np.where(np.isfinite(recorded), recorded, 0))
        return self.absolute + self.relative * size + self.of_largest * size.max(initial=0)


EXACT = Tolerance()


@dataclass(frozen=True)
class Comparison:
    """One line of the table."""

    what: str
    absolute: float  # worst |ours - recorded|; infinite where shapes or places of NaN differ
    relative: float  # that, over the largest |recorded| of the same array
    tolerance: str
    passed: bool
    note: str = ""  # where it went wrong
    known: str = ""  # the reason of a documented difference, which does not count as a failure


class Fixture(NamedTuple):
    """A case of a recording: its name, and what compares it when called."""

    name: str
    run: Callable[[], Iterable[Comparison]]


def compare_numbers(what: str, ours: Any, recorded: Any, tolerance: Tolerance) -> Comparison:
    """Numbers of any shape, as tensors, arrays, lists (None is NaN) or single ones.

    NaN equals NaN, infinity itself.
    """
    ours = _array(ours)
    recorded = _array(recorded)
    if ours.shape != recorded.shape:
        return _broken(what, tolerance, f"shape {ours.shape}, recorded {recorded.shape}")
    same = (ours == recorded) | (np.isnan(ours) & np.isnan(recorded))
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.abs(ours - recorded))
    if not np.isfinite(error).all():
        place = _place(~np.isfinite(error))
        return _broken(what, tolerance, f"at {place}: {ours[place]}, recorded {recorded[place]}")
    worst = float(error.max(initial=0))
    largest = float(np.abs(recorded[np.isfinite(recorded)]).max(initial=0))
    relative = worst / largest if largest else (0.0 if worst == 0 else np.inf)
    wrong = error > tolerance.limits(recorded)
    note = ""
    if wrong.any():
        place = _place(wrong & (error == error[wrong].max()))
        note = (
            f"{int(wrong.sum())} of {wrong.size} differ, most at {place}: "
            f"{ours[place]:.9g}, recorded {recorded[place]:.9g}"
        )
    return Comparison(what, worst, relative, str(tolerance), not wrong.any(), note)


def agree(what: str, ours: Any, recorded: Any) -> Comparison:
    """Compares sets, lists and texts, which are equal or not.

    The errors are the number and the share of members that differ.
    """
    if isinstance(ours, str | bytes) or not isinstance(ours, Collection):
        count = int(ours != recorded)
        size = 1
        examples = [f"{_short(ours)}, recorded {_short(recorded)}"]
    else:
        only_ours = _members(ours) - _members(recorded)
        only_recorded = _members(recorded) - _members(ours)
        count = len(only_ours) + len(only_recorded)
        size = max(len(recorded), 1)
        if not count and ours != recorded:  # the same members in another order or number
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
    """At least one comparison, under one name: the worst errors, and the note of the first that failed."""
    failed = [c for c in comparisons if not c.passed]
    tolerances = dict.fromkeys(c.tolerance for c in comparisons)
    note = (
        f"{failed[0].what}: {failed[0].note}" + (f" (and {len(failed) - 1} more)" if len(failed) > 1 else "")
        if failed
        else ""
    )
    worst = max(c.absolute for c in comparisons)
    relative = max(c.relative for c in comparisons)
    return Comparison(what, worst, relative, " / ".join(tolerances), not failed, note)


def known_difference(comparison: Comparison, reason: str) -> Comparison:
    """A documented difference between the originals and here.

    `comparison` must say that it is the documented one, and fails if not.
    """
    return replace(comparison, known=reason)


def absent(what: str, reason: str) -> Comparison:
    """Numbers of the recording that this code does not claim to equal, with the reason."""
    return Comparison(what, 0.0, 0.0, "-", True, known=reason)


def _broken(what: str, tolerance: Tolerance, note: str) -> Comparison:
    return Comparison(what, np.inf, np.inf, str(tolerance), False, note)


def _array(values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    return np.asarray(values, dtype=np.float64)


def _place(where: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(where)[0])


def _members(values: Collection) -> set:
    return set(values.items()) if isinstance(values, dict) else set(values)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
