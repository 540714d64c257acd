"""Counts by class, size and shape, as plain dicts for the JSON file and for tables of text and page."""

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
PER_IMAGE = (0, 1, 2, 3, 5, 9, 17, 33, 65)  # boxes per image: start of each bucket
FULL = 1 + 1e-6  # the side of a box as large as the input, with room for rounding
FRACTIONS = (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, FULL)  # sqrt(box area / input area): start of each bucket
RATIOS = (0, 1 / 4, 1 / 2, 3 / 4, 4 / 3, 2, 4)  # width / height: start of each bucket
IMAGE_SIZES = 10  # most frequent image sizes that are listed


def statistics(splits: Sequence[Split], *, size: tuple[int, int], resize: str) -> dict:
    """{"splits": {split: {word: count}}, "classes": {class: {split: boxes}}, "tables": {title: Table}}.

    size: (height, width) of the model input. resize: letterbox or stretch.
    """
    return {
        "splits": {split.name: totals(split) for split in splits},
        "classes": _class_counts(splits),
        "tables": _tables(splits, size, resize),
    }


def _class_counts(splits: Sequence[Split]) -> dict[str, dict[str, int]]:
    names = splits[0].annotations.class_names
    counts = {
        split.name: np.bincount(split.annotations.labels, minlength=len(names)).tolist() for split in splits
    }
    return {
        name: {split: split_counts[label] for split, split_counts in counts.items()}
        for label, name in enumerate(names)
    }


def _tables(splits: Sequence[Split], size: tuple[int, int], resize: str) -> dict[str, Table]:
    at_input = f"area in pixels of the model input, {size[1]} x {size[0]}, {resize}"
    tables: dict[str, Table] = {
        "boxes per image": {},
        "area in pixels of the image (COCO's small < 32², medium < 96², large)": {},
        at_input: {},
        "side (root of the area) over the model input's": {},
        "aspect ratio (width / height)": {},
    }
    for split in splits:
        sides = sides_at_input(split.annotations, size, resize)  # (T, 2)
        columns = [
            boxes_per_image(split.annotations),
            areas(split.annotations.areas),
            areas(sides.prod(1)),
            fractions(sides, size),
            ratios(split.annotations),
        ]
        for table, counts in zip(tables.values(), columns, strict=True):
            table[split.name] = counts
    tables["size of the images (width x height)"] = image_sizes(splits)
    return tables


def totals(split: Split) -> dict[str, int]:
    annotations = split.annotations
    return {
        "images": len(annotations),
        "boxes": len(annotations.labels),
        "images without boxes": int((np.diff(annotations.offsets) == 0).sum()),
        "difficult": int(annotations.difficult.sum()),
        "crowd": int(annotations.crowd.sum()),
        "faults left out": len(split.problems),
    }


def boxes_per_image(annotations: Annotations) -> dict[str, int]:
    names = []
    for start, following in itertools.pairwise(PER_IMAGE):
        end = following - 1
        names.append(str(start) if end == start else f"{start} to {end}")
    names.append(f"{PER_IMAGE[-1]} or more")
    return _histogram(np.diff(annotations.offsets), PER_IMAGE, names)


def areas(values: np.ndarray) -> dict[str, int]:
    """COCO counts an area of exactly 32² or 96² in both ranges; here it counts in the larger one."""
    return _histogram(values, (0, *AREAS), ["small", "medium", "large"])


def fractions(sides: np.ndarray, size: tuple[int, int]) -> dict[str, int]:
    """sides: (T, 2) in pixels of the model input."""
    names = [f"{low:.0%} to {high:.0%}" for low, high in itertools.pairwise(FRACTIONS)]
    return _histogram(np.sqrt(sides.prod(1) / np.prod(size)), FRACTIONS, [*names, "more than the input"])


def ratios(annotations: Annotations) -> dict[str, int]:
    boxes = annotations.boxes_original
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    edges = ("1/4", "1/2", "3/4", "4/3", "2", "4")
    between = [f"{low} to {high}" for low, high in itertools.pairwise(edges)]
    return _histogram(width / height, RATIOS, [f"below {edges[0]}", *between, f"{edges[-1]} or more"])


def image_sizes(splits: Sequence[Split]) -> Table:
    """The most frequent sizes of all splits together; images of other sizes are counted as "other"."""
    counts = {split.name: Counter(map(tuple, split.annotations.sizes.tolist())) for split in splits}
    listed = [size for size, _ in sum(counts.values(), Counter()).most_common(IMAGE_SIZES)]
    table = {
        split: {f"{width} x {height}": split_counts[height, width] for height, width in listed}
        for split, split_counts in counts.items()
    }
    others = {
        split: sum(number for size, number in split_counts.items() if size not in listed)
        for split, split_counts in counts.items()
    }
    if any(others.values()):
        for split, row in table.items():
            row["other"] = others[split]
    return table


def _histogram(values: np.ndarray, starts: Sequence[float], names: Sequence[str]) -> dict[str, int]:
    """Counts per bucket. starts: ascending; values below the first start count in the first bucket."""
    bucket = np.clip(np.searchsorted(starts, values, side="right") - 1, 0, None)
    return dict(zip(names, np.bincount(bucket, minlength=len(names)).tolist(), strict=True))
