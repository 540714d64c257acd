"""What may be given to a detector, and what it stands for: images, videos, cameras and arrays, in order.

A place is a path, a folder (with all folders below), a pattern, an http or https address, a .txt list of
places, `-` (such a list on stdin), or a camera: webcam:0, or its number alone.
"""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path, PurePath, PurePosixPath
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from detectors.data.image_headers import IMAGE_SUFFIXES
from detectors.data.suggestions import did_you_mean
from detectors.data.text_files import decode_text, read_text

SUFFIXES = (*IMAGE_SUFFIXES, ".webp")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
LIST_SUFFIX = ".txt"
STDIN = "-"
CAMERA = re.compile(r"(?:webcam:)?(\d{1,3})", re.ASCII)
URL_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")

Images = str | PathLike | np.ndarray | Image.Image | Iterable


@dataclass(frozen=True)
class InputSource:
    """Something that gives one image, or many: a video or a camera."""

    kind: str  # image, video, camera or array
    name: str | None  # the path or address as typed, webcam:0; None for an array or a PIL image
    image: np.ndarray | None = None  # (h, w, 3) uint8 RGB of an array

    @property
    def address(self) -> bool:
        """Whether it must be fetched first."""
        return self.name is not None and URL_SCHEME.match(self.name) is not None

    @property
    def path(self) -> Path:
        """A path after which files about it are named, such as its picture."""
        if not self.address:
            return Path(self.name.replace(":", "-") if self.kind == "camera" else self.name)
        parts = urlsplit(self.name)
        name = PurePosixPath(parts.path).name
        host = (parts.hostname or "").replace(":", "-")
        return Path(host, name if name.strip(".") else host)


Found = InputSource | ValueError | OSError  # the error that takes the place of what cannot be used


def given_sources(images: Images) -> Iterator[Found]:
    """Every source in what a program gave, in order."""
    if isinstance(images, str | PathLike):
        yield from find_sources([os.fspath(images)])
    elif isinstance(images, np.ndarray):
        yield _checked(images)
    elif isinstance(images, Image.Image):
        yield InputSource("array", None, np.asarray(images.convert("RGB")))
    elif isinstance(images, Iterable):
        for image in images:
            yield from given_sources(image)
    else:
        yield ValueError(
            f"images of type {type(images).__name__}: give a path, a folder, an array (h, w, 3) uint8 RGB, "
            "a PIL image, or an iterable of them"
        )


def _checked(image: np.ndarray) -> Found:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        return ValueError(
            f"an array of shape {image.shape} and type {image.dtype}: an image is (h, w, 3) uint8 RGB; "
            "give several images as a list"
        )
    return InputSource("array", None, image)


def find_sources(places: Iterable[str]) -> Iterator[Found]:
    """Every source at the places, in their order; folders and patterns sorted by name.

    What has the name of an image may be anything, a FIFO, too: the reader refuses it.
    """
    for place in places:
        if place == STDIN:
            yield from _of_list(sys.stdin.buffer.read(), Path("stdin"), Path())
        elif place.lower().endswith(LIST_SUFFIX) and os.path.isfile(place):
            try:
                data = read_text(Path(place), what="list of images").encode()
            except ValueError as error:
                yield error
            else:
                yield from _of_list(data, Path(place), Path(place).parent)
        else:
            yield from _of_place(place)


def _of_list(data: bytes, name: Path, folder: Path) -> Iterator[Found]:
    """One place a line; empty lines and those that begin with # are skipped.

    A relative path is looked for from the list's folder, then from the working directory.
    """
    try:
        lines = decode_text(data, name, what="list of images").split("\n")
    except ValueError as error:
        yield error
        return
    numbered = [(number, line.strip()) for number, line in enumerate(lines, start=1)]
    numbered = [(number, line) for number, line in numbered if line and not line.startswith("#")]
    if not numbered:
        yield ValueError(f"{name}: names no image; a list has one path, pattern or address a line")
    for number, line in numbered:
        near = line if URL_SCHEME.match(line) else os.path.join(folder, line)
        place = near if os.path.lexists(near) or (glob.has_magic(line) and glob.glob(near)) else line
        for found in _of_place(place):
            is_error = isinstance(found, Exception)
            yield type(found)(f"{name}: line {number}: {found}") if is_error else found


def _of_place(place: str) -> Iterator[Found]:
    """The sources at a place that is no list."""
    scheme = URL_SCHEME.match(place)
    camera = CAMERA.fullmatch(place)
    if scheme and scheme[1].lower() not in ("http", "https"):
        yield ValueError(
            f"{place}: only http:// and https:// addresses are fetched; download it and name the file"
        )
    elif scheme:
        yield InputSource("video" if _is_video(urlsplit(place).path) else "image", place)
    elif os.path.isdir(place):
        yield from _of_folder(place)
    elif os.path.lexists(place):  # of a link to nowhere, too: the reader names it
        yield _file(place)
    elif camera:
        yield InputSource("camera", f"webcam:{camera[1]}")
    elif glob.has_magic(place):
        matches = {os.path.realpath(match): match for match in sorted(glob.glob(place, recursive=True))[::-1]}
        if not matches:
            yield FileNotFoundError(f"{place}: no file matches this pattern")
        for match in sorted(matches.values()):  # each file once, also below links that lead in a circle
            yield from _of_folder(match, empty=True) if os.path.isdir(match) else _of_place(match)
    else:
        yield FileNotFoundError(f"{place}: no such image or folder{_near(place)}")


def _file(path: str) -> InputSource:
    return InputSource("video" if _is_video(path) else "image", str(Path(path)))


def _is_video(name: str) -> bool:
    return PurePath(name).suffix.lower() in VIDEO_SUFFIXES


def _near(place: str) -> str:
    """A name in the same folder that may be meant."""
    folder, name = os.path.split(place)
    try:
        return did_you_mean(name, sorted(os.listdir(folder or os.curdir))[:10_000], quoted=True)
    except OSError:
        return f"; there is no folder {folder}"


def _of_folder(folder: str, empty: bool = False) -> Iterator[Found]:
    """What has the name of an image or a video in a folder and below it, sorted by name.

    Links to folders are followed, each folder once; hidden ones are skipped. empty: whether it may hold none.
    """
    wanted = (*SUFFIXES, *VIDEO_SUFFIXES)
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        there = os.path.realpath(parent)
        if there in seen:
            folders.clear()
            continue
        seen.add(there)
        names = [*files, *(name for name in folders if name.lower().endswith(wanted))]
        for name in sorted(name for name in names if name.lower().endswith(wanted)):
            empty = True
            yield _file(os.path.join(parent, name))
        folders[:] = sorted(set(folders) - {name for name in folders if name.startswith(".")} - set(names))
    if not empty:
        yield ValueError(
            f"{folder}: no image or video in this folder or below it; looked for {', '.join(wanted)}"
        )
