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
    box_faults,
    check_class_names,
    check_listed_once,
    settled,
    to_offsets,
)
from detectors.data.files import require_regular
from detectors.data.image_headers import IMAGE_SUFFIXES, header_size
from detectors.data.listed_files import ListedFolder, special_file
from detectors.data.problems import Problem
from detectors.data.suggestions import did_you_mean
from detectors.data.voc_files import index_images, locate_image_set, read_split_list, xml_path
from detectors.data.voc_xml import corners_of, parse_xml, size_of


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
        raise ValueError("no image set: name at least one split list, such as train")
    content = _VocContent()
    for image_set in image_sets:
        _read_image_set(content, Path(root), image_set)
    check_listed_once(content.images, image_sets)
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
        return did_you_mean(name, known_names or (), quoted=True)

    for index in np.flatnonzero(kinds != ""):
        name = content.names[index]
        image = content.row[index]
        numbers = ", ".join(f"{value:g}" for value in corners[index])
        what = f"object {content.number[index]} {name} [{numbers}]"
        if kinds[index] == "unknown-class":
            what += hint(name)
        box = as_box(corners[index] - [1, 1, 0, 0])
        xml = xml_path(content.folders[image], content.stems[image])
        content.problems.append(Problem(str(kinds[index]), str(xml), what, content.images[image], box))


def _read_image_set(content: _VocContent, root: Path, image_set: str) -> None:
    folder, split = locate_image_set(root, image_set)
    listed = ListedFolder(folder / "JPEGImages", suffixes=False)
    annotated = ListedFolder(folder / "Annotations", suffixes=False)
    files = index_images(listed.names)
    for stem in read_split_list(split, files):
        if listed.leads_out(stem):
            what = f"{stem!r} leads out of {listed.path}{listed.hint(stem)}"
            content.problems.append(Problem("outside-folder", str(split), what))
        elif stem not in files:
            path = f"{listed.join(stem)}{IMAGE_SUFFIXES[0]}"
            what = f"listed in {split}{listed.hint(stem)}"
            content.problems.append(Problem("missing-image", path, what, path))
        elif not listed.names[files[stem]]:
            content.problems.append(special_file(listed.join(files[stem])))
        else:
            image = listed.join(files[stem])
            annotation = _parse(content, xml_path(folder, stem), image, split, annotated)
            if annotation is not None:
                _read_xml(content, annotation, folder, stem, image)


def _parse(
    content: _VocContent, path: Path, image: str, split: Path, annotated: ListedFolder
) -> ElementTree.Element | None:
    """The root element; None, with a problem added, if there is none.

    A root other than <annotation> is accepted only if it has an <object>: otherwise any XML file would pass
    for an image without objects.
    """
    try:
        require_regular(path)
        root = parse_xml(path.read_bytes())
        if root.tag == "annotation" or root.find("object") is not None:
            return root
        what = f"its root is <{root.tag[:40]}>, not <annotation>, and it has no <object>"
        problem = Problem("broken-annotation", str(path), what, image)
    except FileNotFoundError:
        what = f"{split} lists {path.stem}{annotated.hint(path.stem)}"
        problem = Problem("missing-annotation", str(path), what, image)
    except OSError as error:
        problem = Problem("broken-annotation", str(path), f"cannot be read ({error.strerror})", image)
    except ValueError as error:
        problem = Problem("broken-annotation", str(path), str(error), image)
    content.problems.append(problem)
    return None


def _read_xml(content: _VocContent, root: ElementTree.Element, folder: Path, stem: str, image: str) -> None:
    try:
        size = size_of(root) or header_size(image)
    except ValueError as error:
        content.problems.append(Problem("broken-image", image, str(error), image))
        return
    for number, element in enumerate(root.findall("object"), start=1):
        name = " ".join((element.findtext("name") or "").split())
        try:
            corners = corners_of(element, name)
        except ValueError as error:
            label = f"object {number} {name}".rstrip()
            what = f"{label}: {error}"
            content.problems.append(Problem("broken-object", str(xml_path(folder, stem)), what, image))
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
