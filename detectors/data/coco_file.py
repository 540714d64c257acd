"""A COCO instances file: its three lists, and what of them can be used."""

from __future__ import annotations

import gc
import json
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from detectors.data.problems import Problem
from detectors.data.text_files import read_text

COCO_PARTS = ("categories", "images", "annotations")


@dataclass
class Instances:
    """A file's content, and the part of it that can be used."""

    file: Path
    content: dict[str, list]
    problems: list[Problem] = field(default_factory=list)
    categories: dict[int, str] = field(default_factory=dict)  # id -> name, sorted by id
    # Image id -> row; None: the image was left out and reported.
    row_of: dict[str | int, int | None] = field(default_factory=dict)
    image_ids: list[str | int] = field(default_factory=list)  # (N)
    paths: list[str] = field(default_factory=list)  # (N)
    sizes: list[tuple[int, int]] = field(default_factory=list)  # (N) (height, width)
    entry: list[int] = field(default_factory=list)  # (T) index into the file's annotations
    row: list[int] = field(default_factory=list)  # (T) the image
    label: list[int] = field(default_factory=list)  # (T)
    xywh: list[tuple[float, ...]] = field(default_factory=list)  # (T)

    def report(
        self, kind: str, what: str, image: str = "", box: tuple[float, float, float, float] | None = None
    ) -> None:
        self.problems.append(Problem(kind, str(self.file), what, image, box))

    def entries(self, part: str, keys: tuple[str, ...], kind: str) -> Iterator[tuple[int, dict]]:
        """The entries of a list that have all `keys`, with their indices. The others are reported."""
        for number, entry in enumerate(self.content[part]):
            if not isinstance(entry, dict):
                what = f"is {reprlib.repr(entry)}, not an object with {keys[0]!r}"
                self.report(kind, f"{part}[{number}] {what}")
                continue
            absent = [key for key in keys if key not in entry]
            if absent:
                self.report(kind, f"{part}[{number}] lacks {', '.join(map(repr, absent))}")
            else:
                yield number, entry

    def image_of(self, entry: dict) -> str:
        """The path of the image that an annotation belongs to; "" if the image was left out."""
        row = self.row_of[entry["image_id"]]
        return "" if row is None else self.paths[row]


def load_instances(file: Path) -> dict[str, list]:
    """The file's content, which has the three lists."""
    text = read_text(file, what="annotation file")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not valid JSON ({error})") from error
    for part in COCO_PARTS:
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise ValueError(
                f"{file}: no list of {part!r}; an instances file contains images, annotations and categories"
            )
    if not content["images"]:
        raise ValueError(f"{file}: lists no image")
    return content


def as_id(value: object) -> int | str | None:
    """An id of the file; a whole-valued float is that integer, since some programs write all numbers so."""
    if type(value) is float and value.is_integer():
        return int(value)
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None


def entry_name(number: int, entry: dict) -> str:
    return f"annotation {entry['id']}" if type(entry.get("id")) is int else f"annotations[{number}]"


@contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Parsing creates millions of objects without cycles, and the collector would scan them over and over."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
