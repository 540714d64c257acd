"""Which class is taken for which, and which boxes and detections have no partner."""

from __future__ import annotations

import numpy as np
import torch

from detectors.annotations import Annotations
from detectors.boxes import paired_iou
from detectors.metrics.arrays import DetectionArrays, pairs_in_images, to_arrays
from detectors.structures import Detections

NO_BOX = -1
LEFT_OUT = -2


def confusion_matrix(
    annotations: Annotations, detections: Detections, *, score: float, iou: float = 0.5
) -> np.ndarray:
    """(C + 1, C + 1) int64 counts: rows are the true classes, columns the detected ones.

    The last column counts boxes that are missed, the last row detections without a box. Detections below
    `score` are left out. The others are taken by descending score, in each image; each takes the free box of
    whatever class with the highest IoU, if that exceeds `iou`. Difficult boxes and crowd regions do not
    count: a detection that has no other box takes one of them and is left out; they take any number.

    detections: original frame, `image` is the row of `annotations`. ValueError: see metrics.arrays.to_arrays.
    """
    arrays = to_arrays(annotations, detections)
    arrays = DetectionArrays(*(column[arrays.scores >= score] for column in arrays))
    ignored = annotations.difficult | annotations.crowd
    box = _boxes_taken(annotations, arrays, ignored, iou)
    classes = len(annotations.class_names)
    matrix = np.zeros((classes + 1, classes + 1), np.int64)
    has_box = box >= 0
    np.add.at(matrix, (annotations.labels[box[has_box]], arrays.labels[has_box]), 1)
    np.add.at(matrix[classes], arrays.labels[box == NO_BOX], 1)
    missed = ~ignored
    missed[box[has_box]] = False
    np.add.at(matrix[:, classes], annotations.labels[missed], 1)
    return matrix


def _boxes_taken(
    annotations: Annotations, arrays: DetectionArrays, ignored: np.ndarray, iou: float
) -> np.ndarray:
    """(T,) the row of each detection's box, NO_BOX, or LEFT_OUT."""
    detection, box, overlap = _overlapping_pairs(annotations, arrays, iou)
    order = np.lexsort((-overlap, ignored[box], detection, -arrays.scores[detection]))
    taken = np.full(len(arrays.scores), NO_BOX)
    free = np.ones(len(ignored), dtype=bool)
    for pair in order:
        one, other = detection[pair], box[pair]
        if taken[one] == NO_BOX and free[other]:
            taken[one] = LEFT_OUT if ignored[other] else other
            free[other] = ignored[other]
    return taken


def _overlapping_pairs(
    annotations: Annotations, arrays: DetectionArrays, iou: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Detections and boxes of one image whose IoU exceeds `iou`: (P,) rows of both, (P,) IoU."""
    detection, box = pairs_in_images(annotations, arrays.image)
    overlap = paired_iou(
        torch.from_numpy(arrays.boxes_original[detection]), torch.from_numpy(annotations.boxes_original[box])
    ).numpy()
    near = overlap > iou
    return detection[near], box[near], overlap[near]
