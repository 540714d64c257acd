"""Patterns that name parameters: of trainer.freeze and optimizer.rates."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from detectors.data.suggestions import did_you_mean


def matching_names(names: Sequence[str], pattern: str, place: str) -> list[str]:
    """The names of parameters that a pattern matches.

    It matches whole names of parameters, or of the modules that hold them: `backbone`, `head.*bias`; * stands
    for any characters. ValueError, which begins with `place`, if it matches none.
    """
    matched = [name for name in names if _matches(name, pattern)]
    if not matched:
        hint = did_you_mean(pattern, dict.fromkeys(_names_and_modules(names)))
        raise ValueError(f"{place}: {pattern!r} matches no parameter of the network{hint}")
    return matched


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def _names_and_modules(names: Sequence[str]) -> list[str]:
    """'a.b.weight' -> 'a', 'a.b', 'a.b.weight'"""
    return [
        ".".join(parts[:end]) for parts in (n.split(".") for n in names) for end in range(1, len(parts) + 1)
    ]
