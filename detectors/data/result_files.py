"""Detections that other programs wrote: COCO's results, and VOC's comp4_det_test_CLASS.txt.

Boxes of negative size or outside the image stay: to VOC and COCO they are detections that match no box, or a
worse one. Numbers stay float64, so that nothing is rounded again.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path, PurePath

import numpy as np
import torch

from detectors.annotations import Annotations
from detectors.data.coco_file import as_id, garbage_collection_paused
from detectors.data.suggestions import did_you_mean
from detectors.data.text_files import read_text
from detectors.structures import Detections

RESULT_KEYS = ("image_id", "category_id", "bbox", "score")
LINE_FORM = "IMAGE SCORE XMIN YMIN XMAX YMAX"
LONGEST_NUMBER = 18  # digits of an image's number


class ImageRows:
    """Rows of Annotations by what a program may call an image: its id, its file's stem, its number.

    Darknet writes stems; others write VOC's 000012 as the number 12. A name that two images share is no name.
    """

    def __init__(self, annotations: Annotations):
        stems = [PurePath(path).stem for path in annotations.paths]
        numbers = [_as_number(image_id) for image_id in annotations.image_ids]
        self.names = [_unique(annotations.image_ids), _unique(stems), _unique(numbers)]
        self.unknown: dict[int | str, int] = {}  # id -> its detections

    def row(self, image_id: int | str) -> int:
        """-1 for an image that there is not, which refuse_unknown() names."""
        for rows, name in zip(self.names, (image_id, image_id, _as_number(image_id)), strict=True):
            if name in rows:
                return rows[name]
        self.unknown[image_id] = self.unknown.get(image_id, 0) + 1
        return -1

    def refuse_unknown(self, place: str) -> None:
        """ValueError if there were unknown images. place: of the detections."""
        if self.unknown:
            examples = ", ".join(map(str, list(self.unknown)[:3]))
            raise ValueError(
                f"{place}: {sum(self.unknown.values())} detections are of {len(self.unknown)} images that "
                f"the ground truth does not have ({examples}): is it another split or another data set?"
            )


def _as_number(image_id: int | str) -> int | None:
    if isinstance(image_id, int):
        return image_id
    return int(image_id) if image_id.isdecimal() and len(image_id) <= LONGEST_NUMBER else None


def _unique(names: Iterable[Hashable]) -> dict[Hashable, int]:
    """Name -> its place, for names that occur once; None is no name."""
    rows: dict[Hashable, int | None] = {}
    for row, name in enumerate(names):
        rows[name] = None if name in rows else row
    return {name: row for name, row in rows.items() if row is not None and name is not None}


def read_coco_results(path: Path, annotations: Annotations) -> Detections:
    """A list of {"image_id", "category_id", "bbox": [x, y, width, height], "score"}.

    Category ids are the annotation file's; 1..C, in the order of the classes, for data in other formats.
    `image` is the row of `annotations`. FileNotFoundError or ValueError names the file and the entry.
    """
    text = read_text(path, what="file of results")
    try:
        with garbage_collection_paused():
            content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, list):
        raise ValueError(f"{path}: not a list of COCO's results, whose entries have {', '.join(RESULT_KEYS)}")
    images = ImageRows(annotations)
    label_of = {category: label for label, category in enumerate(annotations.category_ids)}
    image, labels, numbers = [], [], []
    for number, entry in enumerate(content):
        image_id, category, values = _entry(entry, f"{path}: entry {number}")
        if category not in label_of:
            known = ", ".join(map(str, annotations.category_ids[:8]))
            more = ", ..." if len(label_of) > 8 else ""
            what = f"{path}: entry {number}: category_id {category} is not one of the ground truth's"
            raise ValueError(f"{what} ({known}{more})")
        image.append(images.row(image_id))
        labels.append(label_of[category])
        numbers.append(values)
    images.refuse_unknown(str(path))
    scored = _finite(numbers, lambda row: f"{path}: entry {row}")
    scored[:, 3:] += scored[:, 1:3]
    return _detections(image, scored, labels)


def _entry(entry: object, place: str) -> tuple[int | str, int, tuple]:
    """Image id, category id, and score, x, y, width, height."""
    if not isinstance(entry, dict) or any(key not in entry for key in RESULT_KEYS):
        raise ValueError(f"{place}: is {reprlib.repr(entry)}, must have {', '.join(RESULT_KEYS)}")
    image_id = as_id(entry["image_id"])
    category = as_id(entry["category_id"])
    box = entry["bbox"]
    if image_id is None or type(category) is not int:
        what = f"{entry['image_id']!r} and {entry['category_id']!r}"
        raise ValueError(
            f"{place}: image_id and category_id are {what}, must be a number or text, and a number"
        )
    values = (entry["score"], *box) if isinstance(box, list) else ()
    if len(values) != 5 or any(type(value) not in (int, float) for value in values):
        what = f"bbox {reprlib.repr(box)} and score {reprlib.repr(entry['score'])}"
        raise ValueError(f"{place}: {what}, must be [x, y, width, height] and a number")
    return image_id, category, values


def read_voc_results(files: Sequence[Path], annotations: Annotations) -> tuple[Detections, list[str]]:
    """One file for each class, named ..._CLASS.txt, with lines IMAGE SCORE XMIN YMIN XMAX YMAX.

    Corners are pixels from 1 on, both included, so that [xmin - 1, ymin - 1, xmax, ymax] has the IoU that
    VOC's evaluators compute with "+ 1". Of equal scores, those of a file keep their order. Also returns the
    classes without a file. FileNotFoundError or ValueError names the file and the line.
    """
    images = ImageRows(annotations)
    file_of_class: dict[str, Path] = {}
    image, labels, numbers, places = [], [], [], []
    for path in files:
        name = class_of_file(path, annotations.class_names)
        if name in file_of_class:
            raise ValueError(
                f"{path} and {file_of_class[name]}: both are of the class {name}; give one of them"
            )
        file_of_class[name] = path
        for number, line in enumerate(read_text(path, what="list of detections").split("\n"), start=1):
            if line.strip():
                image_id, values = _line(line, f"{path}: line {number}")
                image.append(images.row(image_id))
                labels.append(annotations.class_names.index(name))
                numbers.append(values)
                places.append((path, number))
    images.refuse_unknown(str(files[0].parent))
    scored = _finite(numbers, lambda row: "{}: line {}".format(*places[row]))
    scored[:, 1:3] -= 1
    absent = [name for name in annotations.class_names if name not in file_of_class]
    return _detections(image, scored, labels), absent


def class_of_file(path: Path, class_names: Sequence[str]) -> str:
    """comp4_det_test_dog.txt -> dog. ValueError if the name ends with no class."""
    matches = [name for name in class_names if path.stem == name or path.stem.endswith(f"_{name}")]
    if not matches:
        last = path.stem.rpartition("_")[2]
        hint = did_you_mean(last, class_names, listed=True)
        raise ValueError(f"{path}: its name ends with no class of the ground truth, as ..._CLASS.txt{hint}")
    return max(matches, key=len)


def _line(line: str, place: str) -> tuple[str, list[float]]:
    words = line.strip().rsplit(None, 5)  # the name of an image may hold spaces
    try:
        image_id, *numbers = words
        values = [float(number) for number in numbers]
    except ValueError:
        values = []
    if len(values) != 5:
        raise ValueError(f"{place}: is {reprlib.repr(line)}, must be {LINE_FORM}")
    return image_id, values


def _finite(numbers: list, place: Callable[[int], str]) -> np.ndarray:
    """(T, 5) float64: score and four numbers of a box. ValueError for one that is not finite."""
    try:
        scored = np.array(numbers, dtype=np.float64).reshape(-1, 5)
    except OverflowError:  # a whole number beyond float64
        scored = np.array([[_as_float(value) for value in row] for row in numbers])
    bad = np.flatnonzero(~np.isfinite(scored).all(1))
    if len(bad):
        listed = ", ".join(f"{value:g}" for value in scored[bad[0]])
        raise ValueError(f"{place(int(bad[0]))}: score and box are {listed}; all must be finite numbers")
    return scored


def _as_float(value: float) -> float:
    return float(value) if abs(value) < 1e300 else float("inf")


def _detections(image: list[int], scored: np.ndarray, labels: list[int]) -> Detections:
    return Detections(
        torch.tensor(image, dtype=torch.int64),
        torch.from_numpy(scored[:, 1:].copy()),
        torch.from_numpy(scored[:, 0].copy()),
        torch.tensor(labels, dtype=torch.int64),
    )
