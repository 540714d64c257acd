"""The files of a data set in VOC's, COCO's and Darknet's format, written from Annotations.

Law: reading them gives the same images in the same order, the same classes, and boxes within 1e-9 px
(tests/commands/convert/test_datasets.py).
"""

from __future__ import annotations

import json
import os
import re
from abc import ABC, abstractmethod
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from detectors.annotations import Annotations
from detectors.data.checks import box_faults, written_number
from detectors.data.darknet_labels import LARGEST_FRACTION, darknet_line
from detectors.data.image_headers import IMAGE_SUFFIXES, header_size
from detectors.data.voc_xml import annotation_xml

UNLISTED = re.compile(r"^\s+|\s+$|[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")  # not in a line of a list


class DataSetWriter(ABC):
    """One format."""

    keeps: tuple[str, ...] = ()  # of difficult, crowd, areas
    one_folder = False  # the images of all splits are in one folder
    cannot_express = ""  # which boxes would be faulty in this format
    test_settings: tuple[str, ...] = ("data.test=[test]",)  # train.py's settings for a test split

    def can_express(self, annotations: Annotations) -> np.ndarray:
        """(T,) bool: the boxes that are read back as they are written."""
        return np.ones(len(annotations.labels), dtype=bool)

    @abstractmethod
    def image_folder(self, split: str) -> str:
        """Below the set's folder."""

    @abstractmethod
    def write_split(
        self, folder: Path, split: str, annotations: Annotations, names: Mapping[str, str]
    ) -> None:
        """names: image -> its file name in image_folder(split)."""

    def finish(self, folder: Path, splits: Mapping[str, Annotations]) -> None:
        """What all splits share."""
        return

    def settings(self, splits: Mapping[str, Annotations]) -> list[str]:
        """train.py's settings for the set, besides data and data.root."""
        settings = list(self.test_settings) if "test" in splits else []
        return settings if "val" in splits else [*settings, "data.val=[]"]


class VocWriter(DataSetWriter):
    """JPEGImages/, Annotations/ and ImageSets/Main/SPLIT.txt."""

    keeps = ("difficult",)
    one_folder = True
    cannot_express = "boxes at most one pixel wide or high (left out)"

    def can_express(self, annotations: Annotations) -> np.ndarray:
        as_written = annotations.boxes_original - [-1, -1, 0, 0]
        return box_faults(as_written) == ""  # xmin < xmax, ymin < ymax

    def image_folder(self, split: str) -> str:
        return "JPEGImages"

    def write_split(
        self, folder: Path, split: str, annotations: Annotations, names: Mapping[str, str]
    ) -> None:
        for part in ("Annotations", "ImageSets/Main"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        _require_lines(annotations.class_names)
        stems = []
        for index, path in enumerate(annotations.paths):
            stem, suffix = os.path.splitext(names[path])
            if suffix.lower() not in IMAGE_SUFFIXES:
                known = ", ".join(IMAGE_SUFFIXES)
                raise ValueError(f"{path}: VOC's format has images in {known}; save it as one of these")
            text = annotation_xml(annotations, index, names[path])
            place = folder / "Annotations" / f"{stem}.xml"
            if place.exists() and place.read_text(encoding="utf-8") != text:
                what = f"has other boxes in {split} than in an earlier split"
                raise ValueError(f"{path}: {what}; VOC's format has one XML for each image")
            place.write_text(text, encoding="utf-8")
            stems.append(stem)
        _write_lines(folder / "ImageSets" / "Main" / f"{split}.txt", stems)

    def settings(self, splits: Mapping[str, Annotations]) -> list[str]:
        """With the class names, if VOC's order, by name, is another, or if a class has no box."""
        settings = super().settings(splits)
        names = next(iter(splits.values())).class_names
        used = {label for annotations in splits.values() for label in annotations.labels.tolist()}
        if sorted(names[label] for label in used) == list(names):
            return settings
        quoted = ",".join(json.dumps(name, ensure_ascii=False) for name in names)
        return [*settings, f"data.class_names=[{quoted}]"]


class CocoWriter(DataSetWriter):
    """annotations/SPLIT.json, and the images in SPLIT/."""

    keeps = ("crowd", "areas")
    test_settings = ("data.test=[annotations/test.json]", "data.image_folders.test=test")

    def image_folder(self, split: str) -> str:
        return split

    def write_split(
        self, folder: Path, split: str, annotations: Annotations, names: Mapping[str, str]
    ) -> None:
        ids = annotations.image_ids
        ids = list(ids) if isinstance(ids, array) else list(range(1, len(annotations) + 1))
        categories = annotations.category_ids
        images = [
            {"id": identity, "file_name": names[path], "width": width, "height": height}
            for identity, path, (height, width) in zip(
                ids, annotations.paths, annotations.sizes.tolist(), strict=True
            )
        ]
        boxes = []
        for row, image in enumerate(annotations.image.tolist()):
            xmin, ymin, xmax, ymax = annotations.boxes_original[row].tolist()
            boxes.append(
                {
                    "id": row + 1,
                    "image_id": ids[image],
                    "category_id": categories[annotations.labels[row]],
                    "bbox": list(map(written_number, (xmin, ymin, xmax - xmin, ymax - ymin))),
                    "area": float(annotations.areas[row]),
                    "iscrowd": int(annotations.crowd[row]),
                }
            )
        classes = [
            {"id": identity, "name": name}
            for identity, name in zip(categories, annotations.class_names, strict=True)
        ]
        place = folder / "annotations" / f"{split}.json"
        place.parent.mkdir(exist_ok=True)
        place.write_text(json.dumps({"images": images, "annotations": boxes, "categories": classes}))


class DarknetWriter(DataSetWriter):
    """images/SPLIT/, labels/SPLIT/, SPLIT.txt; data.yaml, and darknet.data with darknet.names."""

    cannot_express = "boxes that reach out of their image by more than its size (left out)"

    def can_express(self, annotations: Annotations) -> np.ndarray:
        sizes = annotations.sizes[annotations.image][:, [1, 0]]
        low, high = annotations.boxes_original[:, :2] / sizes, annotations.boxes_original[:, 2:] / sizes
        fractions = np.concatenate([(low + high) / 2, high - low], axis=1)
        return (np.abs(fractions) <= LARGEST_FRACTION).all(1)

    def image_folder(self, split: str) -> str:
        return f"images/{split}"

    def write_split(
        self, folder: Path, split: str, annotations: Annotations, names: Mapping[str, str]
    ) -> None:
        labels = folder / "labels" / split
        labels.mkdir(parents=True)
        for index, path in enumerate(annotations.paths):
            size = _stored_size(path, annotations.sizes[index].tolist())
            rows = range(len(annotations.labels))[annotations.rows(index)]
            lines = [
                darknet_line(int(annotations.labels[row]), annotations.boxes_original[row], size)
                for row in rows
            ]
            _write_lines(labels / f"{os.path.splitext(names[path])[0]}.txt", lines)
        # Darknet takes such paths from the folder in which it runs, Ultralytics from the list's folder.
        _write_lines(
            folder / f"{split}.txt", [f"./images/{split}/{names[path]}" for path in annotations.paths]
        )

    def finish(self, folder: Path, splits: Mapping[str, Annotations]) -> None:
        names = next(iter(splits.values())).class_names
        _require_lines(names)
        lists = {split: f"{split}.txt" for split in splits}
        content = {**lists, "names": dict(enumerate(names))}
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10_000)
        (folder / "data.yaml").write_text(text, encoding="utf-8")
        _write_lines(folder / "darknet.names", names)
        keys = {"train": "train", "val": "valid", "test": "test"}
        lines = [f"classes = {len(names)}", *(f"{keys[split]} = {file}" for split, file in lists.items())]
        _write_lines(folder / "darknet.data", [*lines, "names = darknet.names", "backup = backup"])


FORMAT_WRITERS: dict[str, DataSetWriter] = {
    "voc": VocWriter(),
    "coco": CocoWriter(),
    "darknet": DarknetWriter(),
}


def image_names(paths: Sequence[str]) -> dict[str, str]:
    """Image -> a file name whose stem no other image has: its own, or with its folders before it."""
    paths = list(dict.fromkeys(paths))
    if not paths:
        return {}
    plain = {path: _listable(os.path.basename(path)) for path in paths}
    stems = [os.path.splitext(name)[0] for name in plain.values()]
    twice = {stem for stem, count in Counter(stems).items() if count > 1}
    common = os.path.commonpath([os.path.dirname(path) for path in paths])
    taken = set(stems) - twice
    names = {}
    for path in paths:
        stem, suffix = os.path.splitext(plain[path])
        if stem in twice:
            folders = os.path.relpath(os.path.dirname(path), common)
            stem = stem if folders == os.curdir else f"{_listable(folders.replace(os.sep, '_'))}_{stem}"
            number = 1
            longer = stem
            while longer in taken:
                number += 1
                longer = f"{stem}_{number}"
            stem = longer
            taken.add(stem)
        names[path] = stem + suffix
    return names


def _listable(name: str) -> str:
    """The name as a line of a list can hold it."""
    stem, suffix = os.path.splitext(name)
    return UNLISTED.sub("_", stem) + suffix


def _require_lines(names: Sequence[str]) -> None:
    """ValueError for a class name that is not read back as it is written."""
    for name in names:
        if name != " ".join(name.split()) or not name.isprintable():
            raise ValueError(
                f"the class name {name!r} cannot be written: it has line breaks, other control characters, "
                "or spaces at an end or several in a row; change it in the annotations"
            )


def _stored_size(path: str, annotated: Sequence[int]) -> tuple[int, int]:
    """(height, width) of the file, because Darknet's format has no other; else as annotated."""
    try:
        return header_size(path)
    except ValueError:
        return annotated[0], annotated[1]


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="")
