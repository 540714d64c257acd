"""PASCAL VOC: JPEGImages/, Annotations/*.xml and ImageSets/Main/*.txt -> Annotations.

This is the one place that knows VOC's coordinates: 1-based, and the last pixel belongs to the box. [xmin - 1, ymin - 1, xmax, ymax] has
continuous edges, and its plain IoU equals the devkit's IoU with "+1".
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from detectors.data.checks import check_class_names, did_you_mean, header_size, settle_degenerate, shortened, to_labels, to_offsets
from detectors.structures import Annotations

CORNERS = ("xmin", "ymin", "xmax", "ymax")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")  # tried in this order, in any case
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse"),
    *("motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


@dataclass
class _Listed:
    """What the files say, one entry per image or per box, before classes are known."""

    stems: list[str] = field(default_factory=list)  # (N)
    folders: list[Path] = field(default_factory=list)  # (N) the year's folder
    images: list[Path] = field(default_factory=list)  # (N)
    sizes: list[tuple[int, int]] = field(default_factory=list)  # (N) (height, width)
    counts: list[int] = field(default_factory=list)  # (N) boxes
    names: list[str] = field(default_factory=list)  # (T)
    corners: list[tuple[float, ...]] = field(default_factory=list)  # (T) as written
    difficult: list[bool] = field(default_factory=list)  # (T)

    def xml(self, index: int) -> Path:
        return _xml(self.folders[index], self.stems[index])


def read_voc(
    *, root: str | os.PathLike, image_sets: list[str], class_names: list[str] | None = None, on_degenerate: str = "error"
) -> Annotations:
    """Read one or several image sets, joined in the order given.

    root: a year's folder, with image_sets such as ["train"], or a devkit that holds several, with ["VOC2007/trainval", "VOC2012/trainval"].
    class_names: the label of a name is its place in this list. None takes all names that occur, sorted.
    on_degenerate: a box with xmax <= xmin or ymax <= ymin in the XML, or with a coordinate that is not finite, is an error, or is dropped
        with a warning. (Read to the letter, xmax = xmin would be one pixel wide; in practice it is a slip of the mouse.)

    An image comes from the name in the split list: the <filename> of many data sets is wrong. Images without objects are kept. Boxes that
    reach out of the image are kept as they are; transforms.py clips them. Raises FileNotFoundError and ValueError that name the file.
    """
    listed = _Listed()
    for image_set in image_sets:
        _read_image_set(listed, Path(root), image_set)
    _check_listed(listed, image_sets)
    offsets = to_offsets(listed.counts)

    def image_of(row: int) -> int:
        return int(np.searchsorted(offsets, row, side="right")) - 1

    def where(row: int) -> str:
        number = row - offsets[image_of(row)] + 1
        return (
            f"{listed.xml(image_of(row))} object {number} {listed.names[row]} [{', '.join(f'{value:g}' for value in listed.corners[row])}]"
        )

    names = check_class_names(sorted(set(listed.names)) if class_names is None else class_names)
    labels = to_labels(listed.names, names, lambda row: str(listed.xml(image_of(row))))
    annotations = _to_annotations(listed, names, labels)
    corners = np.array(listed.corners, dtype=np.float64).reshape(-1, 4)
    degenerate = ~(np.isfinite(corners).all(1) & (corners[:, 2:] > corners[:, :2]).all(1))
    return settle_degenerate(annotations, degenerate, where, on_degenerate)


def _to_annotations(listed: _Listed, class_names: tuple[str, ...], labels: np.ndarray) -> Annotations:
    """The only place where VOC's coordinates become continuous."""
    boxes = np.array(listed.corners, dtype=np.float64).reshape(-1, 4) - [1, 1, 0, 0]
    unique = len(set(listed.stems)) == len(listed.stems)  # two years may use one name: then the id says which year
    ids = listed.stems if unique else [f"{folder.name}/{stem}" for folder, stem in zip(listed.folders, listed.stems, strict=True)]
    return Annotations(
        class_names=class_names,
        image_ids=tuple(ids),
        paths=tuple(map(str, listed.images)),
        sizes=np.array(listed.sizes, dtype=np.int64).reshape(-1, 2),
        offsets=to_offsets(listed.counts),
        boxes_original=boxes,
        labels=labels,
        difficult=np.array(listed.difficult, dtype=bool),
        crowd=np.zeros(len(labels), dtype=bool),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(1),
        category_ids=tuple(range(1, len(class_names) + 1)),
    )


def _read_image_set(listed: _Listed, root: Path, image_set: str) -> None:
    folder, name = _locate(root, image_set)
    split = folder / "ImageSets" / "Main" / f"{name}.txt"
    if not split.is_file():
        there = sorted(path.stem for path in split.parent.glob("*.txt"))
        raise FileNotFoundError(
            f"{split}: no such split list{did_you_mean(name, there)} (data.image_sets={image_set}; there are: {', '.join(there) or 'none'})"
        )
    stems = [line.strip() for line in split.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not stems:
        raise ValueError(f"{split}: the split list is empty")
    images = _images(folder)
    missing = [f"{folder / 'JPEGImages' / stem}{IMAGE_SUFFIXES[0]}: no such image" for stem in stems if stem not in images]
    if missing:
        raise FileNotFoundError("\n".join([*shortened(missing), f"listed in {split}"]))
    for stem in stems:
        _read_xml(listed, folder, stem, images[stem], split)


def _locate(root: Path, image_set: str) -> tuple[Path, str]:
    """ "VOC2007/trainval" -> (its year's folder, "trainval"); "trainval" -> (root, "trainval")."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder (data.root)")
    year, _, name = image_set.rpartition("/")
    folder = root / year
    absent = [part for part in ("JPEGImages", "Annotations", "ImageSets") if not (folder / part).is_dir()]
    if absent:
        years = sorted(path.parent.name for path in root.glob("*/ImageSets"))
        hint = f"; as a devkit it holds {', '.join(years)}: write data.image_sets=[{years[0]}/{name}]" if years else ""
        raise FileNotFoundError(
            f"{folder}: not a VOC folder, it lacks {', '.join(absent)} (data.root={root}, data.image_sets={image_set}){hint}"
        )
    return folder, name


def _images(folder: Path) -> dict[str, Path]:
    """Stem -> image file. One listing is quicker than a look-up per image, and finds .JPG and .png too."""
    found: dict[str, Path] = {}
    rank = {suffix: place for place, suffix in enumerate(IMAGE_SUFFIXES)}
    with os.scandir(folder / "JPEGImages") as entries:
        paths = [Path(entry.path) for entry in entries]
    for path in sorted((path for path in paths if path.suffix.lower() in rank), key=lambda path: (-rank[path.suffix.lower()], path.name)):
        found[path.stem] = path
    return found


def _xml(folder: Path, stem: str) -> Path:
    return folder / "Annotations" / f"{stem}.xml"


def _read_xml(listed: _Listed, folder: Path, stem: str, image: Path, split: Path) -> None:
    path = _xml(folder, stem)
    try:
        root = ElementTree.parse(path).getroot()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such annotation, but {split} lists {stem}") from None
    except ElementTree.ParseError as error:
        raise ValueError(f"{path}: not well-formed XML ({error})") from error
    objects = root.findall("object")
    for number, element in enumerate(objects, start=1):
        _read_object(listed, element, f"{path} object {number}")
    listed.stems.append(stem)
    listed.folders.append(folder)
    listed.images.append(image)
    listed.sizes.append(_size(root, path) or header_size(image))
    listed.counts.append(len(objects))


def _read_object(listed: _Listed, element: ElementTree.Element, where: str) -> None:
    """One <object>. Only its direct children count: a VOC2007 person has <part>s, with boxes and names of their own."""
    name = (element.findtext("name") or "").strip()
    if not name:
        raise ValueError(f"{where}: no <name>")
    box = element.find("bndbox")
    if box is None:
        raise ValueError(f"{where} {name}: no <bndbox>")
    listed.names.append(name)
    listed.corners.append(tuple(_number(box, corner, f"{where} {name}") for corner in CORNERS))  # by name: VOC2012 writes xmax first
    listed.difficult.append((element.findtext("difficult") or "").strip().lower() in ("1", "true"))


def _number(parent: ElementTree.Element, tag: str, where: str) -> float:
    text = parent.findtext(tag)
    try:
        return float(text or "")
    except ValueError:
        fault = f"no <{tag}>" if text is None else f"<{tag}> is {text!r}, not a number"
        raise ValueError(f"{where}: {fault}") from None


def _size(root: ElementTree.Element, path: Path) -> tuple[int, int] | None:
    """(height, width), or None where <size> is missing or zero, as some tools write it."""
    size = root.find("size")
    if size is None:
        return None
    height, width = (_number(size, tag, f"{path} <size>") if size.findtext(tag) else 0 for tag in ("height", "width"))
    return (int(height), int(width)) if height >= 1 and width >= 1 else None


def _check_listed(listed: _Listed, image_sets: list[str]) -> None:
    """Two sets that overlap (train and trainval) would train and count an image twice."""
    seen: set[Path] = set()
    twice = [path for path in listed.images if path in seen or seen.add(path)]
    if twice:
        raise ValueError(f"{twice[0]}: listed more than once in data.image_sets=[{', '.join(image_sets)}] ({len(twice)} such images)")
    if not listed.images:
        raise ValueError("data.image_sets is empty: name at least one split list, such as train")
