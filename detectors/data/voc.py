"""PASCAL VOC: JPEGImages/, Annotations/*.xml and ImageSets/Main/*.txt -> Annotations.

Only this module knows VOC's coordinates: 1-based, and the last pixel belongs to the box.
[xmin - 1, ymin - 1, xmax, ymax] has continuous edges, and its plain IoU equals the devkit's IoU with "+1".
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
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
from detectors.data.problems import Problem
from detectors.data.suggestions import did_you_mean

CORNERS = ("xmin", "ymin", "xmax", "ymax")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")  # the first one present wins; upper case counts, too
LAYOUT = (
    "a VOC folder contains JPEGImages/NAME.jpg, Annotations/NAME.xml and ImageSets/Main/SPLIT.txt "
    "with one NAME per line"
)


@dataclass
class _VocContent:
    """What the files contain: one entry per usable image, and one per object with a name and four numbers."""

    problems: list[Problem] = field(default_factory=list)
    stems: list[str] = field(default_factory=list)  # (N)
    folders: list[Path] = field(default_factory=list)  # (N) the year's folder
    images: list[str] = field(default_factory=list)  # (N)
    sizes: list[tuple[int, int]] = field(default_factory=list)  # (N) (height, width)
    row: list[int] = field(default_factory=list)  # (T) the image
    number: list[int] = field(default_factory=list)  # (T) position in the XML, from 1
    names: list[str] = field(default_factory=list)  # (T) class names
    corners: list[list[float]] = field(default_factory=list)  # (T) as written
    difficult: list[bool] = field(default_factory=list)  # (T)


def read_voc(
    *,
    root: str | os.PathLike,
    image_sets: list[str],
    class_names: list[str] | None = None,
    on_error: str = "stop",
) -> Annotations:
    """scan_voc; then on_error="stop" raises one ValueError that lists all problems, and "skip" logs them."""
    return settled(scan_voc(root=root, image_sets=image_sets, class_names=class_names), on_error)


def scan_voc(
    *, root: str | os.PathLike, image_sets: list[str], class_names: list[str] | None = None
) -> tuple[Annotations, list[Problem]]:
    """Read one or several image sets, joined in the given order. Also returns what was left out.

    root: a year's folder, with image_sets such as ["train"]; or a devkit with several years, with image_sets
    such as ["VOC2007/trainval", "VOC2012/trainval"].
    class_names: the label of a class is its index in this list. None: all names that occur, sorted.

    An image is found by its name in the split list, because <filename> is wrong in many data sets. Images
    without objects are kept, also if all of their objects were left out. Boxes that reach out of the image
    are kept as they are; transforms.py clips them. A box with xmax <= xmin or ymax <= ymin in the XML has no
    area: taken literally, xmax = xmin is one pixel wide, but in practice it is a mistake.
    Raises FileNotFoundError or ValueError if a folder or a split list is wrong.
    """
    known_names = None if class_names is None else check_class_names(class_names)
    if not image_sets:
        raise ValueError("data.image_sets is empty: name at least one split list, such as train")
    content = _VocContent()
    for image_set in image_sets:
        _read_image_set(content, Path(root), image_set)
    _check_unique(content.images, image_sets)
    return _to_annotations(content, known_names), content.problems


def voc_sources(*, root: str | os.PathLike, image_sets: list[str]) -> Iterator[os.PathLike]:
    """The files that scan_voc reads and the folders that it lists. OSError if one does not exist."""
    for image_set in image_sets:
        year, _, name = image_set.rpartition("/")
        folder = Path(root) / year
        yield folder / "JPEGImages"
        yield folder / "ImageSets" / "Main" / f"{name}.txt"
        with os.scandir(folder / "Annotations") as entries:
            yield from entries


def _to_annotations(content: _VocContent, known_names: tuple[str, ...] | None) -> Annotations:
    """The only place where VOC's coordinates become continuous."""
    corners = np.array(content.corners, dtype=np.float64).reshape(-1, 4)
    kinds = box_faults(corners)
    if known_names is not None:
        unknown = np.array([name not in known_names for name in content.names], dtype=bool)
        kinds = np.where((kinds == "") & unknown, "unknown-class", kinds)
    _report_boxes(content, corners, kinds, known_names)
    keep = np.flatnonzero(kinds == "")
    names = [content.names[row] for row in keep.tolist()]
    class_names = tuple(sorted(set(names))) if known_names is None else known_names
    label = {name: index for index, name in enumerate(class_names)}
    boxes = corners[keep] - [1, 1, 0, 0]
    counts = np.bincount(np.array(content.row, dtype=np.int64)[keep], minlength=len(content.images))
    return Annotations(
        class_names=class_names,
        image_ids=_image_ids(content),
        paths=content.images,
        sizes=np.array(content.sizes, dtype=np.int64).reshape(-1, 2),
        offsets=to_offsets(counts),
        boxes_original=boxes,
        labels=np.array([label[name] for name in names], dtype=np.int64),
        difficult=np.array(content.difficult, dtype=bool)[keep],
        crowd=np.zeros(len(keep), dtype=bool),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(1),
        category_ids=tuple(range(1, len(class_names) + 1)),
    )


def _image_ids(content: _VocContent) -> list[str]:
    """The stems; with the year in front if two years use the same stem."""
    if len(set(content.stems)) == len(content.stems):
        return content.stems
    return [f"{folder.name}/{stem}" for folder, stem in zip(content.folders, content.stems, strict=True)]


def _report_boxes(
    content: _VocContent, corners: np.ndarray, kinds: np.ndarray, known_names: tuple[str, ...] | None
) -> None:
    """Add a problem for each box that is left out. corners: (T, 4), kinds: (T,) "" for a good box."""

    @cache  # one search per misspelt name, not per object
    def hint(name: str) -> str:
        return did_you_mean(name, known_names, quoted=True)

    for index in np.flatnonzero(kinds != ""):
        name = content.names[index]
        image = content.row[index]
        numbers = ", ".join(f"{value:g}" for value in corners[index])
        what = f"object {content.number[index]} {name} [{numbers}]"
        if kinds[index] == "unknown-class":
            what += hint(name)
        box = as_box(corners[index] - [1, 1, 0, 0])
        xml = _xml_path(content.folders[image], content.stems[image])
        content.problems.append(Problem(str(kinds[index]), str(xml), what, content.images[image], box))


def _read_image_set(content: _VocContent, root: Path, image_set: str) -> None:
    folder, name = _locate(root, image_set)
    split = folder / "ImageSets" / "Main" / f"{name}.txt"
    stems = _stems(split, image_set)
    images = _images(folder)
    for stem in stems:
        if stem not in images:
            path = f"{folder / 'JPEGImages' / stem}{IMAGE_SUFFIXES[0]}"
            content.problems.append(Problem("missing-image", path, f"listed in {split}", path))
            continue
        annotation = _parse(content, _xml_path(folder, stem), images[stem], split)
        if annotation is not None:
            _read_xml(content, annotation, folder, stem, images[stem])


def _stems(split: Path, image_set: str) -> list[str]:
    """The names in a split list."""
    if not split.is_file():
        available = sorted(path.stem for path in split.parent.glob("*.txt"))
        raise FileNotFoundError(
            f"{split}: no such split list{did_you_mean(split.stem, available, quoted=True)} "
            f"(data.image_sets={image_set}; there are: {', '.join(available) or 'none'})"
        )
    try:
        lines = split.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{split}: the split list is not UTF-8 text ({error.reason} at byte {error.start})"
        ) from error
    stems = [line.strip() for line in lines if line.strip()]
    if not stems:
        raise ValueError(f"{split}: the split list is empty")
    return stems


def _locate(root: Path, image_set: str) -> tuple[Path, str]:
    """The folder and the name: (root / "VOC2007", "trainval") for "VOC2007/trainval"."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder (data.root)")
    year, _, name = image_set.rpartition("/")
    folder = root / year
    parts = ("JPEGImages", "Annotations", "ImageSets/Main")
    absent = [part for part in parts if not (folder / part).is_dir()]
    if absent:
        years = sorted(path.parent.name for path in root.glob("*/ImageSets"))
        if years:
            hint = f"it is a devkit with {', '.join(years)}: write data.image_sets=[{years[0]}/{name}]"
        else:
            hint = _layout_hint(folder)
        where = f"(data.root={root}, data.image_sets={image_set})"
        raise FileNotFoundError(f"{folder}: not a VOC folder, it lacks {', '.join(absent)} {where}; {hint}")
    return folder, name


def _layout_hint(folder: Path) -> str:
    """How to rearrange a folder with another layout."""
    suffixes = [path.suffix.lower() for path in folder.iterdir()] if folder.is_dir() else []
    xml_files = suffixes.count(".xml")
    images = sum(suffixes.count(suffix) for suffix in IMAGE_SUFFIXES)
    hints = [LAYOUT]
    if xml_files:
        hints.append(f"move the {xml_files} XML files directly in {folder} into Annotations/")
    if images:
        hints.append(f"move the {images} images directly in {folder} into JPEGImages/")
    return "; ".join(hints)


def _images(folder: Path) -> dict[str, str]:
    """Stem -> image file. One listing is faster than a lookup per image, and also finds .JPG and .png."""
    rank = {suffix: number for number, suffix in enumerate(IMAGE_SUFFIXES)}
    candidates = []
    with os.scandir(folder / "JPEGImages") as entries:
        for entry in entries:
            stem, suffix = os.path.splitext(entry.name)
            if suffix.lower() in rank:
                candidates.append((-rank[suffix.lower()], entry.path, stem))
    # Of several files with one stem, the last one stays: sorting puts the preferred suffix last.
    return {stem: path for _, path, stem in sorted(candidates)}


def _xml_path(folder: Path, stem: str) -> Path:
    return folder / "Annotations" / f"{stem}.xml"


def _parse(content: _VocContent, path: Path, image: str, split: Path) -> ElementTree.Element | None:
    """The root element; None, with a problem added, if there is none.

    A root other than <annotation> is accepted only if it has an <object>: otherwise any XML file would pass
    for an image without objects.
    """
    try:
        root = ElementTree.fromstring(path.read_bytes())
        if root.tag == "annotation" or root.find("object") is not None:
            return root
        what = f"its root is <{root.tag[:40]}>, not <annotation>, and it has no <object>"
        problem = Problem("broken-annotation", str(path), what, image)
    except FileNotFoundError:
        problem = Problem("missing-annotation", str(path), f"{split} lists {path.stem}", image)
    except OSError as error:
        problem = Problem("broken-annotation", str(path), f"cannot be read ({error.strerror})", image)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        # ValueError and LookupError: encodings that expat does not know.
        problem = Problem("broken-annotation", str(path), f"not well-formed XML ({error})", image)
    content.problems.append(problem)
    return None


def _read_xml(content: _VocContent, root: ElementTree.Element, folder: Path, stem: str, image: str) -> None:
    try:
        size = _size(root) or header_size(image)
    except ValueError as error:
        content.problems.append(Problem("broken-image", image, str(error), image))
        return
    for number, element in enumerate(root.findall("object"), start=1):
        name = " ".join((element.findtext("name") or "").split())
        try:
            corners = _corners(element, name)
        except ValueError as error:
            label = f"object {number} {name}".rstrip()
            what = f"{label}: {error}"
            content.problems.append(Problem("broken-object", str(_xml_path(folder, stem)), what, image))
            continue
        content.row.append(len(content.images))
        content.number.append(number)
        content.names.append(name)
        content.corners.append(corners)
        content.difficult.append((element.findtext("difficult") or "").strip().lower() in ("1", "true"))
    content.stems.append(stem)
    content.folders.append(folder)
    content.images.append(image)
    content.sizes.append(size)


def _corners(element: ElementTree.Element, name: str) -> list[float]:
    """The corners of an <object>, as written.

    Only its direct children count: a person in VOC2007 has <part>s with names and boxes of their own.
    """
    if not name:
        raise ValueError("no <name>")
    box = element.find("bndbox")
    if box is None:
        raise ValueError("no <bndbox>")
    return [_number(box, corner) for corner in CORNERS]  # by name: VOC2012 writes xmax first


def _number(parent: ElementTree.Element, tag: str) -> float:
    text = parent.findtext(tag)
    try:
        return float((text or "").replace("_", "?"))  # Python reads 1_0 as ten
    except ValueError:
        what = f"no <{tag}>" if text is None else f"<{tag}> is {text[:40]!r}, not a number"
        raise ValueError(what) from None


def _size(root: ElementTree.Element) -> tuple[int, int] | None:
    """(height, width); None if <size> is missing, zero or invalid, as some tools write it.

    The caller then reads the size from the image's header.
    """
    size = root.find("size")
    try:
        return None if size is None else as_size(_number(size, "height"), _number(size, "width"))
    except ValueError:
        return None


def _check_unique(images: list[str], image_sets: list[str]) -> None:
    """ValueError if image sets overlap (train and trainval): some images would be used and counted twice."""
    seen: set[str] = set()
    repeated = []
    for path in images:
        if path in seen:
            repeated.append(path)
        seen.add(path)
    if repeated:
        sets = ", ".join(image_sets)
        raise ValueError(
            f"{repeated[0]}: listed more than once in data.image_sets=[{sets}] ({len(repeated)} such images)"
        )
