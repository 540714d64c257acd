"""PASCAL VOC: JPEGImages/, Annotations/*.xml and ImageSets/Main/*.txt -> Annotations.

This is the one place that knows VOC's coordinates: 1-based, and the last pixel belongs to the box. [xmin - 1, ymin - 1, xmax, ymax] has
continuous edges, and its plain IoU equals the devkit's IoU with "+1".
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
    did_you_mean,
    header_size,
    settled,
    to_offsets,
)
from detectors.data.problems import Problem

CORNERS = ("xmin", "ymin", "xmax", "ymax")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")  # tried in this order, in any case
LAYOUT = "a VOC folder holds JPEGImages/NAME.jpg, Annotations/NAME.xml and ImageSets/Main/SPLIT.txt with one NAME a line"


@dataclass
class _Listed:
    """What the files say, one entry per usable image or per object with a name and four numbers."""

    problems: list[Problem] = field(default_factory=list)
    stems: list[str] = field(default_factory=list)  # (N)
    folders: list[Path] = field(default_factory=list)  # (N) the year's folder
    images: list[str] = field(default_factory=list)  # (N)
    sizes: list[tuple[int, int]] = field(default_factory=list)  # (N) (height, width)
    row: list[int] = field(default_factory=list)  # (T) the image
    number: list[int] = field(default_factory=list)  # (T) place in the XML, from 1
    names: list[str] = field(default_factory=list)  # (T)
    corners: list[list[float]] = field(default_factory=list)  # (T) as written
    difficult: list[bool] = field(default_factory=list)  # (T)


def read_voc(
    *,
    root: str | os.PathLike,
    image_sets: list[str],
    class_names: list[str] | None = None,
    on_error: str = "stop",
) -> Annotations:
    """scan_voc, and then what `on_error` says: "stop" raises one ValueError that lists all findings, "skip" logs them."""
    return settled(scan_voc(root=root, image_sets=image_sets, class_names=class_names), on_error)


def scan_voc(
    *, root: str | os.PathLike, image_sets: list[str], class_names: list[str] | None = None
) -> tuple[Annotations, list[Problem]]:
    """Read one or several image sets, joined in the order given; and everything that had to be left out.

    root: a year's folder, with image_sets such as ["train"], or a devkit that holds several, with ["VOC2007/trainval", "VOC2012/trainval"].
    class_names: the label of a name is its place in this list. None takes all names that occur, sorted.

    An image comes from the name in the split list: the <filename> of many data sets is wrong. Images without objects are kept, and those
    that lost all of theirs. Boxes that reach out of the image are kept as they are; transforms.py clips them. A box with xmax <= xmin or
    ymax <= ymin in the XML has no area: read to the letter, xmax = xmin would be one pixel wide; in practice it is a slip of the mouse.
    Raises FileNotFoundError and ValueError where a folder or a split list is wrong.
    """
    known = None if class_names is None else check_class_names(class_names)
    if not image_sets:
        raise ValueError("data.image_sets is empty: name at least one split list, such as train")
    listed = _Listed()
    for image_set in image_sets:
        _read_image_set(listed, Path(root), image_set)
    _check_unique(listed.images, image_sets)
    return _to_annotations(listed, known), listed.problems


def voc_sources(*, root: str | os.PathLike, image_sets: list[str]) -> Iterator[os.PathLike]:
    """Every file that scan_voc reads, and the folders whose contents it lists. OSError for one that is not there."""
    for image_set in image_sets:
        year, _, name = image_set.rpartition("/")
        folder = Path(root) / year
        yield from (folder / "JPEGImages", folder / "ImageSets" / "Main" / f"{name}.txt")
        with os.scandir(folder / "Annotations") as entries:
            yield from entries


def _to_annotations(listed: _Listed, known: tuple[str, ...] | None) -> Annotations:
    """The only place where VOC's coordinates become continuous."""
    corners = np.array(listed.corners, dtype=np.float64).reshape(-1, 4)
    kinds = box_faults(corners)
    if known is not None:
        unknown = np.array([name not in known for name in listed.names], dtype=bool)
        kinds = np.where((kinds == "") & unknown, "unknown-class", kinds)
    _note_boxes(listed, corners, kinds, known)
    keep = np.flatnonzero(kinds == "")
    names = [listed.names[row] for row in keep.tolist()]
    class_names = tuple(sorted(set(names))) if known is None else known
    label = {name: place for place, name in enumerate(class_names)}
    boxes = corners[keep] - [1, 1, 0, 0]
    counts = np.bincount(np.array(listed.row, dtype=np.int64)[keep], minlength=len(listed.images))
    return Annotations(
        class_names=class_names,
        image_ids=_image_ids(listed),
        paths=listed.images,
        sizes=np.array(listed.sizes, dtype=np.int64).reshape(-1, 2),
        offsets=to_offsets(counts),
        boxes_original=boxes,
        labels=np.array([label[name] for name in names], dtype=np.int64),
        difficult=np.array(listed.difficult, dtype=bool)[keep],
        crowd=np.zeros(len(keep), dtype=bool),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(1),
        category_ids=tuple(range(1, len(class_names) + 1)),
    )


def _image_ids(listed: _Listed) -> list[str]:
    """The stems; where two years use one name, the ids say which year."""
    if len(set(listed.stems)) == len(listed.stems):
        return listed.stems
    return [f"{folder.name}/{stem}" for folder, stem in zip(listed.folders, listed.stems, strict=True)]


def _note_boxes(
    listed: _Listed, corners: np.ndarray, kinds: np.ndarray, known: tuple[str, ...] | None
) -> None:
    """A problem for each box that is left out."""
    hint = cache(
        lambda name: did_you_mean(name, known)
    )  # one search for each misspelling, not for each object
    for place in np.flatnonzero(kinds != ""):
        name, row = listed.names[place], listed.row[place]
        what = f"object {listed.number[place]} {name} [{', '.join(f'{value:g}' for value in corners[place])}]"
        what += hint(name) if kinds[place] == "unknown-class" else ""
        box = as_box(corners[place] - [1, 1, 0, 0])
        xml = _xml(listed.folders[row], listed.stems[row])
        listed.problems.append(Problem(str(kinds[place]), str(xml), what, listed.images[row], box))


def _read_image_set(listed: _Listed, root: Path, image_set: str) -> None:
    folder, name = _locate(root, image_set)
    split = folder / "ImageSets" / "Main" / f"{name}.txt"
    stems, images = _stems(split, image_set), _images(folder)
    for stem in stems:
        if stem not in images:
            path = f"{folder / 'JPEGImages' / stem}{IMAGE_SUFFIXES[0]}"
            listed.problems.append(Problem("missing-image", path, f"listed in {split}", path))
        elif (root_element := _parse(listed, _xml(folder, stem), images[stem], split)) is not None:
            _read_xml(listed, root_element, folder, stem, images[stem])


def _stems(split: Path, image_set: str) -> list[str]:
    if not split.is_file():
        there = sorted(path.stem for path in split.parent.glob("*.txt"))
        raise FileNotFoundError(
            f"{split}: no such split list{did_you_mean(split.stem, there)} (data.image_sets={image_set}; "
            f"there are: {', '.join(there) or 'none'})"
        )
    try:
        stems = [line.strip() for line in split.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{split}: the split list is no text in UTF-8 ({error.reason} at byte {error.start})"
        ) from error
    if not stems:
        raise ValueError(f"{split}: the split list is empty")
    return stems


def _locate(root: Path, image_set: str) -> tuple[Path, str]:
    """ "VOC2007/trainval" -> (its year's folder, "trainval"); "trainval" -> (root, "trainval")."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder (data.root)")
    year, _, name = image_set.rpartition("/")
    folder = root / year
    absent = [
        part for part in ("JPEGImages", "Annotations", "ImageSets/Main") if not (folder / part).is_dir()
    ]
    if absent:
        years = sorted(path.parent.name for path in root.glob("*/ImageSets"))
        hint = (
            f"as a devkit it holds {', '.join(years)}: write data.image_sets=[{years[0]}/{name}]"
            if years
            else _layout_hint(folder)
        )
        where = f"(data.root={root}, data.image_sets={image_set})"
        raise FileNotFoundError(f"{folder}: not a VOC folder, it lacks {', '.join(absent)} {where}; {hint}")
    return folder, name


def _layout_hint(folder: Path) -> str:
    """What to do with a folder that is laid out in another way."""
    suffixes = [path.suffix.lower() for path in folder.iterdir()] if folder.is_dir() else []
    loose = {"Annotations": suffixes.count(".xml"), "JPEGImages": sum(map(suffixes.count, IMAGE_SUFFIXES))}
    moves = [
        f"move the {count} {what} in {folder} itself into {name}/"
        for (name, count), what in zip(loose.items(), ("XML files", "images"), strict=True)
        if count
    ]
    return "; ".join([LAYOUT, *moves])


def _images(folder: Path) -> dict[str, str]:
    """Stem -> image file. One listing is quicker than a look-up per image, and finds .JPG and .png too."""
    found: dict[str, str] = {}
    rank = {suffix: place for place, suffix in enumerate(IMAGE_SUFFIXES)}
    with os.scandir(folder / "JPEGImages") as entries:
        names = [(*os.path.splitext(entry.name), entry.path) for entry in entries]
    for stem, _, path in sorted(
        (n for n in names if n[1].lower() in rank), key=lambda name: (-rank[name[1].lower()], name[2])
    ):
        found[stem] = path
    return found


def _xml(folder: Path, stem: str) -> Path:
    return folder / "Annotations" / f"{stem}.xml"


def _parse(listed: _Listed, path: Path, image: str, split: Path) -> ElementTree.Element | None:
    """The root element, or None and a problem noted. Any root will do that holds objects; without one, another page is no empty image."""
    try:
        root = ElementTree.fromstring(path.read_bytes())
        if root.tag == "annotation" or root.find("object") is not None:
            return root
        what = f"its root is <{root.tag[:40]}>, not <annotation>, and it holds no <object>"
        problem = Problem("broken-annotation", str(path), what, image)
    except FileNotFoundError:
        problem = Problem("missing-annotation", str(path), f"{split} lists {path.stem}", image)
    except OSError as error:
        problem = Problem("broken-annotation", str(path), f"cannot be read ({error.strerror})", image)
    except (
        ElementTree.ParseError,
        ValueError,
        LookupError,
    ) as error:  # the latter two: encodings that expat has not
        problem = Problem("broken-annotation", str(path), f"not well-formed XML ({error})", image)
    listed.problems.append(problem)
    return None


def _read_xml(listed: _Listed, root: ElementTree.Element, folder: Path, stem: str, image: str) -> None:
    try:
        size = _size(root) or header_size(image)
    except ValueError as error:
        listed.problems.append(Problem("broken-image", image, str(error), image))
        return
    for number, element in enumerate(root.findall("object"), start=1):
        name = " ".join((element.findtext("name") or "").split())
        try:
            corners = _corners(element, name)
        except ValueError as error:
            what = f"object {number}{' ' * bool(name)}{name}: {error}"
            listed.problems.append(Problem("broken-object", str(_xml(folder, stem)), what, image))
            continue
        listed.row.append(len(listed.images))
        listed.number.append(number)
        listed.names.append(name)
        listed.corners.append(corners)
        listed.difficult.append((element.findtext("difficult") or "").strip().lower() in ("1", "true"))
    listed.stems.append(stem)
    listed.folders.append(folder)
    listed.images.append(image)
    listed.sizes.append(size)


def _corners(element: ElementTree.Element, name: str) -> list[float]:
    """Of one <object>, as written. Only its direct children count: a VOC2007 person has <part>s, with boxes and names of their own."""
    if not name:
        raise ValueError("no <name>")
    box = element.find("bndbox")
    if box is None:
        raise ValueError("no <bndbox>")
    return [_number(box, corner) for corner in CORNERS]  # by name: VOC2012 writes xmax first


def _number(parent: ElementTree.Element, tag: str) -> float:
    text = parent.findtext(tag)
    try:
        return float((text or "").replace("_", "?"))  # Python takes 1_0 for ten
    except ValueError:
        raise ValueError(
            f"no <{tag}>" if text is None else f"<{tag}> is {text[:40]!r}, not a number"
        ) from None


def _size(root: ElementTree.Element) -> tuple[int, int] | None:
    """(height, width), or None where <size> is missing, zero or senseless, as some tools write it: then the image's header says it."""
    size = root.find("size")
    try:
        return None if size is None else as_size(_number(size, "height"), _number(size, "width"))
    except ValueError:
        return None


def _check_unique(images: list[str], image_sets: list[str]) -> None:
    """Two sets that overlap (train and trainval) would train and count an image twice."""
    seen: set[str] = set()
    twice = [path for path in images if path in seen or seen.add(path)]
    if twice:
        raise ValueError(
            f"{twice[0]}: listed more than once in data.image_sets=[{', '.join(image_sets)}] ({len(twice)} such images)"
        )
