"""What both readers do about faulty files: a box that cannot be used is named and left out, never a silent NaN."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from detectors.annotations import Annotations
from detectors.data.problems import Problem, settle

NAMES_LISTED = 20  # lines of a long list that an error spells out; the rest is counted
LARGEST_SIDE = (
    2.0**20
)  # pixels: no image is so large, and nothing that is computed from such a box overflows in float32


def check_class_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """The names as a tuple; ValueError for an empty list or a name that stands twice."""
    twice = sorted({name for name in class_names if list(class_names).count(name) > 1})
    if twice:
        raise ValueError(f"data.class_names holds {', '.join(map(repr, twice))} more than once")
    if not class_names:
        raise ValueError(
            "data.class_names is empty: name the classes, or set it to null to take those of the files"
        )
    return tuple(class_names)


def settled(scanned: tuple[Annotations, list[Problem]], on_error: str) -> Annotations:
    """What a scan leaves, once its findings are told. ValueError that lists them ("stop"), or if there is nothing left to work with."""
    annotations, problems = scanned
    settle(problems, on_error)
    if not len(annotations):
        raise ValueError("no image is left: see the warnings about what was left out")
    if not annotations.class_names:
        raise ValueError(
            "no class at all: data.class_names is null, and the files hold no box to take a class from"
        )
    return annotations


def box_faults(boxes_original: np.ndarray) -> np.ndarray:
    """(T, 4) xyxy -> (T,) the kind of problem that makes a box useless, "" for a good one.

    Law: a good box is finite and has an area, in float32 too.
    """
    boxes = boxes_original.astype(np.float64)
    with np.errstate(invalid="ignore"):
        usable = (np.abs(boxes) <= LARGEST_SIDE).all(1)  # False for NaN
        flat = np.where(usable[:, None], boxes, 0).astype(np.float32)
    return np.select([~usable, ~(flat[:, 2:] > flat[:, :2]).all(1)], ["broken-object", "no-area"], default="")


def as_box(corners: np.ndarray) -> tuple[float, float, float, float] | None:
    """(4,) -> the box of a Problem; None for one that cannot be drawn."""
    return tuple(map(float, corners)) if (np.abs(corners) <= LARGEST_SIDE).all() else None


def to_offsets(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """(N,) boxes per image -> (N + 1,) int64: where each image's rows begin in the flat arrays."""
    return np.concatenate([[0], np.cumsum(np.asarray(counts, dtype=np.int64))]).astype(np.int64)


def as_size(height: object, width: object) -> tuple[int, int] | None:
    """(height, width) of numbers that an image can have; None for anything else."""
    sides = [
        side for side in (height, width) if isinstance(side, int | float) and 1 <= side <= LARGEST_SIDE
    ]  # False for NaN
    return (int(sides[0]), int(sides[1])) if len(sides) == 2 else None


def header_size(path: str | Path) -> tuple[int, int]:
    """(height, width) from an image file's header, without decoding it; the camera's orientation tag is ignored, as loading.py does."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"its size is written nowhere, and the image cannot be opened ({error})") from error


def did_you_mean(name: str, choices: Sequence[str]) -> str:
    """A hint that begins with a semicolon, or nothing if no choice is near."""
    alike = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(name.lower(), list(alike), n=1)
    return f"; did you mean {alike[near[0]]!r}?" if near else ""


def shortened(lines: list[str]) -> list[str]:
    """The first lines of a long list, and how many more there are."""
    return (
        lines
        if len(lines) <= NAMES_LISTED
        else [*lines[:NAMES_LISTED], f"... and {len(lines) - NAMES_LISTED} more"]
    )
