"""Frames of videos and cameras, read and written through OpenCV."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import numpy as np

from detectors.data.files import require_regular
from detectors.data.image_headers import PIXEL_LIMIT
from detectors.data.images import ImageError

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # quiet; OpenCV reads it when it first opens a video

CODEC = "mp4v"  # the one that OpenCV's wheels write into .mp4
USUAL_RATE = 25.0  # frames a second of what does not say
LARGEST_RATE = 1000.0
COMPLETE = 0.9  # share of the frames that a video states; statements are estimates


@contextmanager
def _opened(place: str | int, name: str, reason: str) -> Iterator[cv2.VideoCapture]:
    """ImageError with the reason if OpenCV cannot open it. FFmpeg's and OpenCV's own lines are not shown."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        capture = cv2.VideoCapture(place, cv2.CAP_ANY if isinstance(place, int) else cv2.CAP_FFMPEG)
        try:
            if not capture.isOpened():
                raise ImageError(name, reason)
            yield capture
        finally:
            capture.release()
    finally:
        cv2.utils.logging.setLogLevel(level)


def video_frames(
    path: str, name: str, every: int, limit: int | None
) -> Iterator[tuple[int, float, np.ndarray]]:
    """(number from 0, frames a second of what is read, (h, w, 3) uint8 RGB) of each `every`th frame.

    limit: the most frames that are returned. name: of the video in messages. ImageError for what is no
    video, and behind the last frame of one that ends before the end that it states.
    """
    try:
        require_regular(path)
    except OSError as error:
        raise ImageError(name, f"the video cannot be read ({error.strerror})") from error
    unreadable = (
        "the video cannot be decoded: it is damaged, or of a kind that OpenCV does not know; try to play it"
    )
    with _opened(path, name, unreadable) as capture:
        stated = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        count = 0
        for number, rate, image in _frames(capture, name, every, limit):
            count = number + 1
            yield number, rate, image
        if count == 0:
            raise ImageError(name, unreadable)
        ended = limit is None or -(-count // every) < limit
        if ended and count + every - 1 < COMPLETE * stated:
            raise ImageError(
                name, f"the video ends after {count} of {stated} frames: it is damaged or cut short"
            )


def camera_frames(
    number: int, name: str, every: int, limit: int | None
) -> Iterator[tuple[int, float, np.ndarray]]:
    """video_frames() of a camera. It ends at `limit`, or with an ImageError when the camera is gone."""
    missing = (
        "there is no such camera, or another program uses it; "
        "on Linux, `ls /dev/video*` lists the cameras, and webcam:1 is /dev/video1"
    )
    with _opened(number, name, missing) as capture:
        count = 0
        for frame in _frames(capture, name, every, limit):
            count += 1
            yield frame
        if count != limit:
            raise ImageError(name, f"the camera gave no more images after {count}")


def _frames(
    capture: cv2.VideoCapture, name: str, every: int, limit: int | None
) -> Iterator[tuple[int, float, np.ndarray]]:
    width, height = capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
    if width * height > PIXEL_LIMIT:
        raise ImageError(name, f"its frames have {width:.0f} x {height:.0f} pixels, more than {PIXEL_LIMIT}")
    rate = usual_rate(capture.get(cv2.CAP_PROP_FPS)) / every
    number = 0
    while limit is None or number < every * limit:
        there = capture.grab()
        if not there:
            return
        if number % every == 0:
            there, image = capture.retrieve()
            if not there or image is None:
                return
            yield number, rate, np.ascontiguousarray(image[..., ::-1])
        number += 1


def usual_rate(rate: float) -> float:
    """The rate, or USUAL_RATE in place of one that cannot be right, as cameras and damaged files have it."""
    return rate if 0 < rate <= LARGEST_RATE else USUAL_RATE


class VideoFile:
    """A video that is written frame by frame, under a temporary name until it is complete."""

    def __init__(self, path: Path, rate: float):
        if path.is_dir():
            raise ValueError(f"{path}: a folder lies where a file is to be written; move it away")
        self.path = path
        self.rate = rate
        self.draft = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def add(self, picture: np.ndarray) -> None:
        """picture: (h, w, 3) uint8 RGB; all of one size. ValueError if the file cannot be written."""
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._size = picture.shape[1::-1]
            codec = cv2.VideoWriter_fourcc(*CODEC)
            self._writer = cv2.VideoWriter(str(self.draft), cv2.CAP_FFMPEG, codec, self.rate, self._size)
            if not self._writer.isOpened():
                raise ValueError(
                    f"{self.path}: the video could not be written; is there room and permission?"
                )
        self._writer.write(np.ascontiguousarray(picture[..., ::-1]))

    def finish(self) -> None:
        """Gives the file its name; without a frame there is none."""
        if self._writer is not None:
            self._writer.release()
            os.replace(self.draft, self.path)
            self._writer = None

    def discard(self) -> None:
        """Removes the draft of a video that was not finished."""
        if self._writer is not None:
            self._writer.release()
            with suppress(OSError):
                self.draft.unlink(missing_ok=True)
