"""The hint for a misspelt name, the same in every message."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice most similar to `name`, ignoring case; None if none is similar."""
    by_lower = {str(choice).lower(): str(choice) for choice in choices}
    matches = get_close_matches(str(name).lower(), list(by_lower), n=1, cutoff=0.6)
    return by_lower[matches[0]] if matches else None


def nearest_by_words(name: str, choices: Iterable[str]) -> str | None:
    """The choice that shares most words with `name`, ignoring case; None if none shares a word.

    'dog' -> 'good dog'; a word is a run of letters or digits.
    """
    shared = {str(choice): len(_words(name) & _words(str(choice))) for choice in choices}
    best = max(shared, key=shared.__getitem__, default=None)
    return best if best is not None and shared[best] else None


def _words(name: str) -> set[str]:
    return set(re.findall(r"[^\W_]+", name.lower()))


def did_you_mean(
    name: str,
    choices: Iterable[str],
    *,
    quoted: bool = False,
    listed: bool = False,
    words: bool = False,
    place: str = "",
) -> str:
    """'; did you mean place.X?', or an empty string if no choice is similar.

    quoted: put quotes around the choice, for names that may contain spaces. listed: if no choice is similar,
    list all of them. words: a choice that shares a word with the name is similar, too.
    """
    choices = list(choices)
    near = nearest(name, choices)
    if near is None and words:
        near = nearest_by_words(name, choices)
    if near is not None:
        prefix = f"{place}." if place else ""
        return f"; did you mean {prefix}{repr(near) if quoted else near}?"
    return f"; there are: {', '.join(choices) or 'none'}" if listed else ""
