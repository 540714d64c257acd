"""The syntax of Darknet's .cfg files: sections of `key=value` lines. Errors name the file, line and section.

Numbers are read by C's rules, as Darknet reads them: what follows the number is ignored, and a text without
one is 0. Words are compared whole, remarks included. What the sections mean is defined in cfg.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from detectors.data.text_files import decode_text

MAX_FILE_BYTES = 1 << 20  # the longest cfg of the YOLOv2 family has 2,726
MAX_SECTIONS = 1000  # yolov2.cfg has 33
INT_MIN, INT_MAX = -(2**31), 2**31 - 1
MAX_FLOAT = (2 - 2**-23) * 2.0**127  # float32's
BLANKS = str.maketrans("", "", " \t\r\n")  # what Darknet removes, also between two digits
REMARK = re.compile("[#;]")
INTEGER_LITERAL = re.compile(r"[+-]?\d+", re.ASCII)
NUMBER_LITERAL = re.compile(
    r"[+-]?(0x([\da-f]+\.?[\da-f]*|\.[\da-f]+)(p[+-]?\d+)?"
    r"|(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf(inity)?|nan)",
    re.ASCII | re.IGNORECASE,
)
ATOI = re.compile(r"\s*([+-]?)0*(\d{0,20})", re.ASCII)
_Number = TypeVar("_Number", int, float)


def atoi(text: str) -> int:
    """The integer at the start of a text, 0 without one: C's atoi, but beyond 20 digits only "too large"."""
    number = ATOI.match(text)
    assert number is not None  # no part of it must be there
    sign, digits = number.groups()
    return int(sign + (digits or "0"))


def atof(text: str) -> float:
    """The number at the start of a text, 0 without one: C's atof."""
    match = NUMBER_LITERAL.match(text.lstrip(" \t\n\v\f\r"))
    if match is None:
        return 0.0
    try:
        return float.fromhex(match[0]) if match[1] and match[2] else float(match[0])
    except OverflowError:
        return math.inf


class Option(NamedTuple):
    """The value of a key, as it stands in the file."""

    raw: str
    line: int

    @property
    def text(self) -> str:
        """Without blanks, as Darknet sees it."""
        return self.raw.translate(BLANKS)


class Section:
    """One [section]: its options, read with a type and a range. Options that are never read are `unused`.

    notes: one line for each value that Darknet reads as something else than what stands there.
    """

    def __init__(self, path: Path, kind: str, line: int):
        self.path = path
        self.kind = kind
        self.line = line
        self.notes: list[str] = []
        self.contents: Mapping[str, str] = {}  # of files that a cfg names, if they are stored elsewhere
        self.named: dict[str, str] = {}  # key -> the file that it names
        self._values: dict[str, Option] = {}
        self._known: set[str] = set()
        self._without_effect: list[str] = []

    def add(self, key: str, option: Option) -> None:
        """If a key is given twice, the first one counts; one without a value does not. Both as in Darknet."""
        place = f"{self.path}:{option.line}: [{self.kind}] {key}={_short(option.text)}"
        if not option.text:
            self._without_effect.append(f"{place} has no value and is not used")
        elif key in self._values:
            self._without_effect.append(f"{place} is a duplicate and not used")
        else:
            self._values[key] = option

    def error(self, problem: str, key: str | None = None) -> ValueError:
        """An error to raise: about the option `key`, or about the section as a whole."""
        if key in self._values:
            return ValueError(f"{self._place(key)}: {problem}")
        option = f" {key} (not given)" if key else ""
        return ValueError(f"{self.path}:{self.line}: [{self.kind}]{option}: {problem}")

    def word(self, key: str, known: Sequence[str], *, default: str, otherwise: str) -> str:
        """One of the words that Darknet knows. Another text means `otherwise`, and a note says so."""
        option = self._find(key)
        text = default if option is None else option.text
        if text in known:
            return text
        hint = "; put the remark on a line of its own" if text.startswith(tuple(known)) else ""
        self.notes.append(
            f"{self._place(key)}: Darknet compares the whole text, knows no such {key} "
            f"and takes {otherwise}{hint}"
        )
        return otherwise

    def integer(self, key: str, default: int, *, minimum: int = 0, maximum: int = INT_MAX) -> int:
        option = self._find(key)
        value = default if option is None else self._read(key, [option.raw], self._atoi)[0]
        if not minimum <= value <= maximum:
            problem = f"must be between {minimum} and {maximum}"
            if option is not None and not INTEGER_LITERAL.fullmatch(option.text):
                problem = (
                    f"{_short(option.text)!r} is not an integer: Darknet reads {value}, and it {problem}"
                )
            raise self.error(problem, key)
        return value

    def integers(self, key: str) -> tuple[int, ...]:
        """A number for each part between commas, also for an empty one; () without the key."""
        return self._read(key, self._split(key), self._atoi)

    def number(self, key: str, default: float) -> float:
        option = self._find(key)
        return default if option is None else self._read(key, [option.raw], self._atof)[0]

    def numbers(self, key: str) -> tuple[float, ...]:
        """A number for each part between commas, also for an empty one; () without the key."""
        return self._read(key, self._split(key), self._atof)

    def flag(self, key: str) -> bool:
        return self.integer(key, 0, minimum=INT_MIN) != 0

    def ignore(self, *keys: str) -> None:
        """Options that Darknet knows and that make no difference in a network of the YOLOv2 family."""
        self._known.update(keys)

    def refuse(self, *keys: str) -> None:
        """Numbers that would turn this layer into one that is not supported, unless they are 0."""
        for key in keys:
            if self.flag(key):
                raise self._unsupported(key)

    def file(self, key: str) -> tuple[Path, str | None] | None:
        """The file that an option names, and its content if that is stored elsewhere. None: no option.

        Darknet opens it from the working directory. If it is not there, the cfg's folder and the one above
        are tried, where Darknet's own cfgs find theirs.
        """
        option = self._find(key)
        if option is None:
            return None
        name = self.named[key] = option.text
        if name in self.contents:
            return Path(name), self.contents[name]
        places = [Path(name), self.path.parent / name, self.path.parent.parent / name]
        return next((place for place in places if place.is_file()), places[0]), None

    @property
    def unused(self) -> list[str]:
        """One line for each option that has no effect."""
        unknown = [key for key in self._values if key not in self._known]
        return [f"{self._place(key)} is not known and not used" for key in unknown] + self._without_effect

    def _find(self, key: str) -> Option | None:
        self._known.add(key)
        return self._values.get(key)

    def _place(self, key: str) -> str:
        """`file:line: [section] key=value`, for messages."""
        option = self._values[key]
        return f"{self.path}:{option.line}: [{self.kind}] {key}={_short(option.text)}"

    def _unsupported(self, key: str) -> ValueError:
        return self.error("not supported, since no network of the YOLOv2 family has it", key)

    def _split(self, key: str) -> list[str]:
        option = self._find(key)
        return [] if option is None else option.raw.split(",")

    def _read(
        self, key: str, parts: Sequence[str], convert: Callable[[str, str], _Number]
    ) -> tuple[_Number, ...]:
        """The numbers of some texts. A note lists them unless they are what stands before any remark."""
        literal = INTEGER_LITERAL if convert == self._atoi else NUMBER_LITERAL
        values = tuple(convert(key, part.translate(BLANKS)) for part in parts)
        if not all(literal.fullmatch(REMARK.split(part, maxsplit=1)[0].strip()) for part in parts):
            shown = _short(", ".join(f"{value:.9g}" for value in values))
            self.notes.append(f"{self._place(key)}: Darknet reads {shown} here")
        return values

    def _atoi(self, key: str, text: str) -> int:
        value = atoi(text)
        if not INT_MIN <= value <= INT_MAX:
            raise self.error(f"{_short(text)!r} is not an integer of 32 bits", key)
        return value

    def _atof(self, key: str, text: str) -> float:
        value = atof(text)
        if not abs(value) <= MAX_FLOAT:
            raise self.error(f"{_short(text)!r} is not a number of 32 bits", key)
        return value


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:60]}..."


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
        _read_line(line, number, path, sections)
    if not sections:
        raise ValueError(f"{path}: no [section] in this file; a Darknet cfg begins with [net]")
    return sections


def _read_line(raw: str, number: int, path: Path, sections: list[Section]) -> None:
    """Adds one line to the sections."""
    line = raw.translate(BLANKS)
    if not line or line[0] in "#;":
        return
    if line[0] == "[":
        sections.append(_open_section(line, number, path, len(sections)))
        return
    key, equals, _ = line.partition("=")
    if not equals or not key:
        raise ValueError(f"{path}:{number}: {line[:60]!r} is neither a [section] nor key=value")
    if not sections:
        raise ValueError(
            f"{path}:{number}: {line[:60]!r} comes before the first section; a Darknet cfg begins with [net]"
        )
    sections[-1].add(key[:60], Option(raw.partition("=")[2], number))


def _open_section(line: str, number: int, path: Path, sections_so_far: int) -> Section:
    if line[-1] != "]":
        problem = (
            "has a remark behind it, which Darknet takes for a part of the name; put it on a line of its own"
            if "]" in line
            else "opens a section but has no closing ]"
        )
        raise ValueError(f"{path}:{number}: {line[:60]!r} {problem}")
    if sections_so_far == MAX_SECTIONS:
        raise ValueError(
            f"{path}:{number}: more than {MAX_SECTIONS} sections; a network of the YOLOv2 family has about 30"
        )
    return Section(path, line[1:-1][:60], number)
