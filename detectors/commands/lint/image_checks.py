"""Opens every image file once: can training decode it, and what is unusual about it?"""

from __future__ import annotations

import hashlib
import io
import re
import signal
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from detectors.commands.lint.findings import Finding, Split
from detectors.data.image_headers import ORIENTATION, PIXEL_LIMIT
from detectors.data.images import ImageError, check_size, read_image

PNG_DEPTH = 24  # offset in a PNG file of the byte that holds the bits per channel
THUMBNAIL_SIDE = 8  # pixels; thumbnails of a picture and of a re-encoded copy are nearly the same
MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)  # a JPEG marker, except fill bytes and restarts
STANDALONE = (0x01, 0xD8)  # JPEG markers without a length
END = 0xD9
IMAGES_PER_TASK = 16  # files that a worker process takes at a time


class ImageFacts(NamedTuple):
    """What was found in an image file."""

    size: tuple[int, int] | None = None  # (height, width) as decoded; None if it cannot be decoded
    fault: tuple[str, str] | None = None  # (kind, what): why it cannot be decoded
    notes: tuple[tuple[str, str], ...] = ()  # (kind, what) of everything unusual
    orientation: int = 1  # EXIF orientation, 1 to 8
    digest: bytes = b""  # hash of the decoded pixels
    thumbnail: bytes = b""  # THUMBNAIL_SIDE x THUMBNAIL_SIDE grey values


def inspect(path: str, max_pixels: int = PIXEL_LIMIT) -> ImageFacts:
    """Decodes a file as training does. Never raises: every exception becomes a fault of the file."""
    try:
        image = read_image(path, max_pixels)
    except ImageError as error:
        return ImageFacts(fault=(error.problem.kind, error.problem.what))
    except Exception as error:  # a bug in a decoder must not stop the check of the other files
        what = f"the image cannot be decoded ({type(error).__name__}: {error})"
        return ImageFacts(fault=("broken-image", what))
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image))
    small = cv2.resize(image, (THUMBNAIL_SIDE, THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA)
    notes, orientation = _notes(Path(path).read_bytes())
    return ImageFacts(
        size=image.shape[:2],
        notes=notes,
        orientation=orientation,
        digest=digest.digest(),
        thumbnail=small.mean(2).astype(np.uint8).tobytes(),
    )


def _notes(data: bytes) -> tuple[tuple[tuple[str, str], ...], int]:
    """What is unusual about a decodable file: (kind, what) pairs, and the EXIF orientation."""
    notes = []
    extra = trailing_bytes(data)
    if extra:
        zeros = "" if data[-extra:].strip(b"\0") else " zero"
        notes.append(("trailing-bytes", f"{extra:,}{zeros} bytes follow the image"))
    try:
        with Image.open(io.BytesIO(data)) as image:
            mode = image.mode
            has_transparent_colour = "transparency" in image.info
            orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # the decoder used in training reads more formats than Pillow
        return tuple(notes), 1
    if mode in ("1", "L", "LA", "I;16", "I", "F"):
        notes.append(("grayscale", "one channel, read as three equal ones"))
    if mode == "CMYK":
        notes.append(("cmyk", "CMYK, converted to RGB"))
    if mode.startswith("I") or (data[:4] == b"\x89PNG" and data[PNG_DEPTH] == 16):
        notes.append(("16-bit", "16 bits per channel; the lower 8 are dropped"))
    if mode in ("LA", "PA", "RGBA", "La", "RGBa") or has_transparent_colour:
        notes.append(("transparent", "transparency is dropped, so hidden pixels become visible"))
    return tuple(notes), orientation if orientation in range(1, 9) else 1


def trailing_bytes(data: bytes) -> int:
    """Number of bytes after the end of a JPEG; 0 for other files and for a JPEG without an end marker.

    Walks from marker to marker and skips segments by their length: a thumbnail in a segment is a JPEG with an
    end marker of its own.
    """
    if data[:2] != b"\xff\xd8":
        return 0
    position = 2
    while True:
        marker = MARKER.search(data, position)
        if marker is None:
            return 0
        position = marker.end()
        code = data[position - 1]
        if code == END:
            return len(data) - position
        if code not in STANDALONE:
            position += int.from_bytes(data[position : position + 2], "big")


def inspect_all(paths: Iterable[str], workers: int, max_pixels: int = PIXEL_LIMIT) -> dict[str, ImageFacts]:
    """Path -> ImageFacts in the given order, each file inspected once. Shows a progress bar on stderr.

    workers: number of processes; 0 inspects in this one.
    """
    paths = list(dict.fromkeys(paths))
    inspect_one = partial(inspect, max_pixels=max_pixels)
    if workers == 0:
        return _collect(paths, map(inspect_one, paths))
    try:
        with ProcessPoolExecutor(workers, initializer=_start_worker) as pool:
            return _collect(paths, pool.map(inspect_one, paths, chunksize=IMAGES_PER_TASK))
    except BrokenProcessPool as error:
        raise ValueError(
            "a process that decodes images was killed, perhaps because memory ran out; try fewer --workers"
        ) from error


def _collect(paths: Sequence[str], results: Iterable[ImageFacts]) -> dict[str, ImageFacts]:
    bar = tqdm(results, total=len(paths), desc="images", unit="image", leave=False)
    return dict(zip(paths, bar, strict=True))


def _start_worker() -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the main process, which ends the workers


def image_findings(splits: Sequence[Split], facts: dict[str, ImageFacts]) -> list[Finding]:
    """Findings about image files, and about sizes that differ from the annotations.

    A file is reported once, in the first split that lists it; its size is compared with every annotation.
    """
    findings = []
    seen = set()
    for split in splits:
        for index, path in enumerate(split.annotations.paths):
            if path not in seen:
                findings += _file_findings(split, index, facts[path])
            if facts[path].size is not None:
                findings += _size_findings(split, index, facts[path])
            seen.add(path)
    return findings


def _file_findings(split: Split, index: int, facts: ImageFacts) -> list[Finding]:
    notes = facts.notes if facts.fault is None else [facts.fault]
    return [split.image_finding(kind, index, what) for kind, what in notes]


def _size_findings(split: Split, index: int, facts: ImageFacts) -> list[Finding]:
    """At most one finding: another size than annotated (an error), or an orientation tag (a warning).

    An orientation tag is an error only if the annotation describes the rotated image.
    """
    height, width = split.annotations.sizes[index].tolist()
    orientation = facts.orientation
    try:
        check_size(facts.size, (height, width), split.annotations.paths[index])
    except ImageError as error:
        what = error.problem.what
        if orientation != 1:
            what += f"; the camera's orientation tag is {orientation}"
        file = split.annotation_file(index)
        return [split.image_finding("size-differs", index, what, file=file)]
    if orientation == 1:
        return []
    what = f"orientation tag {orientation} is ignored; the stored pixels are {width} x {height}, as annotated"
    return [split.image_finding("rotated", index, what)]
