"""Where a set in Darknet's format keeps its images, labels and class names: .data, data.yaml, lists, folders.

Nothing outside of data.root and of the folder of data.file is read: a list that came with somebody else's
data set may name any path.
"""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from detectors.data.checks import check_listed_once
from detectors.data.darknet_description import DarknetDescription, names_by_id, read_description
from detectors.data.image_headers import IMAGE_SUFFIXES
from detectors.data.listed_files import ListedFolder
from detectors.data.problems import Problem
from detectors.data.suggestions import did_you_mean
from detectors.data.text_files import read_text

LISTED_SUFFIXES = (*IMAGE_SUFFIXES, ".webp")  # of images in folders
# A split's names in data.file and on folders
SYNONYMS = (("train", "training"), ("val", "valid", "validation"), ("test",))
IMAGE_FOLDERS = ("images", "JPEGImages")  # its labels are in `labels` instead
FOLDERS = (
    "a folder in Darknet's format contains train.txt (a list of images), images/train/ or train/images/, "
    "and for each image a .txt file of the same name in labels/ instead of images/, or beside it"
)

logger = logging.getLogger(__name__)


@dataclass
class LabelledImages:
    """What was found: one entry per image that exists."""

    read: list[Path] = field(default_factory=list)  # the description, the class names, the lists
    names: tuple[str, ...] | None = None  # class names by id; None: no file names them
    keypoints: bool = False  # further columns are keypoints, not corners of a polygon
    images: list[str] = field(default_factory=list)  # (N)
    labels: list[str] = field(default_factory=list)  # (N) the label file; "" if there is none
    problems: list[Problem] = field(default_factory=list)


def find_labelled_images(*, root: Path, file: Path | None, image_sets: list[str]) -> LabelledImages:
    """The images of one or several splits, joined in the given order, with their label files.

    root: paths of lists count from here. file: a .data file or a data.yaml; None: the one in root, if any.
    image_sets: names of splits in that file, or of a list, such as train.txt, or of a folder below root.
    FileNotFoundError or ValueError if a folder, a list or the file is wrong.
    """
    if root.is_file():
        raise ValueError(f"{root}: is a file; set data.file={root}, not data.root")
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder (data.root)")
    if not image_sets:
        raise ValueError("no split is named: set data.train=[train]")
    found = LabelledImages()
    description = read_description(root, file)
    if description is not None:
        found.read.append(description.file)
        found.keypoints = "kpt_shape" in description.values
    found.names = _names(found, root, description)
    for image_set in image_sets:
        for source in _sources(root, description, image_set):
            if source.is_dir():
                found.images += _images_below(source)
            else:
                found.read.append(source)
                found.images += _listed(found, _Places(root, description), source)
    check_listed_once(found.images, image_sets)
    label_of = LabelFinder(root, file)
    found.labels = [label_of(image) for image in found.images]
    if found.images and not any(found.labels):
        raise FileNotFoundError(
            f"{image_sets[0]}: no label file for any of {len(found.images)} images; looked for "
            f"{' and '.join(label_of.candidates(found.images[0]))}; {FOLDERS}"
        )
    return found


class LabelFinder:
    """Image -> its label file. One listing of a folder is faster than a lookup per image.

    As in Darknet and its successors: `labels` instead of the last `images` or `JPEGImages` among the folders,
    then instead of an earlier one, then instead of the first "images" within a folder's name
    (train_images -> train_labels), then the image's own folder.
    """

    def __init__(self, root: str | os.PathLike, file: str | os.PathLike | None = None):
        """root: data.root. file: data.file. Only names below data.root or the file's folder are replaced."""
        places = [root] if file is None else [root, os.path.dirname(file)]
        real = [os.path.realpath(place) for place in places]  # lists may name what a link leads to
        self.roots = [*map(os.path.normpath, places), *real]
        self.folders: dict[str, list[tuple[str, dict[str, str]]]] = {}

    def __call__(self, image: str) -> str:
        folder, name = os.path.split(image)
        wanted = f"{os.path.splitext(name)[0]}.txt"
        if folder not in self.folders:
            existing = filter(os.path.isdir, self._label_folders(folder))
            self.folders[folder] = [(place, _text_files(place)) for place in existing]
        for place, names in self.folders[folder]:
            if wanted in names:
                return os.path.join(place, names[wanted])
        return ""

    def candidates(self, image: str) -> list[str]:
        """Every place of the label file, the usual one first."""
        folder, name = os.path.split(image)
        return [
            os.path.join(place, f"{os.path.splitext(name)[0]}.txt") for place in self._label_folders(folder)
        ]

    def _label_folders(self, folder: str) -> list[str]:
        inside = [os.path.relpath(folder, root).split(os.sep) for root in self.roots]
        parts = next((parts for parts in inside if parts[0] != os.pardir), [os.curdir])
        start = folder[: len(folder) - len(os.sep.join(parts))] if parts != [os.curdir] else folder
        changed = [
            [*parts[:index], "labels", *parts[index + 1 :]]
            for index in reversed(range(len(parts)))
            if parts[index] in IMAGE_FOLDERS
        ]
        places = [start + os.sep.join(other) for other in changed]
        within = os.sep.join(parts)
        if "images" in within:
            places.append(start + within.replace("images", "labels", 1))
        return list(dict.fromkeys([*places, folder]))


def _text_files(folder: str) -> dict[str, str]:
    """`a.txt` -> the name of that file, which may be a.TXT; where both exist, a.txt."""
    stems = sorted(map(os.path.splitext, os.listdir(folder)))  # capitals come first, so a.txt overwrites
    return {f"{stem}.txt": stem + suffix for stem, suffix in stems if suffix.lower() == ".txt"}


class _Places:
    """From the paths that one list names to files below data.root or the description's folder.

    They may count from data.root, from the folder of the file that names them, or from the working directory.
    They may also be those of another computer: then the longest end of the path that exists is taken, and all
    paths with the same beginning are read the same way.
    """

    def __init__(self, root: Path, description: DarknetDescription | None):
        self.root = root
        own = [] if description is None else [description.file.parent]
        base = "" if description is None else str(description.values.get("path") or "")
        bases = [folder / base for folder in (*own, root)] if base else []
        self.bases = [*(folder for folder in bases if folder.is_dir()), *own, root]
        self.fences = [os.path.join(os.path.abspath(folder), "") for folder in (root, *own)]
        self.starts: dict[tuple[bool, str], str] = {}  # (absolute, beginning of paths) -> what replaces it

    def find(self, text: str, source: Path) -> tuple[str, str]:
        """A path that exists, and "" ; or where it was looked for, and the kind of problem.

        source: the file that names it.
        """
        path = text if "\\" not in text or os.path.exists(text) else text.replace("\\", "/")
        absolute = bool(re.match(r"[a-zA-Z]:/|/", path))
        for (known_absolute, start), folder in self.starts.items():
            if absolute == known_absolute and path.startswith(start):
                place = os.path.normpath(os.path.join(folder, path[len(start) :]))
                if not os.path.exists(place):
                    return place, "missing-image"
                return (place, "") if self.inside(place) else (path, "outside-folder")
        bases = [str(base) for base in (*self.bases, source.parent, Path())]
        outside = False
        for start, folder in self._readings(path, bases):
            place = os.path.normpath(os.path.join(folder, path[len(start) :]))
            if os.path.exists(place):
                if self.inside(place):
                    self.starts[absolute, start] = folder
                    if start.strip("./"):
                        _warn_once(str(source), start, folder)
                    return place, ""
                outside = outside or not start
        if outside:
            return path, "outside-folder"
        return os.path.normpath(os.path.join(self.root, path)), "missing-image"

    def _readings(self, path: str, bases: list[str]) -> Iterator[tuple[str, str]]:
        """(beginning of the path, folder that replaces it), the most literal reading first."""
        yield from (("", folder) for folder in bases)
        cuts = [match.end() for match in re.finditer("/+", path)]
        for cut in cuts:
            yield from ((path[:cut], folder) for folder in bases)

    def inside(self, place: str) -> bool:
        """Below one of the two folders; links to them count as the folders that they lead to."""
        here = os.path.join(os.path.abspath(place), "")
        if here.startswith(tuple(self.fences)):
            return True
        real = tuple(os.path.join(os.path.realpath(fence), "") for fence in self.fences)
        return os.path.join(os.path.realpath(place), "").startswith(real)


@functools.cache  # once, although a list is read again when it is not in the cache
def _warn_once(source: str, start: str, folder: str) -> None:
    logger.warning("%s: paths that begin with %s are read below %s", source, start, folder)


def _names(
    found: LabelledImages, root: Path, description: DarknetDescription | None
) -> tuple[str, ...] | None:
    """Class names by id. ValueError if they are not one for each id."""
    values = {} if description is None else description.values
    names = values.get("names")
    count = values.get("nc", values.get("classes"))
    if isinstance(names, str) and names:
        assert description is not None
        place, kind = _Places(root, description).find(names, description.file)
        if kind:
            raise FileNotFoundError(f"{description.file}: names={names}: no such file in {root}")
        where, names = Path(place), _lines_of_names(found, Path(place))
    elif names:
        assert description is not None
        where, names = description.file, names_by_id(description.file, names)
    else:
        files = [*sorted(root.glob("*.names")), root / "classes.txt", root / "labels" / "classes.txt"]
        files = [file for file in files if file.is_file()]
        if not files:
            return None
        where, names = files[0], _lines_of_names(found, files[0])
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{where}: names {twice[0]!r} twice; write each class name once")
    # As Darknet's atoi reads it: what follows the number is a remark.
    said = None if count is None else re.match(r"\s*\+?0*(\d*)", str(count))
    if description is not None and said is not None and said[1] != str(len(names)):
        raise ValueError(
            f"{description.file}: says {count} classes, and {where} names {len(names)}; make them agree"
        )
    return tuple(names)


def _lines_of_names(found: LabelledImages, file: Path) -> list[str]:
    """A class's id is the number of its line, from 0: an empty line would shift the ids behind it."""
    lines = [line.strip() for line in read_text(file, what="file of class names").rstrip().split("\n")]
    if "" in lines:
        raise ValueError(f"{file}: line {lines.index('') + 1} is empty; write one class name per line")
    found.read.append(file)
    return lines


def _sources(root: Path, description: DarknetDescription | None, image_set: str) -> list[Path]:
    """The lists and folders of a split."""
    names = next((group for group in SYNONYMS if image_set in group), (image_set,))
    if description is not None:
        for key in (image_set, *names):
            if texts := description.texts(key):
                return [_existing(root, description, key, text) for text in texts]
    places = _Places(root, description)
    for name in (image_set, *names):
        for place in (root / f"{name}.txt", root / "images" / name, root / name / "images", root / name):
            if place.exists() and places.inside(str(place)):
                return [place]
    where = root if description is None else description.file
    keys = [] if description is None else list(description.values)
    raise FileNotFoundError(
        f"{where}: no split {image_set!r}{did_you_mean(image_set, keys)}; there is no {image_set}.txt, "
        f"images/{image_set} or {image_set}/images in {root}; name other splits with data.train and data.val "
        f"([] for none); {FOLDERS}"
    )


def _existing(root: Path, description: DarknetDescription, key: str, text: str) -> Path:
    place, kind = _Places(root, description).find(text, description.file)
    if kind == "outside-folder":
        raise ValueError(
            f"{description.file}: {key}={text}: lies outside of {root}; "
            "set data.root to a folder that contains it"
        )
    if kind:
        raise FileNotFoundError(
            f"{description.file}: {key}={text}: no such list or folder; paths count from "
            f"{description.file.parent}, from data.root={root} or from the working directory"
        )
    return Path(place)


def _images_below(folder: Path) -> list[str]:
    """Sorted by path. Links to other folders are not followed."""
    images = []
    for place, folders, names in os.walk(folder):
        folders.sort()
        images += [os.path.join(place, name) for name in names if name.lower().endswith(LISTED_SUFFIXES)]
    if not images:
        raise FileNotFoundError(f"{folder}: no image in this folder; looked for {', '.join(LISTED_SUFFIXES)}")
    return sorted(images)


def _listed(found: LabelledImages, places: _Places, source: Path) -> list[str]:
    """The images of a list that exist; the others are reported."""
    lines = [line.strip() for line in read_text(source, what="list of images").split("\n")]
    lines = [line for line in lines if line]
    if not lines:
        raise ValueError(f"{source}: the list of images is empty")
    images = []
    problems = []
    listed = ListedFolder(places.root, suffixes=True)
    for line in lines:
        place, kind = places.find(line, source)
        if kind == "outside-folder":
            what = f"{line} lies outside of {places.root}; set data.root to a folder that contains it"
            problems.append(Problem(kind, str(source), what))  # without the image: nobody opens it
        elif kind:
            problems.append(Problem(kind, place, f"listed in {source}{listed.hint(line)}", place))
        else:
            images.append(place)
    if not images and problems[0].kind == "missing-image":
        raise FileNotFoundError(
            f"{source}: none of its {len(lines)} images is there, such as {lines[0]}{listed.hint(lines[0])}; "
            f"paths count from data.root={places.root}, from the list's folder or from the working directory"
        )
    found.problems += problems
    return images
