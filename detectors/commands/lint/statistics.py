"""Counts of classes, sizes and shapes: plain dicts that go into the JSON as they are, and into text and page as tables."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np

from detectors.annotations import Annotations
from detectors.commands.lint.findings import Split
from detectors.data.suspicious_boxes import sides_at_input

Table = dict[str, dict[str, int]]  # split -> bucket -> count

AREAS = (32**2, 96**2)  # square pixels: COCO's small, medium, large
PER_IMAGE = (0, 1, 2, 3, 5, 9, 17, 33, 65)  # first number of boxes of each bucket
FRACTIONS = (
    0,
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.5,
    1 + 1e-6,
)  # sqrt(box area / input area): where each bucket begins; 1 is the whole input
RATIOS = (0, 1 / 4, 1 / 2, 3 / 4, 4 / 3, 2, 4)  # width / height
IMAGE_SIZES = 10  # that are listed, the most frequent first


def statistics(splits: Sequence[Split], *, size: tuple[int, int], resize: str) -> dict:
    """{"splits": {split: {word: count}}, "classes": {class: {split: boxes}}, "tables": {title: Table}}.

    size (height, width), resize: of the model input.
    """
    names = splits[0].annotations.class_names
    per_class = {
        split.name: np.bincount(split.annotations.labels, minlength=len(names)).tolist() for split in splits
    }
    tables = {
        "boxes per image": boxes_per_image,
        "area in pixels of the image (COCO's small < 32², medium < 96², large)": lambda truths: areas(
            truths.areas
        ),
        f"area in pixels of the model input, {size[1]} x {size[0]}, {resize}": lambda truths: areas(
            sides_at_input(truths, size, resize).prod(1)
        ),
        "side (root of the area) over the model input's": lambda truths: fractions(
            sides_at_input(truths, size, resize), size
        ),
        "aspect ratio (width / height)": ratios,
    }
    return {
        "splits": {split.name: totals(split) for split in splits},
        "classes": {
            name: {split: counts[label] for split, counts in per_class.items()}
            for label, name in enumerate(names)
        },
        "tables": {
            title: {split.name: count(split.annotations) for split in splits}
            for title, count in tables.items()
        }
        | {"size of the images (width x height)": image_sizes(splits)},
    }


def totals(split: Split) -> dict[str, int]:
    truths = split.annotations
    return {
        "images": len(truths),
        "boxes": len(truths.labels),
        "images without boxes": int((np.diff(truths.offsets) == 0).sum()),
        "difficult": int(truths.difficult.sum()),
        "crowd": int(truths.crowd.sum()),
        "faults left out": len(split.problems),
    }


def boxes_per_image(truths: Annotations) -> dict[str, int]:
    ends = [*(start - 1 for start in PER_IMAGE[1:]), None]
    names = [
        f"{start} or more" if end is None else str(start) if end == start else f"{start} to {end}"
        for start, end in zip(PER_IMAGE, ends, strict=True)
    ]
    return _histogram(np.diff(truths.offsets), PER_IMAGE, names)


def areas(values: np.ndarray) -> dict[str, int]:
    """COCO counts an area of exactly 32² or 96² on both sides; here it is on the upper one."""
    return _histogram(values, (0, *AREAS), ["small", "medium", "large"])


def fractions(sides: np.ndarray, size: tuple[int, int]) -> dict[str, int]:
    """sides: (T, 2) in pixels of the model input."""
    names = [f"{low:.0%} to {high:.0%}" for low, high in itertools.pairwise(FRACTIONS)]
    return _histogram(np.sqrt(sides.prod(1) / np.prod(size)), FRACTIONS, [*names, "more than the input"])


def ratios(truths: Annotations) -> dict[str, int]:
    width, height = (truths.boxes_original[:, 2:] - truths.boxes_original[:, :2]).T
    edges = ("1/4", "1/2", "3/4", "4/3", "2", "4")
    names = [
        f"below {edges[0]}",
        *(f"{low} to {high}" for low, high in itertools.pairwise(edges)),
        f"{edges[-1]} or more",
    ]
    return _histogram(width / height, RATIOS, names)


def image_sizes(splits: Sequence[Split]) -> Table:
    """The most frequent sizes of all splits together, and how many images have another."""
    counts = {split.name: Counter(map(tuple, split.annotations.sizes.tolist())) for split in splits}
    listed = [size for size, _ in sum(counts.values(), Counter()).most_common(IMAGE_SIZES)]
    table = {
        split: {f"{width} x {height}": found[height, width] for height, width in listed}
        for split, found in counts.items()
    }
    rest = {
        split: sum(number for size, number in found.items() if size not in listed)
        for split, found in counts.items()
    }
    return {
        split: row | {"other": rest[split]} if any(rest.values()) else row for split, row in table.items()
    }


def _histogram(values: np.ndarray, starts: Sequence[float], names: Sequence[str]) -> dict[str, int]:
    """Counts of the buckets that begin at `starts`, rising; what lies below the first counts there."""
    place = np.clip(np.searchsorted(starts, values, side="right") - 1, 0, None)
    return dict(zip(names, np.bincount(place, minlength=len(names)).tolist(), strict=True))
