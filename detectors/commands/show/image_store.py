"""The images of the page: those dropped on it, and those of a data set; with what each run makes of them."""

from __future__ import annotations

import tempfile
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from detectors.annotations import Annotations
from detectors.commands.show.shown_run import Look, ShownRun
from detectors.data.images import ImageError, read_image
from detectors.drawing.framed_images import fit_image, jpeg_bytes

KEPT_IMAGES = 24  # images that stay in memory, the last ones used
SENT_SIDE = 1600  # pixels of the longer side of what the browser gets
SENT_QUALITY = 90
DROPPED = "dropped-"  # how the names of dropped images begin; others are rows of the data set


class StoredImage:
    """An image and its looks by the name of the run."""

    def __init__(self, name: str, image: np.ndarray, truths: list[dict[str, Any]]):
        self.name = name
        self.image = image  # (h, w, 3) uint8 RGB
        self.truths = truths  # boxes to draw, and their class names
        self.looks: dict[str, Look] = {}
        self.lock = threading.Lock()

    def about(self) -> dict[str, Any]:
        height, width = self.image.shape[:2]
        return {"image": self.name, "width": width, "height": height, "truths": self.truths}

    def look(self, run: ShownRun) -> Look:
        """The run's network sees the image once, however often it is asked."""
        with self.lock:
            if run.name not in self.looks:
                self.looks[run.name] = run.look(self.image)
            return self.looks[run.name]

    def jpeg(self) -> bytes:
        image = self.image
        if max(image.shape[:2]) > SENT_SIDE:
            image, _ = fit_image(image, SENT_SIDE)
        return jpeg_bytes(image, SENT_QUALITY)


class ImageStore:
    """annotations: the data set that images can be picked from; it may have none."""

    def __init__(self, annotations: Annotations, max_pixels: int):
        self.annotations = annotations
        self.max_pixels = max_pixels
        self.kept: OrderedDict[str, StoredImage] = OrderedDict()
        self.dropped = 0
        self.lock = threading.Lock()

    def add(self, content: bytes) -> StoredImage:
        """An image file's content. ValueError, without a path, if it is not an image that can be used.

        It is read as all images are, from a file of its own that is gone afterwards.
        """
        with tempfile.TemporaryDirectory(prefix="detectors-show-") as folder:
            path = Path(folder) / "image"
            path.write_bytes(content)
            try:
                image = read_image(str(path), self.max_pixels)
            except ImageError as error:
                raise ValueError(error.problem.what) from error
        with self.lock:
            self.dropped += 1
            name = f"{DROPPED}{self.dropped}"
        return self._keep(StoredImage(name, image, []))

    def get(self, name: str) -> StoredImage:
        """A kept image, or one of the data set by its row. KeyError: there is no such image (any more)."""
        with self.lock:
            if name in self.kept:
                self.kept.move_to_end(name)
                return self.kept[name]
        if not name.isdecimal() or len(name) > 9 or int(name) >= len(self.annotations):
            raise KeyError(name)
        row = int(name)
        image = read_image(self.annotations.paths[row], self.max_pixels)
        return self._keep(StoredImage(name, image, self._truths(row)))

    def _truths(self, row: int) -> list[dict[str, Any]]:
        annotations = self.annotations
        rows = annotations.rows(row)
        names = [annotations.class_names[label] for label in annotations.labels[rows]]
        boxes = annotations.boxes_original[rows].tolist()
        return [{"box": box, "name": name} for box, name in zip(boxes, names, strict=True)]

    def _keep(self, stored: StoredImage) -> StoredImage:
        with self.lock:
            self.kept[stored.name] = stored
            while len(self.kept) > KEPT_IMAGES:
                self.kept.popitem(last=False)
        return stored
