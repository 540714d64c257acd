"""Findings about Darknet's label files that hold no objects, or polygons."""

from __future__ import annotations

from collections.abc import Sequence

from detectors.commands.lint.findings import Finding, Split
from detectors.data.darknet_labels import POLYGON_COLUMNS, label_rows


def label_findings(splits: Sequence[Split]) -> list[Finding]:
    """One finding for each image without a label file, with an empty one, or with one that has polygons.

    An image whose label file is missing by mistake is trained on as one without objects.
    """
    return [
        finding
        for split in splits
        if split.labels
        for index, image in enumerate(split.annotations.paths)
        for finding in _image_labels(split, index, split.labels(image))
    ]


def _image_labels(split: Split, index: int, label: str) -> list[Finding]:
    if not label:
        what = f"no {split.annotation_file(index)}"
        return [split.image_finding("missing-label", index, what)]
    lengths = [len(words) for _, words in label_rows(label)]
    polygons = sum(length >= POLYGON_COLUMNS for length in lengths)
    if not lengths:
        return [split.image_finding("empty-label", index, "", file=label)]
    if polygons:
        what = f"{polygons} of {len(lengths)} lines have more than five columns"
        return [split.image_finding("polygon-label", index, what, file=label)]
    return []
