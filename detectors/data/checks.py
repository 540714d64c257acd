"""Checks shared by the readers. A box that cannot be used is reported and left out; it never becomes NaN."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from detectors.annotations import Annotations
from detectors.data.problems import Problem, raise_or_log, shortened
from detectors.data.suggestions import did_you_mean

# Pixels. No image is that large, and nothing computed from such a box overflows in float32.
LARGEST_SIDE = 2.0**20
NUMBERS = {int, float}  # the types of JSON's numbers; bool is neither of them


def check_class_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """The names as a tuple. ValueError for an empty list or a repeated name."""
    twice = sorted({name for name in class_names if list(class_names).count(name) > 1})
    if twice:
        raise ValueError(f"data.class_names lists {', '.join(map(repr, twice))} more than once")
    if not class_names:
        raise ValueError(
            "data.class_names is empty: name the classes, or set it to null to use those in the files"
        )
    return tuple(class_names)


def selected_classes(
    class_names: Sequence[str], known: Iterable[str], *, source: object, noun: str, plural: str
) -> tuple[str, ...]:
    """data.class_names as a tuple.

    ValueError for a name that the set has under a similar spelling, or if it has none of the names: both are
    most likely mistakes. known: the set's own names; source: the file that has them; noun: class or category.
    """
    names = check_class_names(class_names)
    known = list(known)
    absent = [name for name in names if name not in known]
    others = [name for name in known if name not in names]
    hints = {name: did_you_mean(name, others, quoted=True) for name in absent}
    wrong = absent if len(absent) == len(names) else [name for name in absent if hints[name]]
    if wrong:
        lines = shortened([f"{source}: no {noun} {name!r}{hints[name]}" for name in wrong])
        raise ValueError("\n".join([*lines, f"its {plural}: {', '.join(known)}", "correct data.class_names"]))
    return names


def check_listed_once(images: Sequence[str], image_sets: Sequence[str]) -> None:
    """ValueError if splits overlap or a list repeats an image: it would be used and counted twice."""
    seen: set[str] = set()
    repeated = []
    for path in images:
        if path in seen:
            repeated.append(path)
        seen.add(path)
    if repeated:
        sets = ", ".join(image_sets)
        raise ValueError(
            f"{repeated[0]}: listed more than once in [{sets}] ({len(repeated)} such images); "
            "list each image once, in one of the splits"
        )


def settled(scanned: tuple[Annotations, list[Problem]], on_error: str) -> Annotations:
    """The annotations of a scan, after its errors are raised ("stop") or logged ("skip").

    ValueError that lists the errors ("stop"), or if no image, no class or no known object is left.
    """
    annotations, problems = scanned
    raise_or_log(problems, on_error)
    if not len(annotations):
        raise ValueError("no image is left: see the warnings about what was left out")
    if not annotations.class_names:
        raise ValueError(
            "no class at all: data.class_names is null, and the files contain no box to take a class from"
        )
    foreign = sum(problem.kind == "unknown-class" for problem in problems)
    if foreign and not len(annotations.labels) and annotations.image_labels is None:
        classes = ", ".join(annotations.class_names)
        raise ValueError(f"no object is left: {foreign} of unknown classes; the classes here are: {classes}")
    return annotations


def box_faults(boxes_original: np.ndarray) -> np.ndarray:
    """(T, 4) xyxy -> (T,) the kind of problem that makes a box unusable, "" for a good box.

    Law: a good box is finite and has an area, in float32 too (tests/data/test_fuzz_readers.py).
    """
    boxes = boxes_original.astype(np.float64)
    with np.errstate(invalid="ignore"):
        usable = np.all(np.abs(boxes) <= LARGEST_SIDE, axis=1)  # False for NaN
        rounded = np.where(usable[:, None], boxes, 0).astype(np.float32)
    without_area = ~(rounded[:, 2:] > rounded[:, :2]).all(1)
    return np.select([~usable, without_area], ["broken-object", "no-area"], default="")


def as_box(corners: np.ndarray) -> tuple[float, float, float, float] | None:
    """(4,) -> the box of a Problem; None for a box that cannot be drawn."""
    if not (np.abs(corners) <= LARGEST_SIDE).all():
        return None
    left, top, right, bottom = map(float, corners)
    return left, top, right, bottom


def to_offsets(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """(N,) boxes per image -> (N + 1,) int64: where each image's rows start in the flat arrays."""
    return np.concatenate([[0], np.cumsum(np.asarray(counts, dtype=np.int64))]).astype(np.int64)


def as_size(height: Any, width: Any) -> tuple[int, int] | None:
    """(height, width) as integers, if an image can have that size; otherwise None."""
    if _is_side(height) and _is_side(width):
        return int(height), int(width)
    return None


def _is_side(value: Any) -> bool:
    return type(value) in NUMBERS and 1 <= value <= LARGEST_SIDE  # False for NaN


def parse_number(text: str) -> float:
    """float(), but ValueError for 1_0, which Python reads as ten."""
    return float(text.replace("_", "?"))


def written_number(value: float) -> int | float:
    """A coordinate for a text file: to 1e-10 px, so that 12.000000000000004 is written as 12."""
    value = round(value, 10)
    return int(value) if value.is_integer() else value
