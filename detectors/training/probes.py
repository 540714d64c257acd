"""Pictures of the same few validation images at every evaluation."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

from detectors.annotations import Annotations
from detectors.data.images import ImageError
from detectors.data.loading import BatchLoader
from detectors.data.sampling import Key
from detectors.drawing.drawn_boxes import READABLE, draw_detections
from detectors.models.detector import Detector
from detectors.structures import Detections
from detectors.training.matched_anchors import matched_anchors, matches_picture

logger = logging.getLogger(__name__)


class Probes:
    """The first `count` images of the validation split.

    Images that cannot be read are left out.
    """

    def __init__(self, loader: BatchLoader, annotations: Annotations, count: int):
        self.loader = loader
        self.annotations = annotations
        self.rows = list(range(min(count, len(annotations))))

    def _drawn(self, draw: Callable[[int], np.ndarray]) -> list[np.ndarray]:
        """The pictures of all rows that can be drawn. A picture is not worth a run, so faults are logged."""
        pictures = []
        for row in list(self.rows):
            if self.annotations.paths[row] in self.loader.problems:
                continue
            try:
                pictures.append(draw(row))
            except ImageError as error:
                logger.warning("%s; it is not drawn", error)
                self.rows.remove(row)
        return pictures

    def with_detections(self, detections: Detections, score: float) -> list[np.ndarray]:
        """Original images with ground truth, and with the detections of at least this score."""
        return self._drawn(lambda row: self._with_detections(row, detections.of_image(row).above(score)))

    def _with_detections(self, row: int, detections: Detections) -> np.ndarray:
        annotations = self.annotations
        boxes = annotations.rows(row)
        return draw_detections(
            self.loader.dataset.reader.read(row).image,
            detections,
            annotations.class_names,
            gt_boxes=annotations.boxes_original[boxes],
            gt_labels=annotations.labels[boxes],
        )

    def with_anchors(self, detector: Detector) -> list[np.ndarray]:
        """Model inputs with the boxes that training would use, and their matched anchors.

        detector: in evaluation mode.
        """
        return self._drawn(lambda row: self._with_anchors(row, detector))

    def _with_anchors(self, row: int, detector: Detector) -> np.ndarray:
        sample = self.loader.dataset[Key(0, row)]
        return matches_picture(
            sample,
            matched_anchors(detector, sample),
            self.annotations.class_names,
            title=str(sample.info.image_id),
            side=max(READABLE, *sample.image.shape[:2]),
        )
