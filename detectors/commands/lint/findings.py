"""A split under examination, and where in its own files a box stands."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from detectors.annotations import Annotations
from detectors.data.problems import KINDS, Problem


class Finding(NamedTuple):
    """A problem, and the split it was found in."""

    split: str  # "train", "val", "test"; "" for the data set as a whole
    problem: Problem

    @property
    def error(self) -> bool:
        return KINDS[self.problem.kind].error

    def __str__(self) -> str:
        return f"{self.split}: {self.problem}" if self.split else str(self.problem)


class Split(NamedTuple):
    """What the reader of a split gave."""

    name: str  # "train", "val", "test"
    annotations: Annotations
    problems: list[Problem]  # what the reader left out
    instances: str | None = None  # COCO's file; None for VOC's layout, where each image has an XML

    @property
    def findings(self) -> list[Finding]:
        return [Finding(self.name, problem) for problem in self.problems]

    def file(self, index: int) -> str:
        """The file in which the boxes of image `index` must be mended."""
        path = Path(self.annotations.paths[index])
        return self.instances or str(path.parents[1] / "Annotations" / f"{path.stem}.xml")

    def words(self, row: int) -> str:
        """Class and coordinates of a box as its file has them: VOC's 1-based corners, or COCO's x, y, width, height."""
        xmin, ymin, xmax, ymax = self.annotations.boxes_original[row].tolist()
        numbers = (
            (xmin + 1, ymin + 1, xmax, ymax)
            if self.instances is None
            else (xmin, ymin, xmax - xmin, ymax - ymin)
        )
        return f"{self.annotations.class_names[self.annotations.labels[row]]} [{', '.join(f'{number:.6g}' for number in numbers)}]"

    def image_finding(self, kind: str, index: int, what: str, *, file: str | None = None) -> Finding:
        """About a whole image; `file` is what must be mended if it is not the image itself."""
        path = self.annotations.paths[index]
        if file is not None and self.instances is not None:
            what = f"{Path(path).name}: {what}"  # one file for all images: it must be said which
        return Finding(self.name, Problem(kind, file or path, what, image=path))

    def box_finding(self, kind: str, index: int, row: int, what: str) -> Finding:
        """About the box in `row`, which lies in image `index`."""
        path = self.annotations.paths[index]
        where = self.words(row) if self.instances is None else f"{Path(path).name}: {self.words(row)}"
        box = tuple(self.annotations.boxes_original[row].tolist())
        return Finding(self.name, Problem(kind, self.file(index), f"{where}{what}", image=path, box=box))
