"""Detections of a whole data set as checked arrays on the host, from which both metrics start."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from detectors.annotations import Annotations
from detectors.structures import Detections


class DetectionArrays(NamedTuple):
    image: np.ndarray  # (T,) int64: row of Annotations
    boxes_original: np.ndarray  # (T, 4) float64 xyxy pixels of the original image
    scores: np.ndarray  # (T,) float64
    labels: np.ndarray  # (T,) int64, 0..C-1


def to_arrays(annotations: Annotations, detections: Detections) -> DetectionArrays:
    """Copies detections to the host once, as float64, so that no metric rounds again.

    detections: original frame, `image` is the row of `annotations`, any order.
    ValueError: an image or label outside the data set, or a NaN or infinite box or score; the message names
        them, or their images.
    """
    arrays = DetectionArrays(
        detections.image.cpu().numpy().astype(np.int64),
        detections.boxes.detach().cpu().double().numpy().reshape(-1, 4),
        detections.scores.detach().cpu().double().numpy(),
        detections.labels.cpu().numpy().astype(np.int64),
    )
    images = len(annotations)
    classes = len(annotations.class_names)
    _refuse_unless(
        (arrays.image >= 0) & (arrays.image < images),
        arrays.image,
        f"image outside 0..{images - 1}; were they made on another data set?",
    )
    _refuse_unless(
        (arrays.labels >= 0) & (arrays.labels < classes),
        arrays.labels,
        f"label outside 0..{classes - 1}; was the model trained on other classes than the data set's "
        f"({', '.join(annotations.class_names)})?",
    )
    finite = np.isfinite(arrays.boxes_original).all(1) & np.isfinite(arrays.scores)
    image_ids = [annotations.image_ids[row] for row in arrays.image[~finite][:3]]
    _refuse_unless(
        finite,
        image_ids,
        "image with a NaN or infinite box or score; the weights have diverged: use an earlier checkpoint",
    )
    return arrays


def pairs_in_images(annotations: Annotations, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every pair of a detection and a box of its image. image: (T,) of each detection.

    Returns (P,) detections, ascending, and (P,) boxes, ascending for each detection.
    """
    count = np.diff(annotations.offsets)[image]
    detection = np.repeat(np.arange(len(count)), count)
    rank = np.arange(len(detection)) - np.repeat(np.cumsum(count) - count, count)
    return detection, annotations.offsets[image[detection]] + rank


def _refuse_unless(good: np.ndarray, values: np.ndarray | Iterable[object], problem: str) -> None:
    """ValueError unless all detections are good. values: one per detection, or those of the bad ones."""
    if not good.all():
        bad = values[~good][:3] if isinstance(values, np.ndarray) else values
        raise ValueError(
            f"{int((~good).sum())} detections cannot be evaluated ({', '.join(map(str, bad))}): {problem}"
        )
