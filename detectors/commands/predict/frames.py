"""From sources to pixels: images, and the frames of videos and cameras, one after another; read ahead."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from detectors.commands.predict.fetched import fetched
from detectors.commands.predict.inputs import Found, InputSource
from detectors.commands.predict.videos import camera_frames, video_frames
from detectors.data.images import ImageError

_Item = TypeVar("_Item")
CLOSING = 5.0  # seconds that a reader may take to end


class Frame(NamedTuple):
    """An image, or one of a video."""

    source: InputSource
    image: np.ndarray  # (h, w, 3) uint8 RGB
    number: int | None = None  # in its video, from 0; None for an image
    rate: float | None = None  # frames a second of what is read of its video

    @property
    def name(self) -> str | None:
        """What lines and errors call it: the source's name, clip.mp4#12; None for an array."""
        return self.source.name if self.number is None else f"{self.source.name}#{self.number}"


@dataclass(frozen=True)
class Reading:
    """Which frames of videos and cameras are read."""

    every: int = 1  # of so many frames, the first
    limit: int | None = None  # the most frames of each

    def __post_init__(self):
        for name, value in (("every", self.every), ("frames", self.limit)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: must be 1 or more")


Read = Frame | ValueError | OSError  # the error that takes the place of what cannot be read


def read_frames(
    sources: Iterable[Found], read: Callable[[str], np.ndarray], reading: Reading
) -> Generator[Read]:
    """Every frame of the sources, in order. read: decodes an image file; see Model."""
    for source in sources:
        if isinstance(source, Exception):
            yield source
            continue
        try:
            yield from _frames_of(source, read, reading)
        except ImageError as error:
            yield error


def _frames_of(source: InputSource, read: Callable[[str], np.ndarray], reading: Reading) -> Iterator[Frame]:
    if source.kind == "array":
        yield Frame(source, source.image)
        return
    if source.kind == "camera":
        number = int(source.name.partition(":")[2])
        for frame, rate, image in camera_frames(number, source.name, reading.every, reading.limit):
            yield Frame(source, image, frame, rate)
        return
    with _as_file(source) as path:
        if source.kind == "image":
            yield Frame(source, read(path))
            return
        for frame, rate, image in video_frames(path, source.name, reading.every, reading.limit):
            yield Frame(source, image, frame, rate)


@contextmanager
def _as_file(source: InputSource) -> Iterator[str]:
    """A path of the source's content. An error about a temporary file names the address."""
    if not source.address:
        yield source.name
        return
    with fetched(source.name) as path:
        try:
            yield str(path)
        except ImageError as error:
            raise ImageError(source.name, *error.args[1:]) from error


class _End(NamedTuple):
    error: BaseException | None


def read_ahead(items: Generator[_Item], depth: int) -> Iterator[_Item]:
    """The items, made in a thread that is up to `depth` of them ahead. It ends with this iterator."""
    made: queue.Queue = queue.Queue(depth)
    stop = threading.Event()

    def make() -> None:
        error = None
        try:
            with closing(items):
                for item in items:
                    if not _put(made, item, stop):
                        break
        except BaseException as caught:  # raised again where the items are used
            error = caught
        _put(made, _End(error), stop)

    thread = threading.Thread(target=make, name="read ahead", daemon=True)
    thread.start()
    try:
        while not isinstance(item := made.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stop.set()
        thread.join(CLOSING)


def _put(made: queue.Queue, item: object, stop: threading.Event) -> bool:
    """False if nobody wants it any more."""
    while not stop.is_set():
        try:
            made.put(item, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False
