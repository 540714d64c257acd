"""Lists of images with a label each, a line `PATH LABEL` for each image -> Annotations."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from detectors.annotations import Annotations
from detectors.data.checks import check_listed_once, selected_classes
from detectors.data.image_headers import header_size
from detectors.data.labelled_sets import whole_images
from detectors.data.listed_files import ListedFolder, special_file
from detectors.data.problems import Problem
from detectors.data.text_files import read_text

LIST_LAYOUT = "a line is PATH LABEL: the path of an image below data.root, and the name of its class"


class Listed(NamedTuple):
    """A line of a list."""

    list: Path
    number: int  # of the line, from 1
    path: str  # as written
    label: str


def scan_label_list(
    *, root: Path, image_sets: list[str], class_names: Sequence[str] | None = None
) -> tuple[Annotations, list[Problem]]:
    """Reads one or several lists, joined in the given order. Also returns what was left out.

    image_sets: files below root. The classes are the labels, sorted. class_names: selects and orders them;
    images of other classes are left out, unreported. Nothing outside of root is read. A line without a label,
    or whose image is not there or states no size, is a problem. FileNotFoundError or ValueError for a list
    that is missing, empty, or no text, or for an image that is listed twice.
    """
    problems: list[Problem] = []
    listed = [line for name in image_sets for line in _lines(root / name, problems)]
    names = tuple(sorted({line.label for line in listed}))
    selected = names
    if class_names is not None:
        selected = selected_classes(class_names, names, source=root, noun="class", plural="classes")
    kept = [line for line in listed if line.label in set(selected)]
    folder = ListedFolder(root, suffixes=True)
    usable = []
    for line in kept:
        path, problem = _located(folder, line)
        if problem is None:
            try:
                usable.append((path, header_size(path), selected.index(line.label)))
            except ValueError as error:
                problem = Problem("broken-image", path, f"{error} (line {line.number} of {line.list})", path)
        if problem is not None:
            problems.append(problem)
    paths = [path for path, _, _ in usable]
    check_listed_once(paths, image_sets)
    ids = [os.path.relpath(path, root) for path in paths]
    labels = np.array([label for *_, label in usable], np.int64)
    return whole_images(
        tuple(selected), ids, paths, np.array([size for _, size, _ in usable]), labels
    ), problems


def label_list_sources(*, root: Path, image_sets: list[str]) -> Iterator[Path]:
    """The files that scan_label_list reads."""
    try:
        folder = ListedFolder(root, suffixes=True)
        for name in image_sets:
            yield root / name
            for line in _lines(root / name, []):
                path, problem = _located(folder, line)
                if problem is None:
                    yield Path(path)
    except ValueError as error:
        raise OSError(str(error)) from error  # the scan raises it again, with its message


def _lines(file: Path, problems: list[Problem]) -> list[Listed]:
    """The lines of a list that have a label; the others become problems."""
    lines = []
    for number, text in enumerate(read_text(file, what="list of images").split("\n"), start=1):
        path, _, label = text.strip().replace("\t", " ").rpartition(" ")
        if not text.strip():
            continue
        if not path.strip():
            problems.append(Problem("broken-object", str(file), f"line {number}: {label!r} has no label"))
        else:
            lines.append(Listed(file, number, path.strip(), label))
    if not lines:
        raise ValueError(f"{file}: no line with an image and its label; {LIST_LAYOUT}")
    return lines


def _located(folder: ListedFolder, line: Listed) -> tuple[str, Problem | None]:
    """The path of a listed image, and what is wrong with it."""
    where = f"line {line.number}: {line.path!r}"
    if folder.leads_out(line.path):
        what = f"{where} lies outside of {folder.path}; set data.root to a folder that contains it"
        return line.path, Problem("outside-folder", str(line.list), what)
    found = folder.find(line.path)
    if found is None:
        what = f"{where} is not there{folder.hint(line.path)}"
        return line.path, Problem("missing-image", str(line.list), what)
    path, is_file = found
    if is_file:
        return path, None
    problem = special_file(path)
    return path, problem._replace(what=f"{problem.what} (line {line.number} of {line.list})")
