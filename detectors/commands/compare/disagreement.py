"""The images on which detectors differ most: which ones, and what each detector finds there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from detectors.commands.compare.analysis import ComparedDetector
from detectors.data.images import ImageError, read_image
from detectors.drawing.drawn_boxes import class_colours, draw_boxes
from detectors.drawing.framed_images import fit_image, jpeg_address

SHOWN_IMAGES = 8
EMBEDDED_SIDE = 320  # pixels of a picture's longer side
EMBEDDED_QUALITY = 70
PICTURE_LIMIT = 2_000_000  # characters of all pictures in a page


class PictureRow(NamedTuple):
    """One image: the ground truth, then what each detector finds."""

    title: str
    pictures: list[tuple[str, str]]  # what it shows, and the data: address of its JPEG


def disagreeing_images(detectors: Sequence[ComparedDetector]) -> list[dict[str, Any]]:
    """At most SHOWN_IMAGES images with the largest difference in F1 between two detectors, and these F1.

    Empty for a single detector.
    """
    if len(detectors) < 2:
        return []
    annotations = detectors[0].members[0].annotations
    f1 = np.stack([detector.image_f1 for detector in detectors])  # (D, N)
    spread = f1.max(0) - f1.min(0)
    worst = np.argsort(-spread, kind="stable")[:SHOWN_IMAGES]
    return [
        {
            "image": annotations.image_ids[row],
            "difference": float(spread[row]),
            "f1": {d.name: float(value) for d, value in zip(detectors, f1[:, row], strict=True)},
        }
        for row in worst.tolist()
        if spread[row] > 0
    ]


def disagreement_pictures(
    detectors: Sequence[ComparedDetector], images: Sequence[dict[str, Any]]
) -> tuple[list[PictureRow], list[str]]:
    """Pictures of disagreeing_images' images, as many as PICTURE_LIMIT allows; and notes about the others.

    Of each detector its first run's detections, from best_score on.
    """
    annotations = detectors[0].members[0].annotations
    row_of = {image_id: row for row, image_id in enumerate(annotations.image_ids)}
    rows, missing, length = [], [], 0
    for entry in images:
        try:
            row = _pictures(detectors, row_of[entry["image"]], str(entry["image"]))
        except ImageError as error:
            missing.append(str(error))
            continue
        length += sum(len(address) for _, address in row.pictures)
        if length > PICTURE_LIMIT:
            return rows, [f"pictures of {len(rows)} images only, so that the page stays small"]
        rows.append(row)
    if not missing:
        return rows, []
    return rows, [f"{len(missing)} images on which detectors differ most cannot be shown: {missing[0]}"]


def _pictures(detectors: Sequence[ComparedDetector], row: int, title: str) -> PictureRow:
    annotations = detectors[0].members[0].annotations
    image, factor = fit_image(read_image(annotations.paths[row]), EMBEDDED_SIDE, enlarging=cv2.INTER_CUBIC)
    names = annotations.class_names
    colours = class_colours(len(names))
    boxes = annotations.boxes_original[annotations.rows(row)] * factor
    labels = annotations.labels[annotations.rows(row)]

    def drawn(boxes: np.ndarray, labels: np.ndarray, texts: Sequence[str]) -> str:
        picture = draw_boxes(image, boxes, texts, colours=colours[labels], enlarge=False)
        return jpeg_address(picture, EMBEDDED_QUALITY)

    pictures = [("ground truth", drawn(boxes, labels, [names[label] for label in labels]))]
    for detector in detectors:
        found = detector.members[0].detections.of_image(row).above(detector.best_score)
        labels = found.labels.numpy()
        scores = found.scores.tolist()
        texts = [f"{names[label]} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
        pictures.append((detector.name, drawn(found.boxes.numpy() * factor, labels, texts)))
    return PictureRow(title, pictures)
