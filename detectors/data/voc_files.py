"""The files of a VOC folder: its image sets, what they list, and where images and XML files lie."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

from detectors.data.image_headers import IMAGE_SUFFIXES
from detectors.data.suggestions import did_you_mean
from detectors.data.text_files import read_text

LAYOUT = (
    "a VOC folder contains JPEGImages/NAME.jpg, Annotations/NAME.xml and ImageSets/Main/SPLIT.txt "
    "with one NAME per line"
)
CLASS_LINE = re.compile(r"(\S.*?)\s+(?:-1|0|1)")  # of a list of one class, such as cat_train.txt
XML_SUFFIXES = (".xml", ".XML", ".Xml")


def locate_image_set(root: Path, image_set: str) -> tuple[Path, Path]:
    """The year's folder and the split list: (root / "VOC2007", ...) for "VOC2007/trainval".

    FileNotFoundError if the folder or one of its parts is missing.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder (data.root)")
    year, _, name = image_set.rpartition("/")
    folder = root / year
    parts = ("JPEGImages", "Annotations", "ImageSets/Main")
    absent = [part for part in parts if not (folder / part).is_dir()]
    if absent:
        years = sorted(path.parent.name for path in root.glob("*/ImageSets"))
        if years:
            hint = f"it is a devkit with {', '.join(years)}: name the image set {years[0]}/{name}"
        else:
            hint = _layout_hint(folder)
        where = f"(image set {image_set}, data.root={root})"
        raise FileNotFoundError(f"{folder}: not a VOC folder, it lacks {', '.join(absent)} {where}; {hint}")
    return folder, folder / "ImageSets" / "Main" / f"{name}.txt"


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


def read_split_list(split: Path, stems: Collection[str]) -> list[str]:
    """The names in a split list. stems: of all images in the folder.

    In the list of one class, 1, -1 or 0 follows each name: an image with such objects, without, or with
    difficult ones only. All three are images of the split, so all names are read.
    """
    if not split.exists():
        available = sorted(path.stem for path in split.parent.glob("*.txt"))
        raise FileNotFoundError(
            f"{split}: no such split list{did_you_mean(split.stem, available, quoted=True)} "
            f"(there are: {', '.join(available) or 'none'})"
        )
    lines = read_text(split, what="split list").split("\n")
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise ValueError(f"{split}: the split list is empty")
    flagged = [match for match in map(CLASS_LINE.fullmatch, names) if match]
    if len(flagged) == len(names) and not any(name in stems for name in names):  # names may end so, too
        return [match[1] for match in flagged]
    return names


def index_images(names: Collection[str]) -> dict[str, str]:
    """Stem -> file name, of the files in JPEGImages. The suffix may have any capitals.

    Of several files with one stem, the first suffix of IMAGE_SUFFIXES wins.
    """
    rank = {suffix: number for number, suffix in enumerate(IMAGE_SUFFIXES)}
    candidates = []
    for name in names:
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in rank:
            candidates.append((-rank[suffix.lower()], name, stem))
    # The last one stays: sorting puts the preferred suffix last.
    return {stem: name for _, name, stem in sorted(candidates)}


def xml_path(folder: Path, stem: str) -> Path:
    """The annotation of an image, whose suffix may have any capitals; STEM.xml if there is none."""
    places = (folder / "Annotations" / f"{stem}{suffix}" for suffix in XML_SUFFIXES)
    return next(filter(os.path.lexists, places), folder / "Annotations" / f"{stem}{XML_SUFFIXES[0]}")
