"""Checks of boxes that need no image, and are fast enough to run before every training.

They work on flat arrays: a data set of COCO's size (118,287 images, 860,001 boxes) takes less than a second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from detectors.annotations import Annotations
from detectors.boxes import paired_iou
from detectors.data.problems import KINDS, Problem

REACH = 0.5  # pixels by which a box may reach out of its image, because of rounding
TINY = 1.0  # pixels of the model input; a box with a shorter side is too small to detect
TWINS = 0.95  # IoU above which two boxes of an image are taken for one object annotated twice


def overreach(annotations: Annotations) -> np.ndarray:
    """(T,) the largest number of pixels by which each box reaches out of its image on any side; 0 inside."""
    xmin, ymin, xmax, ymax = annotations.boxes_original.T
    height, width = annotations.sizes[annotations.image].T
    return np.max([-xmin, -ymin, xmax - width, ymax - height, np.zeros(len(xmin))], axis=0)


def outside(annotations: Annotations) -> np.ndarray:
    """(T,) bool: no part of the box is inside its image."""
    xmin, ymin, xmax, ymax = annotations.boxes_original.T
    height, width = annotations.sizes[annotations.image].T
    return (xmin >= width) | (ymin >= height) | (xmax <= 0) | (ymax <= 0)


def sides_at_input(annotations: Annotations, size: tuple[int, int], resize: str) -> np.ndarray:
    """(T, 2) width and height of each box in pixels of the model input.

    size: (height, width) of the model input. resize: "letterbox" or "stretch".
    """
    scale = np.asarray(size) / np.maximum(annotations.sizes, 1)  # (N, 2) rows, columns
    if resize == "letterbox":
        scale = scale.min(1, keepdims=True).repeat(2, 1)
    boxes = annotations.boxes_original
    return (boxes[:, 2:] - boxes[:, :2]) * scale[annotations.image][:, ::-1]


def twins(annotations: Annotations, iou: float = TWINS) -> np.ndarray:
    """(P, 2) rows of two boxes of one image with an IoU above `iou` (>= 0.5), the lower row first.

    Crowd boxes are ignored. Law: equals comparing all pairs of an image's boxes
    (tests/data/test_suspicious_boxes.py). Boxes are sorted by xmin, so each one is compared with few
    neighbours: if the IoU is above t, the left edges are less than (1 - t) / t widths apart.
    """
    rows = np.flatnonzero(~annotations.crowd)
    order = np.lexsort((annotations.boxes_original[rows, 0], annotations.image[rows]))
    rows = rows[order]
    boxes = annotations.boxes_original[rows]
    image = annotations.image[rows]
    limit = boxes[:, 0] + (1 - iou) / iou * (boxes[:, 2] - boxes[:, 0]) * (1 + 1e-9)  # largest xmin of a twin
    corners = torch.from_numpy(boxes)
    parts = [np.zeros((0, 2), np.int64)]
    first = np.arange(len(rows))
    step = 0
    while len(first):
        step += 1  # compare each remaining box with the one `step` places further on
        first = first[first + step < len(rows)]
        first = first[(image[first] == image[first + step]) & (boxes[first + step, 0] <= limit[first])]
        alike = first[(paired_iou(corners[first], corners[first + step]) > iou).numpy()]
        parts.append(np.stack([rows[alike], rows[alike + step]], 1))
    pairs = np.sort(np.concatenate(parts), 1)
    return pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]


def suspicious(annotations: Annotations, *, size: tuple[int, int], resize: str) -> dict[str, np.ndarray]:
    """Kind of problem -> rows of the boxes with that problem, ascending. Kinds without any box are left out.

    size: (height, width) of the model input. resize: "letterbox" or "stretch".
    """
    is_outside = outside(annotations)
    is_tiny = (sides_at_input(annotations, size, resize) < TINY).any(1)
    pairs = twins(annotations)
    same_class = annotations.labels[pairs[:, 0]] == annotations.labels[pairs[:, 1]]
    duplicates = np.unique(pairs[same_class, 1])
    rows_by_kind = {
        "outside-image": np.flatnonzero(is_outside),
        "partly-outside": np.flatnonzero((overreach(annotations) > REACH) & ~is_outside),
        "tiny-box": np.flatnonzero(is_tiny & ~is_outside),
        "duplicate-box": duplicates,
        "two-classes": np.setdiff1d(pairs[~same_class, 1], duplicates),  # report each box once
    }
    return {kind: rows for kind, rows in rows_by_kind.items() if len(rows)}


def remark(
    splits: Mapping[str, tuple[Annotations, Sequence[Problem]]], *, size: tuple[int, int], resize: str
) -> str | None:
    """One line about the problems of the data, for the log of a training; None if there are none.

    splits: name -> the result of scan_annotations: the annotations, and what was left out of them.
    """
    left_out: dict[str, Counter] = {kind: Counter() for kind in KINDS}
    suspected: dict[str, Counter] = {kind: Counter() for kind in KINDS}
    for name, (scanned, problems) in splits.items():
        for problem in problems:
            left_out[problem.kind][name] += 1
        for kind, rows in suspicious(scanned, size=size, resize=resize).items():
            suspected[kind][name] += len(rows)
    texts = [f"left out {text}" for text in _count_texts(left_out)] + _count_texts(suspected)
    return f"data: {'; '.join(texts)}; detectors lint shows them" if texts else None


def _count_texts(counts: Mapping[str, Counter]) -> list[str]:
    """One text per kind that occurs: "boxes without area: 2 in train, 1 in val"."""
    texts = []
    for kind, by_split in counts.items():
        if by_split:
            numbers = ", ".join(f"{number} in {split}" for split, number in by_split.items())
            texts.append(f"{KINDS[kind].title}: {numbers}")
    return texts
