"""Frames of videos: which are read, what a damaged file gives, and a file that is written whole."""

from __future__ import annotations

import os

import cv2
import numpy as np
import pytest

from detectors.commands.predict.frames import Reading, read_frames
from detectors.commands.predict.inputs import find_sources
from detectors.commands.predict.videos import VideoFile, usual_rate
from detectors.data.images import read_image


@pytest.fixture
def video(tmp_path):
    """Twenty frames, each a little brighter, as a motion JPEG."""
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for number in range(20):
        picture = np.full((48, 64, 3), 10 * number, np.uint8)
        picture[..., 2] = 255  # red in OpenCV's order
        writer.write(picture)
    writer.release()
    return path


def read(path, **settings) -> list:
    return list(read_frames(find_sources([str(path)]), read_image, Reading(**settings)))


@pytest.mark.parametrize(
    ("settings", "numbers"),
    [
        ({}, range(20)),
        ({"every": 6}, range(0, 20, 6)),
        ({"limit": 3}, range(3)),
        ({"every": 4, "limit": 2}, (0, 4)),
    ],
)
def test_frames_are_numbered_and_in_order(video, settings, numbers):
    frames = read(video, **settings)
    assert [frame.number for frame in frames] == list(numbers)
    assert frames[-1].name == f"{video}#{numbers[-1]}"
    assert frames[0].rate == 10 / settings.get("every", 1)
    for frame in frames:
        np.testing.assert_allclose(
            frame.image.mean((0, 1)), [255, 10 * frame.number, 10 * frame.number], atol=6
        )


def test_a_video_that_ends_early_gives_its_frames_and_then_an_error(tmp_path):
    path = tmp_path / "cut.avi"
    rng = np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (320, 240))
    for _ in range(60):
        writer.write(cv2.resize(rng.integers(0, 255, (12, 16, 3)).astype(np.uint8), (320, 240)))
    writer.release()
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    *frames, error = read(path)
    assert [frame.number for frame in frames] == list(range(len(frames))) and len(frames) > 20
    assert str(error) == (
        f"{path}: the video ends after {len(frames)} of 60 frames: it is damaged or cut short"
    )
    assert len(read(path, limit=5)) == 5  # what is wanted of it is there


@pytest.mark.parametrize("content", [b"", b"a text\n" * 500])
def test_what_is_no_video_is_one_line(tmp_path, content, capfd):
    path = tmp_path / "text.mp4"
    path.write_bytes(content)
    (error,) = read(path)
    assert str(error).startswith(f"{path}: the video cannot be decoded: it is damaged")
    assert capfd.readouterr() == ("", "")  # nothing of FFmpeg's and OpenCV's


def test_special_files_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    (error,) = read(tmp_path / "pipe.mp4")
    assert "the video cannot be read (it is a FIFO, not a file)" in str(error)


@pytest.mark.parametrize("name", ["every", "limit"])
def test_numbers_of_frames_are_positive(name):
    with pytest.raises(ValueError, match="=0: must be 1 or more"):
        Reading(**{name: 0})


def test_a_written_video_appears_when_it_is_finished(tmp_path):
    file = VideoFile(tmp_path / "new" / "out.mp4", 12.5)
    for number in range(9):
        file.add(np.full((50, 66, 3), (200, 20 * number, 0), np.uint8))
    assert not file.path.exists()
    file.finish()
    assert os.listdir(file.path.parent) == ["out.mp4"]
    frames = read(file.path)
    assert len(frames) == 9 and frames[0].rate == 12.5
    np.testing.assert_allclose(frames[5].image.mean((0, 1)), [200, 100, 0], atol=12)


def test_rates_that_cannot_be_right():
    assert [usual_rate(rate) for rate in (30.0, 0.0, -1.0, float("nan"), 90_000.0)] == [30, 25, 25, 25, 25]
