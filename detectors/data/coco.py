"""COCO's instances JSON -> Annotations.

Only this module knows COCO's coordinates: [x, y, width, height], 0-based, continuous.
"""

from __future__ import annotations

import gc
import json
import math
import os
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from detectors.annotations import Annotations
from detectors.data.checks import (
    as_box,
    as_size,
    box_faults,
    check_class_names,
    header_size,
    settled,
    to_offsets,
)
from detectors.data.problems import Problem, shortened
from detectors.data.suggestions import did_you_mean

COCO_PARTS = ("categories", "images", "annotations")
NUMBERS = {int, float}  # the types of JSON's numbers; bool is neither of them


@dataclass
class _Instances:
    """A file's content, and the part of it that can be used."""

    file: Path
    content: dict[str, list]
    problems: list[Problem] = field(default_factory=list)
    categories: dict[int, str] = field(default_factory=dict)  # id -> name, sorted by id
    # Image id -> row; None: the image was left out and reported.
    row_of: dict[str | int, int | None] = field(default_factory=dict)
    image_ids: list[str | int] = field(default_factory=list)  # (N)
    paths: list[str] = field(default_factory=list)  # (N)
    sizes: list[tuple[int, int]] = field(default_factory=list)  # (N) (height, width)
    entry: list[int] = field(default_factory=list)  # (T) index into the file's annotations
    row: list[int] = field(default_factory=list)  # (T) the image
    label: list[int] = field(default_factory=list)  # (T)
    xywh: list[tuple[float, ...]] = field(default_factory=list)  # (T)

    def report(self, kind: str, what: str, image: str = "", box: tuple[float, ...] | None = None) -> None:
        self.problems.append(Problem(kind, str(self.file), what, image, box))

    def entries(self, part: str, keys: tuple[str, ...], kind: str) -> Iterator[tuple[int, dict]]:
        """The entries of a list that have all `keys`, with their indices. The others are reported."""
        for number, entry in enumerate(self.content[part]):
            if not isinstance(entry, dict):
                what = f"is {reprlib.repr(entry)}, not an object with {keys[0]!r}"
                self.report(kind, f"{part}[{number}] {what}")
                continue
            absent = [key for key in keys if key not in entry]
            if absent:
                self.report(kind, f"{part}[{number}] lacks {', '.join(map(repr, absent))}")
            else:
                yield number, entry

    def image_of(self, entry: dict) -> str:
        """The path of the image that an annotation belongs to; "" if the image was left out."""
        row = self.row_of[entry["image_id"]]
        return "" if row is None else self.paths[row]


def read_coco(
    *,
    annotation_file: str | os.PathLike,
    image_folder: str | os.PathLike,
    class_names: list[str] | None = None,
    on_error: str = "stop",
) -> Annotations:
    """scan_coco; then on_error="stop" raises one ValueError that lists all problems, and "skip" logs them."""
    scanned = scan_coco(annotation_file=annotation_file, image_folder=image_folder, class_names=class_names)
    return settled(scanned, on_error)


def scan_coco(
    *,
    annotation_file: str | os.PathLike,
    image_folder: str | os.PathLike,
    class_names: list[str] | None = None,
) -> tuple[Annotations, list[Problem]]:
    """Read an instances file. Also returns what was left out.

    Labels are 0..C-1 in the order of the category ids, which have gaps in COCO and are kept in
    `category_ids`.
    class_names: selects and orders the classes instead. Boxes of other classes are left out, unreported. A
    class that the file does not have (another split may) gets an unused category id.

    Images stay in the file's order, also those without boxes. Crowd boxes are kept and flagged. `areas` are
    the file's (of the segmentation), or width * height where it has none.
    Raises FileNotFoundError or ValueError if the whole file, the folder or class_names is wrong.
    """
    with _garbage_collection_paused():
        instances = _Instances(Path(annotation_file), _load(Path(annotation_file)))
        _read_categories(instances)
        category_ids, names = _classes(instances, class_names)
        _read_images(instances, Path(image_folder))
        _read_boxes(instances, names)
        return _to_annotations(instances, category_ids, names), instances.problems


def coco_sources(*, annotation_file: str | os.PathLike, image_folder: str | os.PathLike) -> Iterator[Path]:
    """The file that scan_coco reads, and the folder that it lists."""
    yield Path(annotation_file)
    yield Path(image_folder)


def _to_annotations(
    instances: _Instances, category_ids: tuple[int, ...], names: tuple[str, ...]
) -> Annotations:
    """The only place where COCO's boxes become xyxy.

    Boxes are sorted by image; within an image they stay in the file's order.
    """
    xywh = np.array(instances.xywh, dtype=np.float64).reshape(-1, 4)
    boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    labels = np.array(instances.label, dtype=np.int64)
    row = np.array(instances.row, dtype=np.int64)
    kinds = box_faults(boxes)
    for bad in np.flatnonzero(kinds != ""):
        image = instances.paths[row[bad]]
        number = instances.entry[bad]
        entry = instances.content["annotations"][number]
        label = f"{_entry_name(number, entry)} of {Path(image).name}"
        what = f"{label}: {names[labels[bad]]} {reprlib.repr(entry['bbox'])}"
        instances.report(str(kinds[bad]), what, image, as_box(boxes[bad]))
    keep = np.flatnonzero(kinds == "")
    keep = keep[np.argsort(row[keep], kind="stable")]
    entries = [instances.content["annotations"][instances.entry[index]] for index in keep.tolist()]
    return Annotations(
        class_names=names,
        image_ids=instances.image_ids,
        paths=instances.paths,
        sizes=np.array(instances.sizes, dtype=np.int64).reshape(-1, 2),
        offsets=to_offsets(np.bincount(row[keep], minlength=len(instances.paths))),
        boxes_original=boxes[keep],
        labels=labels[keep],
        difficult=np.zeros(len(keep), dtype=bool),
        crowd=np.array([entry.get("iscrowd") in (1, "1") for entry in entries], dtype=bool),
        areas=_areas(entries, xywh[keep]),
        category_ids=category_ids,
    )


def _areas(entries: list[dict], xywh: np.ndarray) -> np.ndarray:
    """(T,) the file's areas; width * height where an area is missing or invalid."""
    values = [entry.get("area") for entry in entries]
    valid = [type(area) in NUMBERS and 0 <= area < 1e18 for area in values]
    areas = np.array([area if ok else 0.0 for area, ok in zip(values, valid, strict=True)], dtype=np.float64)
    return np.where(valid, areas, xywh[:, 2] * xywh[:, 3])


def _load(file: Path) -> dict[str, list]:
    """The file's content, which has the three lists."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such annotation file (data.annotation_file)")
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not valid JSON ({error})") from error
    for part in COCO_PARTS:
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise ValueError(
                f"{file}: no list of {part!r}; an instances file contains images, annotations and categories"
            )
    if not content["images"]:
        raise ValueError(f"{file}: lists no image")
    return content


def _read_categories(instances: _Instances) -> None:
    """Category ids must be integers, as in COCO's evaluation."""
    for number, category in instances.entries("categories", ("id", "name"), "broken-entry"):
        identity = category["id"]
        name = category["name"]
        if type(identity) is not int or abs(identity) >= 2**63 or not isinstance(name, str) or not name:
            what = f"has the id {reprlib.repr(identity)} and the name {reprlib.repr(name)}"
            what += ", not an integer and a string"
            instances.report("broken-entry", f"categories[{number}] {what}")
        elif identity in instances.categories or name in instances.categories.values():
            what = f"repeats the id or the name of another: {identity}, {name}"
            instances.report("broken-entry", f"categories[{number}] {what}")
        else:
            instances.categories[identity] = name
    instances.categories = dict(sorted(instances.categories.items()))


def _classes(instances: _Instances, class_names: list[str] | None) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """(C) category ids and (C) names, in the order of the labels.

    ValueError for a name that the file has under a similar spelling, or if the file has none of the names:
    both are most likely mistakes. Any other absent name gets a category id that the file does not use.
    """
    if class_names is None:
        return tuple(instances.categories), tuple(instances.categories.values())
    names = check_class_names(class_names)
    id_of = {name: identity for identity, name in instances.categories.items()}
    absent = [name for name in names if name not in id_of]
    others = [name for name in id_of if name not in names]
    hints = {name: did_you_mean(name, others, quoted=True) for name in absent}
    wrong = absent if len(absent) == len(names) else [name for name in absent if hints[name]]
    if wrong:
        lines = shortened([f"{instances.file}: no category {name!r}{hints[name]}" for name in wrong])
        lines += [f"its categories: {', '.join(id_of)}", "correct data.class_names"]
        raise ValueError("\n".join(lines))
    largest = max([0, *id_of.values()])
    id_of |= {name: largest + number for number, name in enumerate(absent, start=1)}
    return tuple(id_of[name] for name in names), names


def _read_images(instances: _Instances, folder: Path) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder (data.image_folder)")
    with os.scandir(folder) as entries:
        file_names = {entry.name for entry in entries}  # one listing instead of a lookup per image
    for number, image in instances.entries("images", ("id", "file_name"), "broken-entry"):
        identity = image["id"]
        name = image["file_name"]
        if type(identity) not in (int, str) or not isinstance(name, str) or not name:
            what = f"has the id {reprlib.repr(identity)} and the file_name {reprlib.repr(name)}"
            what += ", not an integer or string and a string"
            instances.report("broken-entry", f"images[{number}] {what}")
            if type(identity) in (int, str):
                instances.row_of.setdefault(identity, None)  # leaves out its boxes, too
            continue
        path = os.path.join(folder, name)
        if identity in instances.row_of:
            what = f"images[{number}] {name} repeats the id of another: {identity}"
            instances.report("broken-entry", what, path)
        else:
            known = name in file_names
            instances.row_of[identity] = _add_image(instances, image, path, known=known)


def _add_image(instances: _Instances, image: dict, path: str, *, known: bool) -> int | None:
    """The row of the new image; None if it is left out. known: the file is directly in the image folder."""
    if not (known or os.path.isfile(path)):  # file_name may lead to a subfolder
        instances.problems.append(Problem("missing-image", path, f"listed in {instances.file}", path))
        return None
    try:
        size = as_size(image.get("height"), image.get("width")) or header_size(path)
    except ValueError as error:
        instances.problems.append(Problem("broken-image", path, str(error), path))
        return None
    instances.image_ids.append(image["id"])
    instances.paths.append(path)
    instances.sizes.append(size)
    return len(instances.paths) - 1


def _read_boxes(instances: _Instances, names: tuple[str, ...]) -> None:
    """Collect the boxes of four numbers whose image and class are used."""
    labels = {
        identity: names.index(name) if name in names else None
        for identity, name in instances.categories.items()
    }
    keys = ("image_id", "category_id", "bbox")
    for number, entry in instances.entries("annotations", keys, "broken-object"):
        box = entry["bbox"]
        try:
            row = instances.row_of[entry["image_id"]]
            label = labels[entry["category_id"]]
        except (KeyError, TypeError):  # TypeError: a list or an object instead of an id
            _report_unknown_id(instances, number, entry)
            continue
        if not isinstance(box, list) or len(box) != 4 or not NUMBERS.issuperset(map(type, box)):
            what = f"bbox is {reprlib.repr(box)}, not four numbers [x, y, width, height]"
            what = f"{_entry_name(number, entry)}: {what}"
            instances.report("broken-object", what, instances.image_of(entry))
        elif row is not None and label is not None:
            instances.entry.append(number)
            instances.row.append(row)
            instances.label.append(label)
            # JSON's integers are unbounded; float64 is not.
            instances.xywh.append(tuple(value if abs(value) < 1e300 else math.inf for value in box))


def _report_unknown_id(instances: _Instances, number: int, entry: dict) -> None:
    name = _entry_name(number, entry)
    image = entry["image_id"]
    if not isinstance(image, int | float | str) or image not in instances.row_of:
        what = f"{name}: image_id {reprlib.repr(image)} is not in the file's images"
        instances.report("broken-object", what)
    else:
        what = f"{name}: category_id {reprlib.repr(entry['category_id'])} is not in the file's categories"
        instances.report("unknown-class", what, instances.image_of(entry))


def _entry_name(number: int, entry: dict) -> str:
    return f"annotation {entry['id']}" if type(entry.get("id")) is int else f"annotations[{number}]"


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Parsing creates millions of objects without cycles, and the collector would scan them over and over."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
