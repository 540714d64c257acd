"""Findings drawn on their images."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from detectors.commands.lint.findings import Finding, Split
from detectors.data.images import ImageError, read_image
from detectors.drawing import draw_boxes

Places = dict[tuple[str, str], tuple[Split, int]]  # (split, path of an image) -> where its boxes are

PICTURE_SIDE = 480  # pixels of the longer side of a picture
MARGIN = 0.5  # of an image's side: at most so much is added around it to show where a box reaches
BEYOND = (96, 96, 96)  # colour of what lies outside of the image
RED = (255, 40, 40)
SEEN_PIXELS = 12  # pixels of a picture below which a box is drawn larger than it is


def places_of(splits: Sequence[Split]) -> Places:
    return {
        (split.name, path): (split, index)
        for split in splits
        for index, path in enumerate(split.annotations.paths)
    }


def picture(finding: Finding, places: Places) -> np.ndarray | None:
    """(H, W, 3) uint8 RGB: the image, its boxes dashed, the box in question in red. None if it is about no image that can be decoded."""
    problem = finding.problem
    try:
        image = read_image(problem.image) if problem.image else None
    except ImageError:
        return None
    except Exception:  # as in images.inspect(): what a decoder raises is its file's fault
        return None
    if image is None:
        return None
    boxes, texts = _truths(finding, places)
    faulty = np.array([problem.box] if problem.box else []).reshape(-1, 4)
    scale = PICTURE_SIDE / max(image.shape[:2])
    image = cv2.resize(
        image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    )
    canvas, shift = _with_margin(image, faulty * scale)
    place = _visible(faulty * scale) + shift
    names = [_name(finding)] * len(faulty)
    return draw_boxes(
        canvas,
        place,
        names,
        colours=np.tile(RED, (len(faulty), 1)),
        gt_boxes=boxes * scale + shift,
        gt_texts=texts,
    )


def _truths(finding: Finding, places: Places) -> tuple[np.ndarray, list[str]]:
    """The other boxes (n, 4) of the finding's image, and their classes."""
    if (finding.split, finding.problem.image) not in places:
        return np.zeros((0, 4)), []
    split, index = places[finding.split, finding.problem.image]
    truths = split.annotations
    boxes, labels = truths.boxes_original[truths.rows(index)], truths.labels[truths.rows(index)]
    others = (boxes != (finding.problem.box or (np.nan,) * 4)).any(1)
    return boxes[others], [truths.class_names[label] for label in labels[others]]


def _name(finding: Finding) -> str:
    return finding.problem.kind.replace("-", " ")


def _with_margin(image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The image on a larger grey ground, if a box reaches out of it; and what to add to its boxes (4,)."""
    height, width = image.shape[:2]
    if not len(boxes) or not np.isfinite(boxes).all():
        return image, np.zeros(4)
    most = MARGIN * np.array([width, height])
    before = np.ceil(np.clip(-boxes[:, :2].min(0), 0, most)).astype(int)
    after = np.ceil(np.clip(boxes[:, 2:].max(0) - [width, height], 0, most)).astype(int)
    before, after = (
        before + SEEN_PIXELS * (before > 0),
        after + SEEN_PIXELS * (after > 0),
    )  # so that the box's edge is seen, too
    canvas = cv2.copyMakeBorder(
        image, before[1], after[1], before[0], after[0], cv2.BORDER_CONSTANT, value=BEYOND
    )
    return canvas, np.tile(before, 2).astype(float)


def _visible(boxes: np.ndarray) -> np.ndarray:
    """Corners in order, and boxes without area or nearly so as squares around where they are."""
    boxes = np.nan_to_num(boxes, nan=0.0, posinf=1e6, neginf=-1e6)
    boxes = np.concatenate(
        [np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], 1
    )
    grow = np.clip(SEEN_PIXELS - (boxes[:, 2:] - boxes[:, :2]), 0, None) / 2
    return boxes + np.concatenate([-grow, grow], 1)
