"""COCO's instances JSON -> Annotations.

Only this module knows COCO's coordinates: [x, y, width, height], 0-based, continuous.
"""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from detectors.annotations import Annotations
from detectors.data.checks import (
    NUMBERS,
    as_box,
    as_size,
    box_faults,
    selected_classes,
    settled,
    to_offsets,
)
from detectors.data.coco_file import (
    Instances,
    as_id,
    entry_name,
    garbage_collection_paused,
    load_instances,
)
from detectors.data.image_headers import header_size
from detectors.data.listed_files import ListedFolder, special_file
from detectors.data.problems import Problem


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
    `category_ids`. Categories with one name are one class, with the lowest of their ids.
    class_names: selects and orders the classes instead. Boxes of other classes are left out, unreported. A
    class that the file does not have (another split may) gets an unused category id.

    Images stay in the file's order, also those without boxes. Crowd boxes are kept and flagged. `areas` are
    the file's (of the segmentation), or width * height where it has none.
    Raises FileNotFoundError or ValueError if the whole file, the folder or class_names is wrong.
    """
    with garbage_collection_paused():
        instances = Instances(Path(annotation_file), load_instances(Path(annotation_file)))
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
    instances: Instances, category_ids: tuple[int, ...], names: tuple[str, ...]
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
        label = f"{entry_name(number, entry)} of {Path(image).name}"
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
    values: list[Any] = [entry.get("area") for entry in entries]
    valid = [type(area) in NUMBERS and 0 <= area < 1e18 for area in values]
    areas = np.array([area if ok else 0.0 for area, ok in zip(values, valid, strict=True)], dtype=np.float64)
    return np.where(valid, areas, xywh[:, 2] * xywh[:, 3])


def _read_categories(instances: Instances) -> None:
    """Category ids must be integers, as in COCO's evaluation. Several ids may have one name: one class."""
    for number, category in instances.entries("categories", ("id", "name"), "broken-entry"):
        identity = as_id(category["id"])
        name = category["name"]
        if type(identity) is not int or abs(identity) >= 2**63 or not isinstance(name, str) or not name:
            what = f"has the id {reprlib.repr(category['id'])} and the name {reprlib.repr(name)}"
            what += ", not an integer and a string"
            instances.report("broken-entry", f"categories[{number}] {what}")
        elif instances.categories.get(identity, name) != name:
            what = f"repeats the id of another: {identity}, {name}"
            instances.report("broken-entry", f"categories[{number}] {what}")
        else:
            instances.categories[identity] = name
    instances.categories = dict(sorted(instances.categories.items()))


def _classes(instances: Instances, class_names: list[str] | None) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """(C) category ids and (C) names, in the order of the labels.

    A name that the file lacks gets an unused category id. ValueError as in selected_classes.
    """
    id_of = {name: identity for identity, name in reversed(instances.categories.items())}  # the lowest id
    id_of = dict(sorted(id_of.items(), key=lambda item: item[1]))
    if class_names is None:
        return tuple(id_of.values()), tuple(id_of)
    names = selected_classes(class_names, id_of, source=instances.file, noun="category", plural="categories")
    absent = [name for name in names if name not in id_of]
    largest = max([0, *instances.categories])
    id_of |= {name: largest + number for number, name in enumerate(absent, start=1)}
    return tuple(id_of[name] for name in names), names


def _read_images(instances: Instances, folder: Path) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder (of the images of {instances.file})")
    listed = ListedFolder(folder, suffixes=True)
    for number, image in instances.entries("images", ("id", "file_name"), "broken-entry"):
        identity = as_id(image["id"])
        name = image["file_name"]
        if identity is None or not isinstance(name, str) or not name:
            what = f"has the id {reprlib.repr(image['id'])} and the file_name {reprlib.repr(name)}"
            what += ", not an integer or string and a string"
            instances.report("broken-entry", f"images[{number}] {what}")
            if identity is not None:
                instances.row_of.setdefault(identity, None)  # leaves out its boxes, too
        elif identity in instances.row_of:
            what = f"images[{number}] {name} repeats the id of another: {identity}"
            instances.report("broken-entry", what, "" if listed.leads_out(name) else listed.join(name))
        elif listed.leads_out(name):
            what = f"images[{number}]: the file_name {name!r} leads out of {folder}{listed.hint(name)}"
            instances.report("outside-folder", what)
            instances.row_of[identity] = None
        else:
            instances.row_of[identity] = _add_image(instances, image, identity, listed)


def _add_image(instances: Instances, image: dict, identity: int | str, listed: ListedFolder) -> int | None:
    """The row of the new image; None if it is left out."""
    name = image["file_name"]
    found = listed.find(name)
    if found is None:
        path = listed.join(name)
        what = f"listed in {instances.file}{listed.hint(name)}"
        instances.problems.append(Problem("missing-image", path, what, path))
        return None
    path, is_file = found
    if not is_file:
        instances.problems.append(special_file(path))
        return None
    try:
        size = as_size(image.get("height"), image.get("width")) or header_size(path)
    except ValueError as error:
        instances.problems.append(Problem("broken-image", path, str(error), path))
        return None
    instances.image_ids.append(identity)
    instances.paths.append(path)
    instances.sizes.append(size)
    return len(instances.paths) - 1


def _read_boxes(instances: Instances, names: tuple[str, ...]) -> None:
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
            if type(entry["image_id"]) is bool or type(entry["category_id"]) is bool:
                raise TypeError  # as a key, true is 1
        except (KeyError, TypeError):  # TypeError: a list or an object instead of an id
            _report_unknown_id(instances, number, entry)
            continue
        if not isinstance(box, list) or len(box) != 4 or not NUMBERS.issuperset(map(type, box)):
            what = f"bbox is {reprlib.repr(box)}, not four numbers [x, y, width, height]"
            what = f"{entry_name(number, entry)}: {what}"
            instances.report("broken-object", what, instances.image_of(entry))
        elif row is not None and label is not None:
            instances.entry.append(number)
            instances.row.append(row)
            instances.label.append(label)
            # JSON's integers are unbounded; float64 is not.
            instances.xywh.append(tuple(value if abs(value) < 1e300 else math.inf for value in box))


def _report_unknown_id(instances: Instances, number: int, entry: dict) -> None:
    name = entry_name(number, entry)
    image = entry["image_id"]
    if type(image) not in (int, float, str) or image not in instances.row_of:
        what = f"{name}: image_id {reprlib.repr(image)} is not in the file's images"
        instances.report("broken-object", what)
    else:
        what = f"{name}: category_id {reprlib.repr(entry['category_id'])} is not in the file's categories"
        instances.report("unknown-class", what, instances.image_of(entry))
