"""Darknet's labels, labels/NAME.txt for images/NAME.jpg -> Annotations. darknet_lists.py finds the files.

Only this module knows the format's coordinates: each line of a label file is `class cx cy w h`, the class as
an id from 0 and the centre and size of the box as fractions of the image's width and height.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from detectors.annotations import Annotations
from detectors.data.checks import (
    as_box,
    box_faults,
    check_class_names,
    parse_number,
    selected_classes,
    settled,
    to_offsets,
)
from detectors.data.darknet_lists import LabelledImages, find_labelled_images
from detectors.data.image_headers import header_size
from detectors.data.problems import Problem
from detectors.data.text_files import read_text

# A fraction of the image above this is a mistake. Boxes that reach out of the image are kept, as in VOC's and
# COCO's format.
LARGEST_FRACTION = 2.0
MOST_NAMELESS = 10_000  # classes that a set without class names may have
POLYGON_COLUMNS = 7  # fewest columns of a polygon: the class and three corners
ROUNDING_REACH = 0.01  # fraction of the image by which a box may reach out of it because of rounding
ENOUGH_CORNERS = 3  # boxes of a split that can tell corners from centres


@dataclass
class _LabelContent:
    """What the label files contain: one entry per usable image, and one per object with five numbers."""

    problems: list[Problem] = field(default_factory=list)
    images: list[str] = field(default_factory=list)  # (N)
    labels: list[str] = field(default_factory=list)  # (N) label files; "" if there is none
    sizes: list[tuple[int, int]] = field(default_factory=list)  # (N) (height, width)
    row: list[int] = field(default_factory=list)  # (T) the image
    line: list[int] = field(default_factory=list)  # (T) line of the label file, from 1
    identity: list[int] = field(default_factory=list)  # (T) class ids as written
    cxcywh: list[list[float]] = field(default_factory=list)  # (T) as written
    nodes: int | None = None  # of the tree of joint training; None: a label without a box is a fault
    image_labels: list[int] = field(default_factory=list)  # (N) see Annotations; with nodes alone


def read_darknet(
    *,
    root: str | os.PathLike,
    image_sets: list[str],
    file: str | os.PathLike | None = None,
    class_names: list[str] | None = None,
    on_error: str = "stop",
) -> Annotations:
    """scan_darknet; then on_error="stop" raises one ValueError that lists all problems; "skip" logs them."""
    scanned = scan_darknet(root=root, file=file, image_sets=image_sets, class_names=class_names)
    return settled(scanned, on_error)


def scan_darknet(
    *,
    root: str | os.PathLike,
    image_sets: list[str],
    file: str | os.PathLike | None = None,
    class_names: list[str] | None = None,
    nodes: int | None = None,
) -> tuple[Annotations, list[Problem]]:
    """Read one or several splits, joined in the given order. Also returns what was left out.

    root, file, image_sets: see find_labelled_images.
    class_names: selects and orders the classes of the set's own names; boxes of other classes are left out,
    unreported. If the set has no names, the names of the ids 0, 1, ... None: all classes of the set; without
    names, the ids are the names.

    An image without a label file, or with an empty one, has no objects. A line with more than five numbers is
    a polygon, `class x1 y1 x2 y2 ...`: its bounding box counts. With kpt_shape in the data.yaml they are
    keypoints, and the first five count. nodes: of the tree of joint training, where a line `NODE 0 0 0 0`
    means that only the label of the image is known: then it is a label in image_labels, and the image has no
    box, whatever else its file says. Boxes that reach out of the image are kept as they are;
    transforms.py clips them. Sizes come from the headers of the images.
    Raises FileNotFoundError or ValueError if a folder, a list, the description or class_names is wrong.
    """
    place = None if file is None else Path(file)
    found = find_labelled_images(root=Path(root), file=place, image_sets=image_sets)
    content = _LabelContent(problems=list(found.problems), nodes=nodes)
    for image, label in zip(found.images, found.labels, strict=True):
        _read_image(content, image, label, keypoints=found.keypoints)
    names = _all_names(content, found, class_names)
    selected = names
    if class_names is not None:
        selected = selected_classes(
            class_names, names, source=found.read[0] if found.read else root, noun="class", plural="classes"
        )
    return _to_annotations(content, found, names, selected), content.problems


def darknet_sources(
    *,
    root: str | os.PathLike,
    image_sets: list[str],
    file: str | os.PathLike | None = None,
    nodes: int | None = None,
) -> Iterator[Path]:
    """The files that scan_darknet reads, with any nodes. Images count, because they alone say their sizes."""
    place = None if file is None else Path(file)
    try:
        found = find_labelled_images(root=Path(root), file=place, image_sets=image_sets)
    except ValueError as error:
        raise OSError(str(error)) from error  # the scan raises it again, with its message
    yield from found.read
    yield from map(Path, found.images)
    yield from map(Path, filter(None, found.labels))


def darknet_line(identity: int, box_original: Sequence[float], size: tuple[int, int]) -> str:
    """A line of a label file. box_original: xyxy, pixels. size: (height, width).

    Law: reading it gives the box within 1e-9 px (tests/data/test_darknet_labels.py).
    """
    return " ".join([str(identity), *map(repr, darknet_fractions(box_original, size))])


def darknet_fractions(box_original: Sequence[float], size: tuple[int, int]) -> tuple[float, ...]:
    """xyxy in pixels -> cx, cy, w, h as fractions of the image. size: (height, width)."""
    height, width = size
    xmin, ymin, xmax, ymax = map(float, box_original)
    return (
        (xmin + xmax) / 2 / width,
        (ymin + ymax) / 2 / height,
        (xmax - xmin) / width,
        (ymax - ymin) / height,
    )


def _to_annotations(
    content: _LabelContent, found: LabelledImages, names: tuple[str, ...], selected: tuple[str, ...]
) -> Annotations:
    """The only place where Darknet's fractions become pixels. names: by id; selected: by label."""
    cxcywh = np.array(content.cxcywh, dtype=np.float64).reshape(-1, 4)
    row = np.array(content.row, dtype=np.int64)
    sizes = np.array(content.sizes, dtype=np.int64).reshape(-1, 2)
    with np.errstate(over="ignore", invalid="ignore"):  # infinite numbers
        centres, halves = cxcywh[:, :2], cxcywh[:, 2:] / 2
        corners = np.concatenate([centres - halves, centres + halves], axis=1)
        boxes = corners * sizes[row][:, [1, 0, 1, 0]]
    kinds, remarks = _box_problems(content, cxcywh, boxes, len(names))
    for bad in np.flatnonzero(kinds != ""):
        identity = content.identity[bad]
        known = 0 <= identity < len(names) and names[identity] != str(identity)
        name = names[identity] if known else f"class {identity}"
        numbers = ", ".join(f"{value:g}" for value in cxcywh[bad])
        what = f"line {content.line[bad]}: {name} [{numbers}]{remarks[bad]}"
        label = content.labels[row[bad]]
        content.problems.append(
            Problem(str(kinds[bad]), label, what, content.images[row[bad]], as_box(boxes[bad]))
        )
    label_of = np.array([selected.index(name) if name in selected else -1 for name in names], dtype=np.int64)
    good = np.flatnonzero(kinds == "")
    labels = label_of[np.array(content.identity, dtype=object)[good].astype(np.int64)]
    keep = good[labels >= 0]
    boxes = boxes[keep]
    return Annotations(
        class_names=selected,
        image_ids=_image_ids_of(content.images),
        paths=content.images,
        sizes=sizes,
        offsets=to_offsets(np.bincount(row[keep], minlength=len(content.images))),
        boxes_original=boxes,
        labels=labels[labels >= 0],
        difficult=np.zeros(len(keep), dtype=bool),
        crowd=np.zeros(len(keep), dtype=bool),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(1),
        category_ids=tuple(range(1, len(selected) + 1)),
        image_labels=None if content.nodes is None else np.array(content.image_labels, np.int64),
    )


def _image_ids_of(images: list[str]) -> list[str]:
    """The stems; the paths below the folder that all share if two stems are the same."""
    stems = [os.path.splitext(os.path.basename(image))[0] for image in images]
    if len(set(stems)) == len(stems):
        return stems
    shared = os.path.commonpath([os.path.dirname(image) for image in images])
    return [os.path.relpath(image, shared) for image in images]


def _box_problems(
    content: _LabelContent, cxcywh: np.ndarray, boxes: np.ndarray, classes: int
) -> tuple[np.ndarray, list[str]]:
    """(T,) the kind of problem of each object, "" for a good one; and (T) remarks for the message.

    Mistakes that most objects of a split share are named: pixels, corners, ids that start at 1.
    """
    identity = np.array(content.identity, dtype=object)
    unknown = np.array([not 0 <= number < classes for number in identity], dtype=bool)
    kinds = box_faults(boxes)
    with np.errstate(invalid="ignore"):
        pixels = (np.abs(cxcywh) > LARGEST_FRACTION).any(1) & np.isfinite(cxcywh).all(1)
    kinds = np.where(pixels, "broken-object", kinds)
    kinds = np.where((kinds == "") & unknown, "unknown-class", kinds)
    share = f"{np.count_nonzero(pixels)} of {len(pixels)} objects"
    scale = "; the numbers are fractions of the image's width and height"
    if pixels.sum() * 2 > len(pixels):
        scale = f"; {share} are like this: pixels must be divided by the image's width and height"
    if are_corners(cxcywh):
        kinds = np.full(len(kinds), "broken-object")
        corners = "; all boxes look like corners, xmin ymin xmax ymax, where cx cy w h is expected"
        return kinds, [f"{corners}{scale if pixels.any() else ''}"] * len(kinds)
    ids = f": ids are 0 to {classes - 1}"
    if classes in identity and min(identity) >= 1:
        ids = f": ids start at 0, not at 1; they are 0 to {classes - 1}"
    remarks = np.where(pixels, scale, np.where(kinds == "unknown-class", ids, ""))
    return kinds, remarks.tolist()


def are_corners(cxcywh: np.ndarray) -> bool:
    """Whether (T, 4) numbers are xmin ymin xmax ymax.

    Then all third and fourth numbers are larger than the first two, and taken for cx cy w h most boxes would
    reach out of the image.
    """
    usable = cxcywh[np.isfinite(cxcywh).all(1)]
    if len(usable) < ENOUGH_CORNERS:
        return False
    larger = (usable[:, 2:] > usable[:, :2]).all()
    low, high = usable[:, :2] - usable[:, 2:] / 2, usable[:, :2] + usable[:, 2:] / 2
    beyond = (low < -ROUNDING_REACH).any(1) | (high > 1 + ROUNDING_REACH).any(1)
    return bool(larger and beyond.mean() > 0.5)


def _all_names(
    content: _LabelContent, found: LabelledImages, class_names: list[str] | None
) -> tuple[str, ...]:
    """The names of the ids 0..C-1."""
    if found.names is not None:
        return found.names
    if class_names is not None:
        return check_class_names(class_names)
    highest = max((number for number in content.identity if number < MOST_NAMELESS), default=-1)
    return tuple(map(str, range(highest + 1)))


def _read_image(content: _LabelContent, image: str, label: str, *, keypoints: bool) -> None:
    try:
        size = header_size(image)
    except ValueError as error:
        content.problems.append(Problem("broken-image", image, str(error), image))
        return
    try:
        rows = label_rows(label) if label else []
    except ValueError as error:
        content.problems.append(Problem("broken-annotation", label, str(error), image))
        return
    objects = []
    for number, words in rows:
        try:
            objects.append((number, *_object(words, keypoints=keypoints)))
        except ValueError as error:
            content.problems.append(Problem("broken-object", label, f"line {number}: {error}", image))
    nodes = content.nodes
    alone = next((entry for entry in objects if not any(entry[2])), None) if nodes else None
    if nodes and alone is not None and not 0 <= alone[1] < nodes:
        what = f"line {alone[0]}: the label {alone[1]} is no node of data.tree, 0 to {nodes - 1}"
        content.problems.append(Problem("unknown-class", label, what, image))
        return
    content.image_labels.append(-1 if alone is None else alone[1])
    for number, identity, cxcywh in objects if alone is None else ():
        content.row.append(len(content.images))
        content.line.append(number)
        content.identity.append(identity)
        content.cxcywh.append(cxcywh)
    content.images.append(image)
    content.labels.append(label)
    content.sizes.append(size)


def label_rows(label: str) -> list[tuple[int, list[str]]]:
    """The number of each line, from 1, and its columns. Empty lines and what follows a # are left out.

    ValueError, without the file's name, if it is not a text file.
    """
    try:
        text = read_text(Path(label), what="label file")
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(str(error).removeprefix(f"{label}: ")) from error
    lines = enumerate(text.split("\n"), start=1)
    return [(number, words) for number, line in lines if (words := line.partition("#")[0].split())]


def _object(words: list[str], *, keypoints: bool) -> tuple[int, list[float]]:
    """The class id and cx, cy, w, h of a line. ValueError says what is wrong with it."""
    count = len(words)
    line = " ".join(words)
    shown = repr(line if len(line) <= 60 else f"{line[:60]}...")
    if "," in line:
        raise ValueError(
            f"{shown} has commas; separate the numbers by spaces, and write fractions with a point"
        )
    if count < 5:
        raise ValueError(f"{shown} has {count} columns, not the five of class cx cy w h")
    identity = _class_id(words[0])
    numbers = [_fraction(word) for word in words[1:]]
    if count == 5 or keypoints:
        return identity, numbers[:4]
    if count == 6:
        raise ValueError(f"{shown} has a sixth column; a confidence belongs to detections, remove it")
    if count % 2 == 0:
        raise ValueError(
            f"{shown} has {count} columns: neither class cx cy w h nor a polygon, class x1 y1 x2 y2 ..."
        )
    return identity, _bounding_box(numbers)


def _bounding_box(polygon: list[float]) -> list[float]:
    """x1, y1, x2, y2, ... -> cx, cy, w, h."""
    xmin, xmax = min(polygon[::2]), max(polygon[::2])
    ymin, ymax = min(polygon[1::2]), max(polygon[1::2])
    return [(xmin + xmax) / 2, (ymin + ymax) / 2, xmax - xmin, ymax - ymin]


def _class_id(word: str) -> int:
    try:
        value = parse_number(word)
        if value == int(value):  # some programs write 1.0
            return int(value)
    except (ValueError, OverflowError):
        pass
    raise ValueError(
        f"the class is {word[:40]!r}, not an id: 0 for the first class name, 1 for the second, ..."
    )


def _fraction(word: str) -> float:
    try:
        return parse_number(word)
    except ValueError:
        raise ValueError(f"{word[:40]!r} is not a number") from None
