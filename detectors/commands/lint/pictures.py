"""Pictures of findings: the image with the box in question and its other boxes."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from detectors.commands.lint.findings import Finding, Split
from detectors.data.images import ImageError, read_image
from detectors.drawing.drawn_boxes import draw_boxes
from detectors.drawing.framed_images import fit_image

# (split name, image path) -> the split, and the index of the image in it
SplitImages = dict[tuple[str, str], tuple[Split, int]]

PICTURE_SIDE = 480  # pixels of a picture's longer side
MARGIN = 0.5  # widest margin for boxes beyond the image, as a share of the image's side
BEYOND = (96, 96, 96)  # RGB of the margin
RED = (255, 40, 40)
SEEN_PIXELS = 12  # pixels of a picture; a shorter side of a box is drawn this long


def split_images(splits: Sequence[Split]) -> SplitImages:
    return {
        (split.name, path): (split, index)
        for split in splits
        for index, path in enumerate(split.annotations.paths)
    }


def picture(finding: Finding, images: SplitImages) -> np.ndarray | None:
    """The finding's image with its box in red and the other boxes dashed. None without a decodable image."""
    image = None if finding.problem.kind == "too-large" else _read(finding.problem.image)  # (h, w, 3)
    if image is None:
        return None
    box = finding.problem.box
    boxes = np.array([box] if box else []).reshape(-1, 4)  # (0 or 1, 4)
    gt_boxes, gt_texts = _other_boxes(finding, images)
    resized, scale = fit_image(image, PICTURE_SIDE, enlarging=cv2.INTER_CUBIC)
    canvas, shift = _with_margin(resized, boxes * scale)
    return draw_boxes(
        canvas,
        _visible(boxes * scale) + shift,
        [finding.problem.kind.replace("-", " ")] * len(boxes),
        colours=np.tile(RED, (len(boxes), 1)),
        gt_boxes=gt_boxes * scale + shift,
        gt_texts=gt_texts,
    )  # (H, W, 3) uint8 RGB


def _read(path: str) -> np.ndarray | None:
    """The image (h, w, 3), or None if there is none or it cannot be decoded."""
    if not path:
        return None
    try:
        return read_image(path)
    except ImageError:
        return None
    except Exception:  # a bug in a decoder is a fault of the file, as in image_checks.inspect
        return None


def _other_boxes(finding: Finding, images: SplitImages) -> tuple[np.ndarray, list[str]]:
    """The other boxes (n, 4) of the finding's image, and their class names."""
    key = (finding.split, finding.problem.image)
    if key not in images:
        return np.zeros((0, 4)), []
    split, index = images[key]
    annotations = split.annotations
    rows = annotations.rows(index)
    boxes = annotations.boxes_original[rows]  # (n, 4)
    labels = annotations.labels[rows]
    others = (boxes != (finding.problem.box or (np.nan,) * 4)).any(1)
    return boxes[others], [annotations.class_names[label] for label in labels[others]]


def _with_margin(image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The image with a grey margin where a box reaches out of it, and the shift (4,) to add to its boxes."""
    height, width = image.shape[:2]
    if not len(boxes) or not np.isfinite(boxes).all():
        return image, np.zeros(4)
    widest = MARGIN * np.array([width, height])
    left_top = np.clip(-boxes[:, :2].min(0), 0, widest)  # (2,)
    right_bottom = np.clip(boxes[:, 2:].max(0) - [width, height], 0, widest)  # (2,)
    before = np.ceil(left_top).astype(int)
    after = np.ceil(right_bottom).astype(int)
    before += SEEN_PIXELS * (before > 0)  # shows the edge of the box, too
    after += SEEN_PIXELS * (after > 0)
    canvas = cv2.copyMakeBorder(
        image, before[1], after[1], before[0], after[0], cv2.BORDER_CONSTANT, value=BEYOND
    )
    return canvas, np.tile(before, 2).astype(float)


def _visible(boxes: np.ndarray) -> np.ndarray:
    """(n, 4) -> (n, 4), finite, corners in order, sides grown around their centre to at least SEEN_PIXELS."""
    boxes = np.nan_to_num(boxes, nan=0.0, posinf=1e6, neginf=-1e6)
    low = np.minimum(boxes[:, :2], boxes[:, 2:])
    high = np.maximum(boxes[:, :2], boxes[:, 2:])
    grow = np.clip(SEEN_PIXELS - (high - low), 0, None) / 2
    return np.concatenate([low - grow, high + grow], 1)
