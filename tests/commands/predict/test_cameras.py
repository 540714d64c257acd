"""Cameras: their frames, one that is not there, and one that stops; a fake stands for OpenCV's."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from detectors.commands.predict import command
from detectors.commands.predict.frames import Reading, read_frames
from detectors.commands.predict.inputs import find_sources
from detectors.data.images import read_image
from tests.commands.predict.test_predictor import images, run  # noqa: F401


class FakeCamera:
    """cv2.VideoCapture of a camera that gives `frames` frames, the last of which may not be decodable."""

    def __init__(self, frames: int, last_is_damaged: bool = False):
        self.left = frames
        self.last_is_damaged = last_is_damaged
        self.released = False

    def isOpened(self) -> bool:
        return self.left > 0

    def get(self, setting: int) -> float:
        return 0.0  # as a camera that states neither size nor rate

    def grab(self) -> bool:
        self.left -= 1
        return self.left >= 0

    def retrieve(self) -> tuple[bool, np.ndarray | None]:
        if self.last_is_damaged and self.left == 0:
            return False, None
        return True, np.full((48, 64, 3), (0, 0, 200), np.uint8)

    def release(self) -> None:
        self.released = True


@pytest.fixture
def camera(monkeypatch):
    """Puts a FakeCamera in the place of every camera, and returns it."""

    def put(*args) -> FakeCamera:
        fake = FakeCamera(*args)
        monkeypatch.setattr(cv2, "VideoCapture", lambda place, kind: fake)
        return fake

    return put


def read(**settings) -> list:
    return list(read_frames(find_sources(["webcam:0"]), read_image, Reading(**settings)))


def test_a_missing_camera_is_one_line(capfd):
    (error,) = read_frames(find_sources(["webcam:99"]), read_image, Reading())
    assert str(error).startswith("webcam:99: there is no such camera, or another program uses it")
    assert capfd.readouterr().err == ""


def test_a_camera_that_cannot_be_opened_is_one_line(camera):
    fake = camera(0)
    (error,) = read()
    assert str(error) == (
        "webcam:0: there is no such camera, or another program uses it; "
        "on Linux, `ls /dev/video*` lists the cameras, and webcam:1 is /dev/video1"
    )
    assert fake.released


def test_a_camera_gives_frames_until_enough_are_read(camera):
    fake = camera(99)
    frames = read(every=9, limit=2)
    assert [frame.name for frame in frames] == ["webcam:0#0", "webcam:0#9"]
    np.testing.assert_array_equal(frames[0].image[0, 0], [200, 0, 0])  # RGB
    assert frames[0].rate == 25 / 9 and fake.released


@pytest.mark.parametrize(("frames", "damaged"), [(5, False), (6, True)])
def test_a_camera_that_stops_gives_its_frames_and_one_line(camera, frames, damaged):
    """It delivers nothing more, or something that cannot be decoded."""
    fake = camera(frames, damaged)
    *seen, error = read()
    assert [frame.number for frame in seen] == [0, 1, 2, 3, 4]
    assert str(error) == "webcam:0: the camera gave no more images after 5"
    assert fake.released


@pytest.mark.parametrize("frames", [0, 3])
def test_the_command_says_it_in_one_line_and_keeps_what_it_saw(camera, run, tmp_path, capsys, frames):  # noqa: F811
    camera(frames)
    with pytest.raises(SystemExit) as ended:
        command.main(
            [str(run), "webcam:0", "--format", f"csv={tmp_path / 'x.csv'}", "--output", str(tmp_path)]
        )
    assert ended.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "webcam" in line]
    assert len(lines) == 1 and lines[0].startswith("error: webcam:0: the")
    assert (tmp_path / "x.csv").exists()
    assert (tmp_path / "webcam-0.mp4").exists() == (frames > 0)
