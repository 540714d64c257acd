"""Every image file opened once: can it be decoded as in training, and what is unusual about it?"""

from __future__ import annotations

import hashlib
import io
import os
import re
import signal
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from detectors.commands.lint.findings import Finding, Split
from detectors.data.images import ImageError, check_size, read_image

ORIENTATION = 0x0112  # EXIF's tag; 1 is upright
PNG_DEPTH = 24  # byte of a PNG file that holds the bits per channel
LOOK = 8  # rows and columns of the small grey picture by which copies that were saved anew are known
MARKER = re.compile(
    rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL
)  # of a JPEG, no stuffed byte, fill byte or restart
STANDALONE = (0x01, 0xD8)  # markers without a length
END = 0xD9
IMAGES_PER_TASK = 16  # files that a worker takes at once


class Facts(NamedTuple):
    """What an image file is."""

    size: tuple[int, int] | None = None  # (height, width) as decoded; None if it cannot be
    fault: tuple[str, str] | None = None  # (kind, what): why it cannot be decoded
    notes: tuple[tuple[str, str], ...] = ()  # (kind, what) of all that is unusual
    orientation: int = 1  # EXIF's, 1 to 8
    digest: bytes = b""  # of the decoded pixels
    look: bytes = b""  # LOOK x LOOK grey values


def inspect(path: str) -> Facts:
    """Decodes a file as training does. Never raises: whatever goes wrong with one file is that file's fault."""
    try:
        image = read_image(path)
    except ImageError as error:
        return Facts(fault=(error.problem.kind, error.problem.what))
    except Exception as error:  # a fault inside of a decoder: the other files must still be seen
        return Facts(fault=("broken-image", f"the image cannot be decoded ({type(error).__name__}: {error})"))
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image))
    look = cv2.resize(image, (LOOK, LOOK), interpolation=cv2.INTER_AREA).mean(2).astype(np.uint8)
    notes, orientation = _notes(Path(path).read_bytes())
    return Facts(image.shape[:2], None, notes, orientation, digest.digest(), look.tobytes())


def _notes(data: bytes) -> tuple[tuple[tuple[str, str], ...], int]:
    """((kind, what), ...) and EXIF's orientation of a file that can be decoded."""
    notes = []
    if extra := trailing_bytes(data):
        zeros = " zero" * (not data[-extra:].strip(b"\0"))
        notes.append(("trailing-bytes", f"{extra:,}{zeros} bytes follow the image"))
    try:
        with Image.open(io.BytesIO(data)) as image:
            mode, clear, orientation = (
                image.mode,
                "transparency" in image.info,
                image.getexif().get(ORIENTATION, 1),
            )
    except Exception:  # Pillow knows fewer files than the decoder that training uses
        return tuple(notes), 1
    if mode in ("1", "L", "LA", "I;16", "I", "F"):
        notes.append(("grayscale", "one channel, read as three equal ones"))
    if mode == "CMYK":
        notes.append(("cmyk", "four printing inks, converted to RGB"))
    if mode.startswith("I") or (data[:4] == b"\x89PNG" and data[PNG_DEPTH] == 16):
        notes.append(("16-bit", "16 bits per channel, of which the lower 8 are dropped"))
    if mode in ("LA", "PA", "RGBA", "La", "RGBa") or clear:
        notes.append(("transparent", "transparency is dropped: what it hides is seen"))
    return tuple(notes), orientation if orientation in range(1, 9) else 1


def trailing_bytes(data: bytes) -> int:
    """How many bytes follow the end of a JPEG; 0 for other files, and where no end is found.

    Goes from marker to marker: segments are jumped over by their length, since a thumbnail in one is a JPEG with an end of its own.
    """
    if data[:2] != b"\xff\xd8":
        return 0
    place = 2
    while found := MARKER.search(data, place):
        code, place = data[found.end() - 1], found.end()
        if code == END:
            return len(data) - place
        if code not in STANDALONE:
            place += int.from_bytes(data[place : place + 2], "big")
    return 0


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def inspect_all(paths: Iterable[str], workers: int) -> dict[str, Facts]:
    """Path -> Facts, each file once, in the given order. workers: processes; 0 works in this one. A bar on stderr."""
    paths = list(dict.fromkeys(paths))
    bar = {"total": len(paths), "desc": "images", "unit": "image", "leave": False}
    if workers == 0:
        return dict(zip(paths, tqdm(map(inspect, paths), **bar), strict=True))
    try:
        with ProcessPoolExecutor(workers, initializer=_start_worker) as pool:
            return dict(
                zip(paths, tqdm(pool.map(inspect, paths, chunksize=IMAGES_PER_TASK), **bar), strict=True)
            )
    except BrokenProcessPool as error:
        raise ValueError(
            "a process that decodes images was killed, perhaps for want of memory; try fewer --workers"
        ) from error


def _start_worker() -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the main process, which ends the workers


def image_findings(splits: Sequence[Split], facts: dict[str, Facts]) -> list[Finding]:
    """What is wrong or unusual about each file, once, in the first split that has it; sizes against every annotation."""
    found, seen = [], set()
    for split in splits:
        for index, path in enumerate(split.annotations.paths):
            if path not in seen:
                found += _of_file(split, index, facts[path])
            if facts[path].size is not None:
                found += _of_size(split, index, facts[path])
            seen.add(path)
    return found


def _of_file(split: Split, index: int, fact: Facts) -> list[Finding]:
    return [
        split.image_finding(kind, index, what)
        for kind, what in (fact.notes if fact.fault is None else [fact.fault])
    ]


def _of_size(split: Split, index: int, fact: Facts) -> list[Finding]:
    """One finding at most: an image that the camera turned is an error only where the annotation speaks of the turned one."""
    height, width = split.annotations.sizes[index].tolist()
    try:
        check_size(fact.size, (height, width), split.annotations.paths[index])
    except ImageError as error:
        tag = f"; the camera's orientation tag says {fact.orientation}" if fact.orientation != 1 else ""
        return [split.image_finding("size-differs", index, error.problem.what + tag, file=split.file(index))]
    if fact.orientation == 1:
        return []
    what = f"orientation tag {fact.orientation}; the stored pixels are used, {width} x {height}, as the annotation says"
    return [split.image_finding("rotated", index, what)]
