"""Folders of classes, SPLIT/CLASS/.../NAME.jpg, as torchvision's ImageFolder reads them -> Annotations."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from detectors.annotations import Annotations
from detectors.data.checks import selected_classes
from detectors.data.image_headers import IMAGE_SUFFIXES, header_size
from detectors.data.labelled_sets import whole_images
from detectors.data.problems import Problem
from detectors.data.suggestions import did_you_mean

FOLDER_SUFFIXES = (*IMAGE_SUFFIXES, ".webp")
FOLDER_LAYOUT = "a split is a folder that holds one folder for each class, with the images of the class in it"


def scan_image_folder(
    *, root: Path, image_sets: list[str], class_names: Sequence[str] | None = None
) -> tuple[Annotations, list[Problem]]:
    """Reads one or several splits, joined in the given order. Also returns what was left out.

    image_sets: folders below root; "." is root itself. The classes are the names of the folders that hold an
    image, sorted. class_names: selects and orders them; images of other classes are left out, unreported. An
    image whose header states no size is a problem. FileNotFoundError or ValueError for a folder that is
    missing, or that holds no image of a class.
    """
    found = [(name, path) for split in image_sets for name, path in _images(_located(root, split), split)]
    names = tuple(sorted({name for name, _ in found}))
    selected = names
    if class_names is not None:
        selected = selected_classes(class_names, names, source=root, noun="class", plural="classes")
    problems = []
    kept = []
    for name, path in found:
        if name not in selected:
            continue
        try:
            kept.append((path, header_size(path), selected.index(name)))
        except ValueError as error:
            problems.append(Problem("broken-image", path, str(error), path))
    paths = [path for path, _, _ in kept]
    ids = [os.path.relpath(path, root) for path in paths]
    sizes = np.array([size for _, size, _ in kept])
    return whole_images(selected, ids, paths, sizes, np.array([label for *_, label in kept])), problems


def image_folder_sources(*, root: Path, image_sets: list[str]) -> Iterator[Path]:
    """The files that scan_image_folder reads."""
    try:
        for split in image_sets:
            yield from (Path(path) for _, path in _images(_located(root, split), split))
    except ValueError as error:
        raise OSError(str(error)) from error  # the scan raises it again, with its message


def _located(root: Path, split: str) -> Path:
    """The folder of a split."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder (data.root)")
    folder = root / split
    if folder.is_dir():
        return folder
    folders = sorted(path.name for path in root.iterdir() if path.is_dir())
    hint = did_you_mean(split, folders, quoted=True)
    if not hint and folders:
        listed = ", ".join(folders[:8])
        hint = f"; it has {listed}; if these are the classes: data.train=[.] data.val=[.] data.val_share=0.1"
    raise FileNotFoundError(f"{folder}: no such folder{hint}")


def _images(folder: Path, split: str) -> Iterator[tuple[str, str]]:
    """(class, path) of each image below the folder, sorted. ValueError if there is none."""
    empty = True
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if not entry.is_dir() or entry.name.startswith("."):
            continue
        for parent, inside, files in os.walk(entry.path, followlinks=True):
            inside.sort()
            for name in sorted(files):
                if name.lower().endswith(FOLDER_SUFFIXES) and not name.startswith("."):
                    empty = False
                    yield entry.name, os.path.join(parent, name)
    if empty:
        raise ValueError(f"{folder}: no image of a class in it (split {split}); {FOLDER_LAYOUT}")
