"""Splits built in memory for the tests of detectors lint."""

from __future__ import annotations

import numpy as np

from detectors.annotations import Annotations
from detectors.commands.lint.findings import Split
from detectors.data.problems import Problem


def split_of(
    boxes: list[list[list[float]]],
    labels: list[list[int]] | None = None,
    *,
    name: str = "train",
    size: tuple[int, int] = (60, 80),
    class_names: tuple[str, ...] = ("cat", "dog"),
    paths: list[str] | None = None,
    crowd: list[bool] | None = None,
    problems: list[Problem] | None = None,
    instances: str | None = None,
) -> Split:
    """boxes: xyxy per image, continuous edges. labels: per image; all 0 by default. size: (height, width)."""
    flat = np.array([box for image in boxes for box in image], dtype=np.float64).reshape(-1, 4)
    flat_labels = [0] * len(flat) if labels is None else [label for image in labels for label in image]
    annotations = Annotations(
        class_names=class_names,
        image_ids=tuple(range(len(boxes))),
        paths=tuple(paths or (f"/set/JPEGImages/{name}_{n}.jpg" for n in range(len(boxes)))),
        sizes=np.tile(np.array(size, dtype=np.int64), (len(boxes), 1)),
        offsets=np.concatenate([[0], np.cumsum([len(image) for image in boxes])]).astype(np.int64),
        boxes_original=flat,
        labels=np.array(flat_labels, dtype=np.int64),
        difficult=np.zeros(len(flat), dtype=bool),
        crowd=np.zeros(len(flat), dtype=bool) if crowd is None else np.array(crowd),
        areas=(flat[:, 2:] - flat[:, :2]).prod(1),
        category_ids=tuple(range(1, len(class_names) + 1)),
    )
    return Split(name, annotations, problems or [], instances)
