"""What only several images or splits together show: the same picture twice, class names that mean one thing, classes that are missing."""

from __future__ import annotations

import difflib
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from detectors.commands.lint.findings import Finding, Split
from detectors.commands.lint.image_checks import Facts
from detectors.data.problems import Problem

RARE = 10  # boxes of a class in the training split below which it can hardly be learnt
SAME_LOOK = (
    4.0  # grey levels between two small pictures up to which one is a copy of the other that was saved anew
)
MISSPELT = 0.85  # likeness of two names (difflib's ratio) ...
SELDOM = 0.1  # ... and how rare one must be beside the other to be taken for a slip


class _Seen(NamedTuple):
    split: str
    path: str

    def words(self, split: str) -> str:
        return self.path if split == self.split else f"{self.split}'s {self.path}"


class _Album:
    """The images that have been looked at, by place, by pixels and by name."""

    def __init__(self):
        self.places: dict[str, _Seen] = {}
        self.pixels: dict[bytes, _Seen] = {}
        self.names: dict[str, list[_Seen]] = {}

    def add(self, image: _Seen, facts: Mapping[str, Facts]) -> tuple[_Seen, str] | None:
        """The earlier image that is the same, and the words for it; None if it is a new one."""
        place, fact, name = os.path.realpath(image.path), facts[image.path], Path(image.path).name
        known = None
        if place in self.places:
            seen = self.places[place]
            known = (
                seen,
                f"the same file is in {seen.split}" if seen.split != image.split else "listed more than once",
            )
        elif fact.digest in self.pixels:
            seen = self.pixels[fact.digest]
            known = seen, f"the same pixels as {seen.words(image.split)}"
        else:
            for seen in self.names.get(name, []):
                if seen.split != image.split and _same_look(fact, facts[seen.path]):
                    known = seen, f"the same name and nearly the same pixels as {seen.words(image.split)}"
        self.places.setdefault(place, image)
        if fact.digest:
            self.pixels.setdefault(fact.digest, image)
        self.names.setdefault(name, []).append(image)
        return known


def _same_look(one: Facts, other: Facts) -> bool:
    if not one.look or not other.look:
        return False
    grey = [np.frombuffer(fact.look, np.uint8).astype(float) for fact in (one, other)]
    return float(np.abs(grey[0] - grey[1]).mean()) < SAME_LOOK


def same_images(splits: Sequence[Split], facts: Mapping[str, Facts]) -> list[Finding]:
    """Each image that an earlier one equals, once: in another split (which makes the evaluation worthless) or in its own."""
    album, found = _Album(), []
    for split in splits:
        for index, path in enumerate(split.annotations.paths):
            if known := album.add(_Seen(split.name, path), facts):
                seen, what = known
                kind = "duplicate-image" if seen.split == split.name else "in-two-splits"
                found.append(split.image_finding(kind, index, what))
    return found


def class_findings(splits: Sequence[Split]) -> list[Finding]:
    """Names that may mean one class, classes that a split lacks, and rare ones."""
    counts = {
        split.name: np.bincount(split.annotations.labels, minlength=len(split.annotations.class_names))
        for split in splits
    }
    names = splits[0].annotations.class_names
    total = dict(zip(names, sum(counts.values()).tolist(), strict=True))
    found = [
        Finding(
            "",
            Problem(
                "alike-classes", f"class {rarer}", f"boxes: {total[rarer]}, beside {total[other]} of {other}"
            ),
        )
        for rarer, other in alike(total)
    ]
    for split, number in counts.items():
        for label in np.flatnonzero(number == 0) if number.any() else []:
            found.append(
                Finding(split, Problem("absent-class", f"class {names[label]}", f"no box in {split}"))
            )
        for label in np.flatnonzero((number > 0) & (number < RARE)) if split == "train" else []:
            found.append(
                Finding(
                    split, Problem("rare-class", f"class {names[label]}", f"boxes in train: {number[label]}")
                )
            )
    return found


def alike(counts: Mapping[str, int]) -> list[tuple[str, str]]:
    """Pairs of names (the rarer, the other) that may mean one class: "dog" and "Dogs", or a rare "racoon" beside "raccoon"."""
    pairs = []
    for pair in itertools.combinations(counts, 2):
        rarer, other = sorted(pair, key=lambda name: counts[name])
        slip = counts[rarer] <= SELDOM * counts[other] and _near(rarer.lower(), other.lower())
        if _plain(rarer) == _plain(other) or slip:
            pairs.append((rarer, other))
    return pairs


def _near(one: str, other: str) -> bool:
    """The two quick ratios are upper bounds: most pairs of a thousand classes need no more."""
    match = difflib.SequenceMatcher(None, one, other)
    return min(match.real_quick_ratio(), match.quick_ratio()) >= MISSPELT and match.ratio() >= MISSPELT


def _plain(name: str) -> str:
    """Lower case, letters and digits only, without the plural's s."""
    letters = re.sub(r"[\W_]+", "", name.lower())
    return (
        letters[:-1] if len(letters) > 3 and letters.endswith("s") and not letters.endswith("ss") else letters
    )
