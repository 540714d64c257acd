"""Reading ahead in a thread: the same items in the same order, errors where they belong, and an end."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from detectors.commands.predict.frames import Reading, read_ahead, read_frames
from detectors.commands.predict.inputs import InputSource
from detectors.data.images import ImageError


def numbers(count: int, log: list, fail_at: int | None = None):
    try:
        for number in range(count):
            if number == fail_at:
                raise RuntimeError(f"at {number}")
            log.append(number)
            yield number
    finally:
        log.append("closed")


def test_items_come_in_order_and_the_thread_ends():
    log: list = []
    assert list(read_ahead(numbers(50, log), 3)) == list(range(50))
    assert log[-1] == "closed"
    assert not any(thread.name == "read ahead" for thread in threading.enumerate())


def test_it_is_ahead_by_the_depth_only():
    log: list = []
    items = read_ahead(numbers(50, log), 4)
    assert next(items) == 0
    time.sleep(0.3)
    assert len(log) in (5, 6)  # one was taken, four wait, one is being handed over
    items.close()
    assert log[-1] == "closed"
    assert not any(thread.name == "read ahead" for thread in threading.enumerate())


def test_an_error_comes_behind_the_items_before_it():
    items = read_ahead(numbers(9, [], fail_at=3), 2)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(RuntimeError, match="at 3"):
        next(items)


def test_errors_stand_where_their_frames_would():
    def read(path: str) -> np.ndarray:
        if path == "bad":
            raise ImageError(path, "broken")
        return np.zeros((2, 2, 3), np.uint8)

    lost = FileNotFoundError("gone")
    sources = [InputSource("image", "a"), InputSource("image", "bad"), lost, InputSource("image", "b")]
    frames = list(read_frames(sources, read, Reading()))
    assert [str(f) if isinstance(f, Exception) else f.name for f in frames] == [
        "a",
        "bad: broken",
        "gone",
        "b",
    ]
