"""The one hint for a misspelt name, as every message gives it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice most like `name`, whatever the case of its letters; None if none is near."""
    by_lower = {str(choice).lower(): str(choice) for choice in choices}
    near = get_close_matches(str(name).lower(), list(by_lower), n=1, cutoff=0.6)
    return by_lower[near[0]] if near else None


def did_you_mean(
    name: str, choices: Iterable[str], *, quoted: bool = False, listed: bool = False, place: str = ""
) -> str:
    """'; did you mean place.X?', or an empty text if no choice is near.

    quoted: puts quotes around the choice, for names that may hold spaces. listed: names all choices if none is near.
    """
    choices = list(choices)
    near = nearest(name, choices)
    if near is not None:
        return f"; did you mean {place}{'.' if place else ''}{repr(near) if quoted else near}?"
    return f"; there are: {', '.join(choices) or 'none'}" if listed else ""
