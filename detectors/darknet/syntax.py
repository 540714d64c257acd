"""The syntax of Darknet's .cfg files: sections of `key=value` lines. Errors name the file, line and section.

What the sections mean is defined in cfg.py.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from detectors.data.text_files import decode_text

MAX_FILE_BYTES = 1 << 20  # the longest cfg of the YOLOv2 family has 2,726
MAX_SECTIONS = 1000  # yolov2.cfg has 33
INTEGER = re.compile(r"[+-]?\d{1,18}", re.ASCII)


class Section:
    """One [section]: its options, read with a type and a range. Options that are never read are `unused`."""

    def __init__(self, path: Path, kind: str, line: int):
        self.path = path
        self.kind = kind
        self.line = line
        self._values: dict[str, tuple[str, int]] = {}  # key -> text, line
        self._known: set[str] = set()
        self._duplicates: list[str] = []

    def add(self, key: str, value: str, line: int) -> None:
        """If a key is given twice, the first one counts, as in Darknet."""
        if key in self._values:
            self._duplicates.append(
                f"{self.path}:{line}: [{self.kind}] {key}={value} is a duplicate and not used"
            )
        else:
            self._values[key] = (value, line)

    def error(self, problem: str, key: str | None = None) -> ValueError:
        """An error to raise: about the option `key`, or about the section as a whole."""
        if key in self._values:
            value, line = self._values[key]
            return ValueError(f"{self.path}:{line}: [{self.kind}] {key}={value}: {problem}")
        option = f" {key} (not given)" if key else ""
        return ValueError(f"{self.path}:{self.line}: [{self.kind}]{option}: {problem}")

    def text(self, key: str, default: str) -> str:
        self._known.add(key)
        return self._values[key][0] if key in self._values else default

    def integer(self, key: str, default: int, *, minimum: int = 0, maximum: int = 2**31 - 1) -> int:
        value = self._parse_integer(self.text(key, str(default)), key)
        if not minimum <= value <= maximum:
            raise self.error(f"must be between {minimum} and {maximum}", key)
        return value

    def integers(self, key: str) -> tuple[int, ...]:
        """Comma-separated integers; () without the key."""
        return tuple(self._parse_integer(part, key) for part in self._split(key))

    def number(self, key: str, default: float) -> float:
        return self._parse_number(self.text(key, repr(default)), key)

    def numbers(self, key: str) -> tuple[float, ...]:
        """Comma-separated numbers; () without the key."""
        return tuple(self._parse_number(part, key) for part in self._split(key))

    def flag(self, key: str) -> bool:
        return self.integer(key, 0, minimum=-(2**31)) != 0

    def ignore(self, *keys: str) -> None:
        """Options that Darknet knows and that make no difference in a network of the YOLOv2 family."""
        self._known.update(keys)

    def refuse(self, *keys: str) -> None:
        """Options that would turn this layer into one that is not supported, unless they are 0."""
        for key in keys:
            if self.text(key, "0") != "0":
                raise self.error("not supported, since no network of the YOLOv2 family has it", key)

    @property
    def unused(self) -> list[str]:
        """One line for each option that has no effect."""
        unknown = [
            f"{self.path}:{line}: [{self.kind}] {key}={value} is not known and not used"
            for key, (value, line) in self._values.items()
            if key not in self._known
        ]
        return unknown + self._duplicates

    def _split(self, key: str) -> list[str]:
        text = self.text(key, "")
        return text.rstrip(",").split(",") if text else []

    def _parse_integer(self, text: str, key: str) -> int:
        if not INTEGER.fullmatch(text):
            raise self.error(f"{text!r} is not an integer", key)
        return int(text)

    def _parse_number(self, text: str, key: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.error(f"{text!r} is not a number", key)
        return value


def read_cfg_text(path: Path | str) -> str:
    """FileNotFoundError if there is no such file; ValueError if it is too large to be a cfg, or no text."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such cfg file")
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(
            f"{path}: larger than {MAX_FILE_BYTES} bytes, so not a Darknet cfg; is it the .weights file?"
        )
    return decode_text(data, path, what="cfg file")


def read_sections(path: Path | str, text: str | None = None) -> list[Section]:
    """The sections of a cfg file, in order. As in Darknet, spaces are removed and lines starting with # or ;
    are comments.

    text: the content of the file, if it is stored elsewhere (a checkpoint); `path` is then for messages only.
    FileNotFoundError if there is no such file; ValueError, with the line, if it is not a cfg file.
    """
    path = Path(path)
    if text is None:
        text = read_cfg_text(path)
    sections: list[Section] = []
    for number, line in enumerate(text.split("\n"), 1):
        _read_line("".join(line.split()), number, path, sections)
    if not sections:
        raise ValueError(f"{path}: no [section] in this file; a Darknet cfg begins with [net]")
    return sections


def _read_line(line: str, number: int, path: Path, sections: list[Section]) -> None:
    """Adds one line, already without spaces, to the sections."""
    if not line or line[0] in "#;":
        return
    # Darknet's numbers end at the first character that is not a digit, so a comment may follow on the line.

    line = line.partition("#")[0]
    if line[0] == "[":
        sections.append(_open_section(line, number, path, len(sections)))
        return
    key, equals, value = line.partition("=")
    if not equals or not key:
        raise ValueError(f"{path}:{number}: {line[:60]!r} is neither a [section] nor key=value")
    if not sections:
        raise ValueError(
            f"{path}:{number}: {line[:60]!r} comes before the first section; a Darknet cfg begins with [net]"
        )
    sections[-1].add(key[:60], value, number)


def _open_section(line: str, number: int, path: Path, sections_so_far: int) -> Section:
    if line[-1] != "]":
        raise ValueError(f"{path}:{number}: {line[:60]!r} opens a section but has no closing ]")
    if sections_so_far == MAX_SECTIONS:
        raise ValueError(
            f"{path}:{number}: more than {MAX_SECTIONS} sections; a network of the YOLOv2 family has about 30"
        )
    return Section(path, line[1:-1][:60], number)
