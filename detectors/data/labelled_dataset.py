"""Labelled images seen through a transform: what a classifier trains on."""

from __future__ import annotations

import numpy as np

from detectors.data.augment.transforms import TransformedSample
from detectors.data.dataset import DetectionDataset
from detectors.data.images import ImageError
from detectors.structures import ImageInfo


class LabelledDataset(DetectionDataset):
    """DetectionDataset for images with one box each, the part of the image to classify: labelled_sets.py.

    That part is cut out and transformed. A sample has one box, the model's whole input, and always its label,
    whatever an augmentation does to boxes.
    """

    def _transformed(
        self, row: int, seed: int, size: tuple[int, int] | None
    ) -> tuple[TransformedSample, ImageInfo]:
        annotations = self.annotations
        whole = self._is_whole(row)
        decoded = self.reader.read(row, self._wanted(size) if whole else None)
        image = decoded.image
        if not whole:
            left, top, right, bottom = annotations.boxes_original[row].astype(int)
            image = np.ascontiguousarray(image[top:bottom, left:right])
        if not image.size:  # the file may be a pixel smaller than its annotation says
            raise ImageError(annotations.paths[row], "a box of it has no pixel", "broken-object")
        height, width = image.shape[:2]
        label = annotations.labels[row : row + 1]
        result = self.transform(image, np.array([[0.0, 0, width, height]]), label, seed, size)
        rows, columns = result.image.shape[:2]
        boxes = np.array([[0, 0, columns, rows]], np.float32)
        info = ImageInfo(row, annotations.image_ids[row], annotations.paths[row], decoded.size_original)
        return result._replace(boxes=boxes, labels=label, kept=np.zeros(1, np.int64)), info

    def _is_whole(self, row: int) -> bool:
        """Whether an image is classified as a whole."""
        height, width = self.annotations.sizes[row].tolist()
        return self.annotations.boxes_original[row].tolist() == [0, 0, width, height]
