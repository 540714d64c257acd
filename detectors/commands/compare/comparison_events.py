"""The numbers of a comparison as TensorBoard's scalars: a run of TensorBoard for each detector, each training
run and each difference, so that it shows them side by side.

Everything is taken from the structure of comparison.json: what is added there comes along.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from detectors.training.tags import check_tag
from detectors.training.tensorboard_log import PREFIX, TensorBoardLog

GROUPS = ("detectors", "runs", "differences")  # lists of comparison.json, and folders of event files
# Keys of [low, high] -> what is added to the tag of the number that they belong to.
INTERVALS = {"over_images": "", "over_images_and_seeds": "_seeds", "interval": ""}
TABLES = ("precision_recall", "confusion", "curves")  # keys of what a scalar cannot show
PLAIN_KEYS = ("estimates", "value")  # keys that add nothing to a tag


class Point(NamedTuple):
    tag: str
    step: int  # the place in a list, such as a bin of the scores; 0 outside of lists
    value: float


def write_comparison_events(folder: Path, content: Mapping[str, Any]) -> None:
    """Event files in folder/detectors/NAME and the like. content: that of comparison.json.

    Event files of an earlier comparison in these folders are removed first.
    """
    for group in GROUPS:
        _clear(folder / group)
        taken: set[str] = set()
        for record in content.get(group, ()):
            place = folder_name(record.get("name") or f"{record['first']} - {record['second']}", taken)
            log = TensorBoardLog(folder / group / place)
            by_step: dict[int, dict[str, float]] = {}
            for point in points(record):
                by_step.setdefault(point.step, {})[check_tag(point.tag)] = point.value
            for step, values in sorted(by_step.items()):
                log.scalars(values, step)
            log.close(finished=False)


def points(value: Any, tag: str = "compare", step: int | None = None) -> Iterator[Point]:
    """Every number below a value of a JSON file; not texts, null, true and false.

    The place in a list is the step; in a list within a list, a part of the tag.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield Point(tag, step or 0, value)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if key in TABLES:
                continue
            if key in INTERVALS and isinstance(inner, Sequence) and len(inner) == 2:
                for end, bound in zip(("low", "high"), inner, strict=True):
                    yield from points(bound, f"{tag}{INTERVALS[key]}_{end}", step)
            else:
                yield from points(inner, tag if key in PLAIN_KEYS else f"{tag}/{key}", step)
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            if step is None:
                yield from points(inner, tag, place)
            else:
                yield from points(inner, f"{tag}/{place}", step)


def folder_name(name: str, taken: set[str]) -> str:
    """A name that a folder can have and that is not in `taken`, to which it is added."""
    plain = re.sub(r"[^\w .=,()+-]", "_", name).strip(". ")[:120] or "_"
    chosen, number = plain, 1
    while chosen in taken:
        number += 1
        chosen = f"{plain}_{number}"
    taken.add(chosen)
    return chosen


def _clear(folder: Path) -> None:
    for file in folder.glob(f"*/{PREFIX}*"):
        file.unlink()
        with suppress(OSError):  # it holds something else
            file.parent.rmdir()
