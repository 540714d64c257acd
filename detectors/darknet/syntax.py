"""The syntax of Darknet's .cfg files: sections of `key=value` lines, with every mistake named by file, section and line.

What the sections mean stands in darknet_cfg.py.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

LARGEST_FILE = 1 << 20  # bytes; the longest cfg of the YOLOv2 family has 2,726
MOST_SECTIONS = 1000  # yolov2.cfg has 33
WHOLE_NUMBER = re.compile(r"[+-]?\d{1,18}", re.ASCII)


class Section:
    """One [section]: its options, each read once with a type and a range. What nobody asked for is `unused`, as in Darknet."""

    def __init__(self, path: Path, kind: str, line: int):
        self.path, self.kind, self.line = path, kind, line
        self._values: dict[str, tuple[str, int]] = {}  # key -> text, line
        self._asked: set[str] = set()
        self._doubled: list[str] = []

    def add(self, key: str, value: str, line: int) -> None:
        """The first of two equal keys counts, as in Darknet."""
        if key in self._values:
            self._doubled.append(
                f"{self.path}:{line}: [{self.kind}] {key}={value} comes second and is not used"
            )
        else:
            self._values[key] = (value, line)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def error(self, problem: str, key: str | None = None) -> ValueError:
        """To be raised: names the option where there is one, else the section."""
        if key in self._values:
            value, line = self._values[key]
            return ValueError(f"{self.path}:{line}: [{self.kind}] {key}={value}: {problem}")
        place = f" {key} (not given)" if key else ""
        return ValueError(f"{self.path}:{self.line}: [{self.kind}]{place}: {problem}")

    def text(self, key: str, default: str) -> str:
        self._asked.add(key)
        return self._values[key][0] if key in self._values else default

    def whole(self, key: str, default: int, *, least: int = 0, most: int = 2**31 - 1) -> int:
        value = self._whole(self.text(key, str(default)), key)
        if not least <= value <= most:
            raise self.error(f"must lie between {least} and {most}", key)
        return value

    def wholes(self, key: str) -> tuple[int, ...]:
        """Whole numbers with commas between them; () without the key."""
        return tuple(self._whole(part, key) for part in self._parts(key))

    def number(self, key: str, default: float) -> float:
        return self._number(self.text(key, repr(default)), key)

    def numbers(self, key: str) -> tuple[float, ...]:
        """Numbers with commas between them; () without the key."""
        return tuple(self._number(part, key) for part in self._parts(key))

    def flag(self, key: str, default: bool = False) -> bool:
        return self.whole(key, int(default), least=-(2**31)) != 0

    def ignore(self, *keys: str) -> None:
        """Options that Darknet reads too, and that change nothing in a network of the YOLOv2 family."""
        self._asked.update(keys)

    def refuse(self, *keys: str) -> None:
        """Options that would make another layer of this one, unless they are 0."""
        for key in keys:
            if self.text(key, "0") != "0":
                raise self.error("the YOLOv2 family has no such layer, and it is not built here", key)

    @property
    def unused(self) -> list[str]:
        """One line for each option that had no effect."""
        unknown = [(key, *entry) for key, entry in self._values.items() if key not in self._asked]
        lines = [
            f"{self.path}:{line}: [{self.kind}] {key}={value} is not known and not used"
            for key, value, line in unknown
        ]
        return lines + self._doubled

    def _parts(self, key: str) -> list[str]:
        text = self.text(key, "")
        return text.rstrip(",").split(",") if text else []

    def _whole(self, text: str, key: str) -> int:
        if not WHOLE_NUMBER.fullmatch(text):
            raise self.error(f"{text!r} is not a whole number", key)
        return int(text)

    def _number(self, text: str, key: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.error(f"{text!r} is not a number", key)
        return value


def read_text(path: Path | str) -> str:
    """FileNotFoundError without the file; ValueError for one that is too large to be a cfg."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such cfg file")
    with path.open("rb") as file:
        data = file.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise ValueError(
            f"{path}: larger than {LARGEST_FILE} bytes, so it is no Darknet cfg; is it the .weights file?"
        )
    return data.decode("utf-8-sig", errors="replace")


def read_sections(path: Path | str, text: str | None = None) -> list[Section]:
    """The sections of a cfg file in order. Spaces count for nothing, lines that begin with # or ; are comments, as in Darknet.

    text: the file's content where it lies elsewhere, as in a checkpoint; `path` then only names it in messages.
    FileNotFoundError without the file; ValueError for what is no cfg file, with the line.
    """
    path, text = Path(path), read_text(path) if text is None else text
    sections: list[Section] = []
    for number, line in enumerate(text.split("\n"), 1):
        _read_line("".join(line.split()), number, path, sections)
    if not sections:
        raise ValueError(f"{path}: no [section] in this file; a Darknet cfg begins with [net]")
    return sections


def _read_line(line: str, number: int, path: Path, sections: list[Section]) -> None:
    """Adds a line without its spaces to the sections."""
    if not line or line[0] in "#;":
        return
    line = line.partition("#")[
        0
    ]  # Darknet's numbers end at the first character that is no digit, so a remark may follow
    if line[0] == "[":
        if line[-1] != "]":
            raise ValueError(f"{path}:{number}: {line[:60]!r} opens a section and does not close it with ]")
        if len(sections) == MOST_SECTIONS:
            raise ValueError(
                f"{path}:{number}: more than {MOST_SECTIONS} sections; a network of the YOLOv2 family has about 30"
            )
        sections.append(Section(path, line[1:-1][:60], number))
        return
    key, equals, value = line.partition("=")
    if not equals or not key:
        raise ValueError(f"{path}:{number}: {line[:60]!r} is neither a [section] nor key=value")
    if not sections:
        raise ValueError(
            f"{path}:{number}: {line[:60]!r} stands before the first section; a Darknet cfg begins with [net]"
        )
    sections[-1].add(key[:60], value, number)
