"""Findings about images and classes across splits: duplicates, similar names, missing and rare classes."""

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
from detectors.commands.lint.image_checks import ImageFacts
from detectors.data.problems import Problem

RARE = 10  # boxes; a class with fewer in the training split can hardly be learned
COPY_DIFFERENCE = 4.0  # grey levels; thumbnails with a smaller mean difference are of one picture, re-encoded
SIMILARITY = 0.85  # difflib ratio; more similar names may be a typo ...
TYPO_SHARE = 0.1  # ... if one class has at most this share of the other's boxes


class _ListedImage(NamedTuple):
    split: str
    path: str

    def describe(self, split: str) -> str:
        """The image as named in a finding about `split`."""
        return self.path if split == self.split else f"{self.split}'s {self.path}"


class _ImageIndex:
    """The images added so far, by resolved path, by pixels and by file name."""

    def __init__(self):
        self.by_file: dict[str, _ListedImage] = {}
        self.by_digest: dict[bytes, _ListedImage] = {}
        self.by_name: dict[str, list[_ListedImage]] = {}

    def add(self, image: _ListedImage, facts: Mapping[str, ImageFacts]) -> tuple[_ListedImage, str] | None:
        """Adds an image. Returns an earlier image that is the same and how they match, or None."""
        file = os.path.realpath(image.path)
        match = self._match(image, file, facts)
        digest = facts[image.path].digest
        self.by_file.setdefault(file, image)
        if digest:
            self.by_digest.setdefault(digest, image)
        self.by_name.setdefault(Path(image.path).name, []).append(image)
        return match

    def _match(
        self, image: _ListedImage, file: str, facts: Mapping[str, ImageFacts]
    ) -> tuple[_ListedImage, str] | None:
        """file: the image's resolved path."""
        same_file = self.by_file.get(file)
        if same_file and same_file.split != image.split:
            return same_file, f"the same file is in {same_file.split}"
        if same_file:
            return same_file, "listed more than once"
        same_pixels = self.by_digest.get(facts[image.path].digest)
        if same_pixels:
            return same_pixels, f"the same pixels as {same_pixels.describe(image.split)}"
        match = None
        for other in self.by_name.get(Path(image.path).name, []):
            if other.split != image.split and _look_alike(facts[image.path], facts[other.path]):
                match = other, f"the same name and nearly the same pixels as {other.describe(image.split)}"
        return match


def _look_alike(first: ImageFacts, second: ImageFacts) -> bool:
    if not first.thumbnail or not second.thumbnail:
        return False
    first_gray = np.frombuffer(first.thumbnail, np.uint8).astype(float)
    second_gray = np.frombuffer(second.thumbnail, np.uint8).astype(float)
    return float(np.abs(first_gray - second_gray).mean()) < COPY_DIFFERENCE


def same_images(splits: Sequence[Split], facts: Mapping[str, ImageFacts]) -> list[Finding]:
    """One finding for each image that repeats an earlier one of its own split or of another.

    An image in two splits makes the evaluation worthless.
    """
    index = _ImageIndex()
    findings = []
    for split in splits:
        for row, path in enumerate(split.annotations.paths):
            match = index.add(_ListedImage(split.name, path), facts)
            if match:
                earlier, what = match
                kind = "duplicate-image" if earlier.split == split.name else "in-two-splits"
                findings.append(split.image_finding(kind, row, what))
    return findings


def class_findings(splits: Sequence[Split]) -> list[Finding]:
    """Class names that may mean the same, classes without a box in a split, rare classes in train."""
    names = splits[0].annotations.class_names
    counts = {
        split.name: np.bincount(split.annotations.labels, minlength=len(split.annotations.class_names))
        for split in splits
    }
    totals = dict(zip(names, sum(counts.values()).tolist(), strict=True))
    findings = []
    for rarer, other in alike(totals):
        what = f"boxes: {totals[rarer]}, beside {totals[other]} of {other}"
        findings.append(Finding("", Problem("alike-classes", f"class {rarer}", what)))
    if any(totals.values()):  # otherwise nothing is annotated
        empty = [name for name, total in totals.items() if not total]
        findings += [
            Finding("", Problem("empty-class", f"class {name}", "no box in any split")) for name in empty
        ]
    for split, split_counts in counts.items():
        findings += _count_findings(split, names, split_counts, totals)
    return findings


def _count_findings(
    split: str, names: Sequence[str], counts: np.ndarray, totals: Mapping[str, int]
) -> list[Finding]:
    """Findings about classes with no box or few boxes. counts: (C,) boxes per class; totals: of all."""
    findings = []
    if counts.any():  # a split without any boxes is not annotated
        for label in np.flatnonzero(counts == 0):
            if not totals[names[label]]:
                continue
            problem = Problem("absent-class", f"class {names[label]}", f"no box in {split}")
            findings.append(Finding(split, problem))
    if split == "train":
        for label in np.flatnonzero((counts > 0) & (counts < RARE)):
            problem = Problem("rare-class", f"class {names[label]}", f"boxes in train: {counts[label]}")
            findings.append(Finding(split, problem))
    return findings


def alike(counts: Mapping[str, int]) -> list[tuple[str, str]]:
    """Pairs (rarer, other) of names that may mean one class: "dog" and "Dogs", a rare "racoon" and "raccoon".

    counts: class name -> number of boxes.
    """
    pairs = []
    for pair in itertools.combinations(counts, 2):
        rarer, other = sorted(pair, key=lambda name: counts[name])
        typo = counts[rarer] <= TYPO_SHARE * counts[other] and _similar(rarer.lower(), other.lower())
        if typo or _normalise(rarer) == _normalise(other):
            pairs.append((rarer, other))
    return pairs


def _similar(first: str, second: str) -> bool:
    """The quick ratios are upper bounds, so most pairs of a thousand classes do not need the slow one."""
    matcher = difflib.SequenceMatcher(None, first, second)
    quick = min(matcher.real_quick_ratio(), matcher.quick_ratio())
    return quick >= SIMILARITY and matcher.ratio() >= SIMILARITY


def _normalise(name: str) -> str:
    """Lower case, letters and digits only, without a plural s."""
    letters = re.sub(r"[\W_]+", "", name.lower())
    plural = len(letters) > 3 and letters.endswith("s") and not letters.endswith("ss")
    return letters[:-1] if plural else letters
