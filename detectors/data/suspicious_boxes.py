"""What annotations alone can tell about their boxes, without decoding an image: quick enough to be done before every training.

All in flat arrays: a set of COCO's size (118,287 images, 860,001 boxes) takes less than a second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from detectors.annotations import Annotations
from detectors.data.problems import KINDS, Problem

REACH = 0.5  # pixels by which a box may reach out of its image: what rounding leaves
TINY = 1.0  # pixels of the model input: a box with a shorter side is too small to be found
TWINS = 0.95  # IoU above which two boxes of an image are one object annotated twice


def overreach(annotations: Annotations) -> np.ndarray:
    """(T,) by how many pixels each box reaches out of its image, on the side where it is most; 0 inside."""
    boxes, (height, width) = annotations.boxes_original, annotations.sizes[annotations.image].T
    return np.max(
        [-boxes[:, 0], -boxes[:, 1], boxes[:, 2] - width, boxes[:, 3] - height, np.zeros(len(boxes))], axis=0
    )


def outside(annotations: Annotations) -> np.ndarray:
    """(T,) bool: no part of the box lies in its image."""
    boxes, (height, width) = annotations.boxes_original, annotations.sizes[annotations.image].T
    return (boxes[:, 0] >= width) | (boxes[:, 1] >= height) | (boxes[:, 2] <= 0) | (boxes[:, 3] <= 0)


def sides_at_input(annotations: Annotations, size: tuple[int, int], resize: str) -> np.ndarray:
    """(T, 2) width and height of each box in pixels of the model input. size: its (height, width); resize: letterbox or stretch."""
    scale = np.asarray(size) / np.maximum(annotations.sizes, 1)  # (N, 2) rows, columns
    if resize == "letterbox":
        scale = scale.min(1, keepdims=True).repeat(2, 1)
    boxes = annotations.boxes_original
    return (boxes[:, 2:] - boxes[:, :2]) * scale[annotations.image][:, ::-1]


def twins(annotations: Annotations, iou: float = TWINS) -> np.ndarray:
    """(P, 2) rows of boxes of one image with an IoU above `iou` (>= 0.5), the earlier row first. Crowd regions have none.

    Law: the same as comparing all boxes of an image with one another (tests/linting/test_boxes.py). Sorted by xmin, only few neighbours
    come into question: where the IoU is above t, the left edges are less than (1 - t) / t widths apart.
    """
    rows = np.flatnonzero(~annotations.crowd)
    boxes, image = annotations.boxes_original[rows], annotations.image[rows]
    order = np.lexsort((boxes[:, 0], image))
    rows, boxes, image = rows[order], boxes[order], image[order]
    reach = boxes[:, 0] + (1 - iou) / iou * (boxes[:, 2] - boxes[:, 0]) * (1 + 1e-9)
    first, step, found = np.arange(len(rows)), 0, []
    while len(first):
        step += 1
        first = first[first + step < len(rows)]
        first = first[(image[first] == image[first + step]) & (boxes[first + step, 0] <= reach[first])]
        alike = first[_ious(boxes[first], boxes[first + step]) > iou]
        found.append(np.stack([rows[alike], rows[alike + step]], 1))
    pairs = np.sort(np.concatenate([np.zeros((0, 2), np.int64), *found]), 1)
    return pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]


def _ious(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(P, 4), (P, 4) -> (P,), row by row; 0 for two boxes without area."""
    overlap = (np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])).clip(0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - overlap
    return np.divide(overlap, union, out=np.zeros(len(a)), where=union > 0)


def suspicious(annotations: Annotations, *, size: tuple[int, int], resize: str) -> dict[str, np.ndarray]:
    """Kind -> rows of the boxes of that kind, rising; kinds without any are left out."""
    beyond = outside(annotations)
    tiny = (sides_at_input(annotations, size, resize) < TINY).any(1)
    pairs = twins(annotations)
    same = annotations.labels[pairs[:, 0]] == annotations.labels[pairs[:, 1]]
    again = np.unique(pairs[same, 1])
    found = {
        "outside-image": np.flatnonzero(beyond),
        "partly-outside": np.flatnonzero((overreach(annotations) > REACH) & ~beyond),
        "tiny-box": np.flatnonzero(tiny & ~beyond),
        "duplicate-box": again,
        "two-classes": np.setdiff1d(pairs[~same, 1], again),  # a box that repeats another is told once
    }
    return {kind: rows for kind, rows in found.items() if len(rows)}


def remark(
    splits: Mapping[str, tuple[Annotations, Sequence[Problem]]], *, size: tuple[int, int], resize: str
) -> str | None:
    """What a training says about its data in one line, or None if there is nothing to say.

    splits: name -> what scan_annotations gave: the truths and what was left out of them.
    """
    left_out: dict[str, Counter] = {kind: Counter() for kind in KINDS}
    suspected: dict[str, Counter] = {kind: Counter() for kind in KINDS}
    for name, (truths, problems) in splits.items():
        for problem in problems:
            left_out[problem.kind][name] += 1
        for kind, rows in suspicious(truths, size=size, resize=resize).items():
            suspected[kind][name] += len(rows)
    told = [f"left out {text}" for text in _counted(left_out)] + _counted(suspected)
    return f"data: {'; '.join(told)}; detectors lint shows them" if told else None


def _counted(counts: Mapping[str, Counter]) -> list[str]:
    """boxes without area: 2 in train, 1 in val"""
    words = {
        kind: ", ".join(f"{number} in {split}" for split, number in found.items())
        for kind, found in counts.items()
        if found
    }
    return [f"{KINDS[kind].title}: {text}" for kind, text in words.items()]
