"""What every reader does about faulty files: an unknown class or a box without area is one error that says where, never a silent NaN."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from detectors.structures import Annotations

LISTED = 20  # lines of a long list that an error spells out; the rest is counted

logger = logging.getLogger(__name__)


def check_class_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """The names as a tuple; ValueError for an empty list or a name that stands twice."""
    twice = sorted({name for name in class_names if list(class_names).count(name) > 1})
    if twice:
        raise ValueError(f"data.class_names holds {', '.join(map(repr, twice))} more than once")
    if not class_names:
        raise ValueError("no class at all: data.class_names is empty, or the files hold no box to take a class from")
    return tuple(class_names)


def to_labels(names: Sequence[str], class_names: Sequence[str], where: Callable[[int], str]) -> np.ndarray:
    """Class names of T boxes -> (T,) int64 labels 0..C-1. `where(row)` says in which file a box stands.

    Raises ValueError that lists every class that `class_names` lacks, with its first file and the closest known name.
    """
    known = {name: label for label, name in enumerate(class_names)}
    unknown: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        if name not in known:
            unknown.setdefault(name, []).append(row)
    if unknown:
        lines = [
            f"{where(rows[0])}: unknown class {name!r}, {len(rows)} in all{did_you_mean(name, class_names)}"
            for name, rows in unknown.items()
        ]
        fix = "correct the files, or set data.class_names to all the classes that they hold"
        raise ValueError("\n".join([*shortened(lines), f"known classes: {', '.join(class_names)}", fix]))
    return np.array([known[name] for name in names], dtype=np.int64)


def settle_degenerate(annotations: Annotations, degenerate: np.ndarray, where: Callable[[int], str], on_degenerate: str) -> Annotations:
    """Boxes without area or with a coordinate that is no number: all in one ValueError ("error"), or left out with a warning ("drop").

    degenerate: (T,) bool. `where(row)` spells a box out: file, number, class, coordinates as written. An image that loses all its boxes
    stays.
    """
    if on_degenerate not in ("error", "drop"):
        raise ValueError(f"data.on_degenerate={on_degenerate!r}: choose error or drop")
    rows = np.flatnonzero(degenerate)
    if not len(rows):
        return annotations
    lines = [f"  {where(int(row))}" for row in rows]
    count = f"{len(rows)} box{'es' * (len(rows) > 1)} without area"
    if on_degenerate == "error":
        raise ValueError("\n".join([f"{count}:", *lines, "correct the files, or leave such boxes out with data.on_degenerate=drop"]))
    logger.warning("left out %s:\n%s", count, "\n".join(lines))
    return select_rows(annotations, ~degenerate)


def select_rows(annotations: Annotations, keep: np.ndarray) -> Annotations:
    """The boxes where `keep` (T,) is true; every image stays."""
    counts = np.bincount(annotations.image[keep], minlength=len(annotations))
    flat = {name: getattr(annotations, name)[keep] for name in ("boxes_original", "labels", "difficult", "crowd", "areas")}
    return replace(annotations, offsets=to_offsets(counts), **flat)


def to_offsets(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """(N,) boxes per image -> (N + 1,) int64: where each image's rows begin in the flat arrays."""
    return np.concatenate([[0], np.cumsum(np.asarray(counts, dtype=np.int64))]).astype(np.int64)


def header_size(path: Path) -> tuple[int, int]:
    """(height, width) from an image file's header, without decoding it; the camera's orientation tag is ignored, as loading.py does."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except OSError as error:
        raise ValueError(f"{path}: its size is written nowhere, and the image cannot be opened ({error})") from error


def did_you_mean(name: str, choices: Sequence[str]) -> str:
    """A hint that begins with a semicolon, or nothing if no choice is near."""
    alike = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(name.lower(), list(alike), n=1)
    return f"; did you mean {alike[near[0]]!r}?" if near else ""


def shortened(lines: list[str]) -> list[str]:
    """The first lines of a long list, and how many more there are."""
    return lines if len(lines) <= LISTED else [*lines[:LISTED], f"... and {len(lines) - LISTED} more"]
