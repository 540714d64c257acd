"""A split to check, and findings that name the file with the problem."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from detectors.annotations import Annotations
from detectors.data.darknet_labels import darknet_fractions
from detectors.data.darknet_lists import LabelFinder
from detectors.data.problems import KINDS, Problem
from detectors.data.voc_files import xml_path


class Finding(NamedTuple):
    """A problem and the split it is in."""

    split: str  # "train", "val", "test"; "" for the data set as a whole
    problem: Problem

    @property
    def error(self) -> bool:
        return KINDS[self.problem.kind].error

    def __str__(self) -> str:
        return f"{self.split}: {self.problem}" if self.split else str(self.problem)


class Split(NamedTuple):
    """A split as it was read."""

    name: str  # "train", "val", "test"
    annotations: Annotations
    problems: list[Problem]  # faulty entries, which the annotations do not include
    instances: str | None = None  # COCO's JSON file
    # Darknet's label files; None for both: VOC's layout with an XML file per image
    labels: LabelFinder | None = None

    @property
    def findings(self) -> list[Finding]:
        return [Finding(self.name, problem) for problem in self.problems]

    def annotation_file(self, index: int) -> str:
        """The file that holds the boxes of image `index`."""
        if self.instances:
            return self.instances
        if self.labels:
            image = self.annotations.paths[index]
            return self.labels(image) or self.labels.candidates(image)[0]
        path = Path(self.annotations.paths[index])
        return str(xml_path(path.parents[1], path.stem))

    def describe_box(self, row: int) -> str:
        """Class and coordinates of a box as in its file.

        VOC: corners that count from 1. COCO: x, y, width, height. Darknet: fractions cx, cy, w, h.
        """
        xmin, ymin, xmax, ymax = box = self.annotations.boxes_original[row].tolist()
        if self.instances:
            numbers = (xmin, ymin, xmax - xmin, ymax - ymin)
        elif self.labels:
            image = int(np.searchsorted(self.annotations.offsets, row, side="right")) - 1
            numbers = darknet_fractions(box, self.annotations.sizes[image].tolist())
        else:
            numbers = (xmin + 1, ymin + 1, xmax, ymax)
        class_name = self.annotations.class_names[self.annotations.labels[row]]
        return f"{class_name} [{', '.join(f'{number:.6g}' for number in numbers)}]"

    def image_finding(self, kind: str, index: int, what: str, *, file: str | None = None) -> Finding:
        """A finding about image `index`. file: what to fix, if it is not the image itself."""
        path = self.annotations.paths[index]
        if file is not None and self.instances is not None:
            what = f"{Path(path).name}: {what}"  # COCO's file is about all images, so name the image
        return Finding(self.name, Problem(kind, file or path, what, image=path))

    def box_finding(self, kind: str, index: int, row: int, details: str) -> Finding:
        """A finding about the box in `row`, which is in image `index`."""
        path = self.annotations.paths[index]
        what = f"{self.describe_box(row)}{details}"
        if self.instances is not None:
            what = f"{Path(path).name}: {what}"
        box = tuple(self.annotations.boxes_original[row].tolist())
        return Finding(self.name, Problem(kind, self.annotation_file(index), what, image=path, box=box))
