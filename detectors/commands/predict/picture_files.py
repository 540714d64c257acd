"""The files about what was looked at: names that no two sources share, drawn pictures and videos, crops."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import numpy as np
import torch

from detectors.commands.predict.frames import Frame
from detectors.commands.predict.predictor import Prediction
from detectors.commands.predict.videos import VideoFile
from detectors.data.files import atomic_file
from detectors.drawing.drawn_boxes import draw_detections
from detectors.drawing.framed_images import png_bytes
from detectors.structures import Detections

UNSAFE = re.compile(r"[\x00-\x1f\x7f/\\:*?\"<>|]")  # in a folder's name, on some system


def picture_paths(paths: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """Where each image's picture goes: folder/STEM.png, and a longer name where two images would share one.

    x.jpg and x.png give x.jpg.png and x.png.png; a/x.jpg and b/x.jpg give a/x.png and b/x.png. What still
    shares a name, such as one file in two spellings, gets a number: x-2.png.
    """
    targets = {path: [Path(f"{path.stem}.png")] for path in paths}
    for path in paths:
        resolved = Path(os.path.realpath(path))  # of a link to itself, too
        for depth in range(len(resolved.parents)):
            parents = Path(*resolved.parts[-1 - depth : -1]) if depth else Path()
            targets[path] += [parents / f"{path.stem}.png", parents / f"{path.name}.png"]
    chosen: dict[Path, Path] = {}
    taken: set[str] = set()
    for level in range(max(map(len, targets.values()), default=0)):
        names = {path: t[min(level, len(t) - 1)] for path, t in targets.items() if path not in chosen}
        wanted = Counter(map(_same_file, names.values()))
        free = {path: name for path, name in names.items() if wanted[_same_file(name)] == 1}
        chosen |= {path: name for path, name in free.items() if _same_file(name) not in taken}
        taken = set(map(_same_file, chosen.values()))
        if len(chosen) == len(targets):
            break
    for path in [path for path in targets if path not in chosen]:
        numbered = (Path(f"{path.stem}-{n}.png") for n in count(2))
        chosen[path] = next(name for name in numbered if _same_file(name) not in taken)
        taken.add(_same_file(chosen[path]))
    return {path: folder / name for path, name in chosen.items()}


def _same_file(name: Path) -> str:
    """Equal for names that some file systems cannot tell apart: x.png and X.png."""
    return str(name).casefold()


class Pictures:
    """Draws what is found: a .png for each image, an .mp4 for each video and camera."""

    def __init__(self):
        self._video: VideoFile | None = None  # the one that is being written

    def add(self, frame: Frame, prediction: Prediction, target: Path) -> None:
        """target: the .png of the image, or of the video, without the frame's number."""
        picture = draw_detections(frame.image, _as_detections(prediction), prediction.class_names)
        if frame.number is None:
            self.finish()
            write_picture(target, picture)
            return
        path = target.with_suffix(".mp4")
        if self._video is None or self._video.path != path:
            self.finish()
            self._video = VideoFile(path, frame.rate)
        self._video.add(picture)

    def finish(self) -> None:
        """Gives the video its name; one that was interrupted ends with its last frame."""
        if self._video is not None:
            self._video.finish()
            self._video = None


def write_picture(target: Path, picture: np.ndarray) -> None:
    """picture: (h, w, 3) uint8 RGB. ValueError if it cannot be written."""
    try:
        with atomic_file(target) as file:
            file.write(png_bytes(picture))
    except OSError as error:
        raise ValueError(f"{target}: the picture could not be written ({error.strerror})") from error


def _as_detections(prediction: Prediction) -> Detections:
    return Detections(
        torch.zeros(len(prediction), dtype=torch.int64),
        torch.from_numpy(prediction.boxes_xyxy),
        torch.from_numpy(prediction.scores),
        torch.from_numpy(prediction.labels),
    )


def class_folders(class_names: Sequence[str]) -> list[str]:
    """The name of a folder for each class: its own, without what a path cannot hold; no two are the same."""
    plain = [UNSAFE.sub("_", name).strip(" .") for name in class_names]
    twice = {name for name, number in Counter(name.casefold() for name in plain).items() if number > 1}
    return [
        name if name and name.casefold() not in twice else f"{name or 'class'}-{label}"
        for label, name in enumerate(plain)
    ]


def write_crops(frame: Frame, prediction: Prediction, folder: Path, name: Path) -> None:
    """The pixels of each box as folder/CLASS/NAME-1.png, the best score first."""
    folders = class_folders(prediction.class_names)
    height, width = prediction.size
    edges = prediction.boxes_xyxy.astype(np.float64)
    low = np.floor(edges[:, :2]).clip(0).astype(int)
    high = np.minimum(np.ceil(edges[:, 2:]), (width, height)).astype(int)
    for row, ((x0, y0), (x1, y1)) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        if x0 < x1 and y0 < y1:
            target = folder / folders[prediction.labels[row]] / name.with_name(f"{name.name}-{row + 1}.png")
            write_picture(target, frame.image[y0:y1, x0:x1])
