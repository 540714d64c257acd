"""COCO's instances JSON -> Annotations. The one place that knows its coordinates: [x, y, width, height], 0-based, continuous."""

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
    did_you_mean,
    header_size,
    settled,
    shortened,
    to_offsets,
)
from detectors.data.problems import Problem

COCO_PARTS = ("categories", "images", "annotations")
NUMBERS = {int, float}  # what JSON's numbers are read as; bool is neither of them


@dataclass
class _Instances:
    """A file's content, and what of it can be used."""

    file: Path
    content: dict[str, list]
    problems: list[Problem] = field(default_factory=list)
    categories: dict[int, str] = field(default_factory=dict)  # id -> name, by rising id
    place: dict[str | int, int | None] = field(
        default_factory=dict
    )  # image id -> row; None: left out, and told
    image_ids: list[str | int] = field(default_factory=list)  # (N)
    paths: list[str] = field(default_factory=list)  # (N)
    sizes: list[tuple[int, int]] = field(default_factory=list)  # (N) (height, width)
    entry: list[int] = field(default_factory=list)  # (T) place in the file's annotations
    row: list[int] = field(default_factory=list)  # (T) the image
    label: list[int] = field(default_factory=list)  # (T)
    xywh: list[tuple[float, ...]] = field(default_factory=list)  # (T)

    def note(self, kind: str, what: str, image: str = "", box: tuple[float, ...] | None = None) -> None:
        self.problems.append(Problem(kind, str(self.file), what, image, box))

    def entries(self, part: str, keys: tuple[str, ...], kind: str) -> Iterator[tuple[int, dict]]:
        """The numbered entries of a list that have all the keys; the others are noted."""
        for number, entry in enumerate(self.content[part]):
            absent = [key for key in keys if key not in entry] if isinstance(entry, dict) else None
            if absent == []:
                yield number, entry
            else:
                what = (
                    f"lacks {', '.join(map(repr, absent))}"
                    if absent
                    else f"is {reprlib.repr(entry)}, not an object with {keys[0]!r}"
                )
                self.note(kind, f"{part}[{number}] {what}")


def read_coco(
    *,
    annotation_file: str | os.PathLike,
    image_folder: str | os.PathLike,
    class_names: list[str] | None = None,
    on_error: str = "stop",
) -> Annotations:
    """scan_coco, and then what `on_error` says: "stop" raises one ValueError that lists all findings, "skip" logs them."""
    return settled(
        scan_coco(annotation_file=annotation_file, image_folder=image_folder, class_names=class_names),
        on_error,
    )


def scan_coco(
    *,
    annotation_file: str | os.PathLike,
    image_folder: str | os.PathLike,
    class_names: list[str] | None = None,
) -> tuple[Annotations, list[Problem]]:
    """Read an instances file; and everything in it that had to be left out.

    Labels are 0..C-1 in the order of the category ids, which have gaps in COCO; `category_ids` keeps them. class_names selects and orders
    the classes instead: boxes of the others are left out, and a class that the file does not have (another split may) gets an id of its
    own. Images stay in the file's order, those without boxes too. Crowd boxes are kept and flagged. `areas` is the file's (of the
    segmentation), width * height where it has none.
    Raises FileNotFoundError and ValueError where the file as a whole, the folder or class_names is wrong.
    """
    with _without_collector():
        found = _Instances(Path(annotation_file), _load(Path(annotation_file)))
        _read_categories(found)
        category_ids, names = _classes(found, class_names)
        _read_images(found, Path(image_folder))
        _read_boxes(found, names)
        return _to_annotations(found, category_ids, names), found.problems


def coco_sources(*, annotation_file: str | os.PathLike, image_folder: str | os.PathLike) -> Iterator[Path]:
    """The file that scan_coco reads, and the folder whose contents it lists."""
    yield from (Path(annotation_file), Path(image_folder))


def _to_annotations(found: _Instances, category_ids: tuple[int, ...], names: tuple[str, ...]) -> Annotations:
    """The only place where COCO's boxes become xyxy. Boxes are put in the order of the images, and in the file's within an image."""
    xywh = np.array(found.xywh, dtype=np.float64).reshape(-1, 4)
    boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    labels, row = np.array(found.label, dtype=np.int64), np.array(found.row, dtype=np.int64)
    kinds = box_faults(boxes)
    for bad in np.flatnonzero(kinds != ""):
        entry, image = found.entry[bad], found.paths[row[bad]]
        truth = found.content["annotations"][entry]
        what = f"{_where(entry, truth)} of {Path(image).name}: {names[labels[bad]]} {reprlib.repr(truth['bbox'])}"
        found.note(str(kinds[bad]), what, image, as_box(boxes[bad]))
    keep = np.flatnonzero(kinds == "")
    keep = keep[np.argsort(row[keep], kind="stable")]
    truths = [found.content["annotations"][found.entry[place]] for place in keep.tolist()]
    return Annotations(
        class_names=names,
        image_ids=found.image_ids,
        paths=found.paths,
        sizes=np.array(found.sizes, dtype=np.int64).reshape(-1, 2),
        offsets=to_offsets(np.bincount(row[keep], minlength=len(found.paths))),
        boxes_original=boxes[keep],
        labels=labels[keep],
        difficult=np.zeros(len(keep), dtype=bool),
        crowd=np.array([truth.get("iscrowd") in (1, "1") for truth in truths], dtype=bool),
        areas=_areas(truths, xywh[keep]),
        category_ids=category_ids,
    )


def _areas(truths: list[dict], xywh: np.ndarray) -> np.ndarray:
    """(T,) the file's, where it is a number that an area can be."""
    given = [truth.get("area") for truth in truths]
    given = [area if type(area) in NUMBERS and 0 <= area < 1e18 else -1.0 for area in given]
    areas = np.array(given, dtype=np.float64)
    return np.where(areas >= 0, areas, xywh[:, 2] * xywh[:, 3])


def _load(file: Path) -> dict[str, list]:
    """The file's content, with the three lists that are needed."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such annotation file (data.annotation_file)")
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not valid JSON ({error})") from error
    for part in COCO_PARTS:
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise ValueError(
                f"{file}: no list of {part!r}; an instances file holds images, annotations and categories"
            )
    if not content["images"]:
        raise ValueError(f"{file}: lists no image")
    return content


def _read_categories(found: _Instances) -> None:
    """Ids are whole numbers in COCO's evaluation too."""
    for number, category in found.entries("categories", ("id", "name"), "broken-entry"):
        identity, name = category["id"], category["name"]
        if type(identity) is not int or abs(identity) >= 2**63 or not isinstance(name, str) or not name:
            what = (
                f"categories[{number}] has the id {reprlib.repr(identity)} and the name {reprlib.repr(name)}"
            )
            found.note("broken-entry", f"{what}, not a whole number and a text")
        elif identity in found.categories or name in found.categories.values():
            found.note(
                "broken-entry",
                f"categories[{number}] repeats the id or the name of another: {identity}, {name}",
            )
        else:
            found.categories[identity] = name
    found.categories = dict(sorted(found.categories.items()))


def _classes(found: _Instances, class_names: list[str] | None) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """(C) category ids and (C) names, in the order of the labels.

    ValueError for a name that the file does not have but nearly so, and if it has none of them: those are slips.
    """
    if class_names is None:
        return tuple(found.categories), tuple(found.categories.values())
    names = check_class_names(class_names)
    named = {name: identity for identity, name in found.categories.items()}
    absent, others = (
        [name for name in names if name not in named],
        [name for name in named if name not in names],
    )
    hints = {name: did_you_mean(name, others) for name in absent}
    wrong = absent if len(absent) == len(names) else [name for name in absent if hints[name]]
    if wrong:
        lines = shortened([f"{found.file}: no category {name!r}{hints[name]}" for name in wrong])
        raise ValueError(
            "\n".join([*lines, f"its categories: {', '.join(named)}", "correct data.class_names"])
        )
    free = max([0, *named.values()])
    own = {name: free + number for number, name in enumerate(absent, start=1)}
    return tuple((named | own)[name] for name in names), names


def _read_images(found: _Instances, folder: Path) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder (data.image_folder)")
    with os.scandir(folder) as entries:
        there = {entry.name for entry in entries}  # one listing instead of a look-up per image
    for number, image in found.entries("images", ("id", "file_name"), "broken-entry"):
        identity, name = image["id"], image["file_name"]
        if type(identity) not in (int, str) or not isinstance(name, str) or not name:
            what = (
                f"images[{number}] has the id {reprlib.repr(identity)} and the file_name {reprlib.repr(name)}"
            )
            found.note("broken-entry", f"{what}, not a number or text and a text")
            if type(identity) in (int, str):
                found.place.setdefault(identity, None)  # its boxes go with it
        elif identity in found.place:
            found.note(
                "broken-entry",
                f"images[{number}] {name} repeats the id of another: {identity}",
                os.path.join(folder, name),
            )
        else:
            found.place[identity] = _add_image(found, image, os.path.join(folder, name), known=name in there)


def _add_image(found: _Instances, image: dict, path: str, *, known: bool) -> int | None:
    """Its row; None for an image that is left out."""
    if not (known or os.path.isfile(path)):  # one in a folder below is not among the known ones
        found.problems.append(Problem("missing-image", path, f"listed in {found.file}", path))
        return None
    try:
        size = as_size(image.get("height"), image.get("width")) or header_size(path)
    except ValueError as error:
        found.problems.append(Problem("broken-image", path, str(error), path))
        return None
    found.image_ids.append(image["id"])
    found.paths.append(path)
    found.sizes.append(size)
    return len(found.paths) - 1


def _read_boxes(found: _Instances, names: tuple[str, ...]) -> None:
    """Annotations of images and classes that are there, with four numbers."""
    label = {
        identity: names.index(name) if name in names else None for identity, name in found.categories.items()
    }
    for number, truth in found.entries("annotations", ("image_id", "category_id", "bbox"), "broken-object"):
        image, category, box = truth["image_id"], truth["category_id"], truth["bbox"]
        try:
            row, mine = found.place[image], label[category]
        except (KeyError, TypeError):  # TypeError: a list or an object instead of an id
            _note_stranger(found, number, truth)
            continue
        if not isinstance(box, list) or len(box) != 4 or not NUMBERS.issuperset(map(type, box)):
            what = f"bbox is {reprlib.repr(box)}, not four numbers [x, y, width, height]"
            found.note(
                "broken-object", f"{_where(number, truth)}: {what}", "" if row is None else found.paths[row]
            )
        elif row is not None and mine is not None:
            found.entry.append(number)
            found.row.append(row)
            found.label.append(mine)
            found.xywh.append(
                tuple(value if abs(value) < 1e300 else math.inf for value in box)
            )  # whole numbers have no bounds in JSON


def _note_stranger(found: _Instances, number: int, truth: dict) -> None:
    image = truth["image_id"]
    if not isinstance(image, int | float | str) or image not in found.place:
        what = f"{_where(number, truth)}: image_id {reprlib.repr(image)} is listed nowhere in the file"
        found.note("broken-object", what)
    else:
        what = f"{_where(number, truth)}: category_id {reprlib.repr(truth['category_id'])} is listed nowhere in the file"
        row = found.place[image]
        found.note("unknown-class", what, "" if row is None else found.paths[row])


def _where(number: int, truth: dict) -> str:
    return f"annotation {truth['id']}" if type(truth.get("id")) is int else f"annotations[{number}]"


@contextmanager
def _without_collector() -> Iterator[None]:
    """Millions of new objects would make the collector of cycles walk through all of them again and again; there are no cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
