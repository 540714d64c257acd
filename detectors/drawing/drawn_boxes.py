"""Draws boxes on images, for TensorBoard's probe images, `predict`, `browse` and `lint`.

All functions are pure and work on uint8 RGB arrays. Detections are solid and coloured by class, ground-truth
boxes are dashed and white. Small images are enlarged first, so that the class names are readable.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

from detectors.drawing.framed_images import BLACK, TEXT_SCALE, WHITE
from detectors.drawing.label_places import Corners, label_places
from detectors.structures import Detections

READABLE = 480  # pixels; an image whose longer side is shorter is enlarged
DASH = 6  # pixels; length of a dash, and of the gap after it, on an image of READABLE pixels
FAINT = 0.4  # weight of the original image where outline() draws


def class_colours(num_classes: int) -> np.ndarray:
    """(C, 3) uint8 RGB, bright.

    The hue turns by the golden ratio from label to label, so that consecutive labels look very different.
    """
    turns = [(0.02 + 0.618034 * label) % 1 for label in range(num_classes)]
    colours = [colorsys.hsv_to_rgb(turn, (0.9, 0.55)[label % 2], 1.0) for label, turn in enumerate(turns)]
    return (255 * np.array(colours).reshape(-1, 3)).round().astype(np.uint8)


def magnification(size: tuple[int, int]) -> int:
    """The factor by which draw_boxes() enlarges an image of `size` (height, width).

    It is the smallest whole number that makes the longer side at least READABLE.
    """
    return max(1, -(-READABLE // max(size)))


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    texts: Sequence[str],
    *,
    colours: np.ndarray | None = None,
    gt_boxes: np.ndarray | None = None,
    gt_texts: Sequence[str] = (),
    enlarge: bool = True,
) -> np.ndarray:
    """A new image with boxes on it, the first row of `boxes` on top.

    It is enlarged by magnification(size), unless enlarge=False. No text covers another: see label_places.

    image: (H, W, 3) uint8 RGB, not modified.
    boxes, gt_boxes: (n, 4) xyxy pixels of that image; clipped to it.
    texts: one per box, "" for none. gt_texts: none, or one per row of gt_boxes.
    colours: (n, 3) RGB, for instance class_colours(C)[labels].
    ValueError: the image is not (H, W, 3) uint8, or the lists differ in length.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"draw_boxes() needs a uint8 image (height, width, 3), got {image.dtype} {image.shape}"
        )
    boxes = np.reshape(boxes, (-1, 4))
    gt_boxes = np.reshape([] if gt_boxes is None else gt_boxes, (-1, 4))
    colours = np.tile(class_colours(1), (len(boxes), 1)) if colours is None else np.reshape(colours, (-1, 3))
    if not len(boxes) == len(texts) == len(colours) or len(gt_texts) not in (0, len(gt_boxes)):
        counts = f"{len(boxes)} boxes, {len(texts)} texts, {len(colours)} colours"
        gt_counts = f"{len(gt_boxes)} gt_boxes, {len(gt_texts)} gt_texts"
        raise ValueError(f"draw_boxes() needs one text and one colour per box, got {counts}; {gt_counts}")
    factor = magnification(image.shape[:2]) if enlarge else 1
    canvas = np.ascontiguousarray(image.repeat(factor, 0).repeat(factor, 1))
    corners = _corner_pixels(boxes, factor, canvas)
    gt_corners = _corner_pixels(gt_boxes, factor, canvas)
    paint = [(int(red), int(green), int(blue)) for red, green, blue in colours]
    for box in gt_corners:
        _draw_dashed(canvas, box)
    for box, colour in reversed(list(zip(corners, paint, strict=True))):
        cv2.rectangle(canvas, box[:2], box[2:], colour, _thickness(canvas))
    named_gt = gt_corners[: len(gt_texts)]
    _write_all(
        canvas,
        [*corners, *named_gt],
        [*texts, *gt_texts],
        [*paint, *[WHITE] * len(named_gt)],
        [False] * len(corners) + [True] * len(named_gt),
    )
    return canvas


def draw_detections(
    image: np.ndarray,
    detections: Detections,
    class_names: Sequence[str],
    *,
    gt_boxes: np.ndarray | None = None,
    gt_labels: np.ndarray | None = None,
) -> np.ndarray:
    """draw_boxes() for the detections of one image, with class colour, class name and score.

    Ground truth is dashed: gt_boxes (n, 4) xyxy pixels, gt_labels (n,).
    """
    labels = detections.labels.tolist()
    scores = detections.scores.tolist()
    texts = [f"{class_names[label]} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
    colours = class_colours(len(class_names))[labels]
    gt_texts = [] if gt_labels is None else [class_names[label] for label in gt_labels.tolist()]
    boxes = detections.boxes.numpy()
    return draw_boxes(image, boxes, texts, colours=colours, gt_boxes=gt_boxes, gt_texts=gt_texts)


def outline(image: np.ndarray, boxes: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """A new image with the edges of many boxes on it, thin and faint, the first box on top.

    boxes: (n, 4) xyxy pixels; colours: (n, 3) RGB.
    """
    image = np.ascontiguousarray(image)
    canvas = image.copy()
    corners = _corner_pixels(np.reshape(boxes, (-1, 4)), 1, canvas)
    paint = np.reshape(colours, (-1, 3)).tolist()
    for box, colour in reversed(list(zip(corners, paint, strict=True))):
        cv2.rectangle(canvas, box[:2], box[2:], colour, 1)
    return cv2.addWeighted(canvas, 1 - FAINT, image, FAINT, 0)


def smallest_first(boxes: np.ndarray) -> np.ndarray:
    """(n, 4) xyxy -> (n,) rows in order of area."""
    return (boxes[:, 2:] - boxes[:, :2]).prod(1).argsort(kind="stable")


def _corner_pixels(boxes: np.ndarray, factor: int, canvas: np.ndarray) -> list[Corners]:
    """(n, 4) continuous edges -> (x0, y0, x1, y1) of the first and last pixel of each box on the canvas."""
    last = np.tile(canvas.shape[1::-1], 2) - 1  # (4,)
    edges = np.asarray(boxes, dtype=np.float64) * factor - [0, 0, 1, 1]
    return [tuple(row) for row in np.clip(edges.round(), 0, last).astype(int).tolist()]


def _thickness(canvas: np.ndarray) -> int:
    return max(2, round(max(canvas.shape) / 400))


def _draw_dashed(canvas: np.ndarray, corners: Corners) -> None:
    """A white dashed rectangle on top of a black one, visible on any background."""
    x0, y0, x1, y1 = corners
    thickness = _thickness(canvas)
    dash = max(1, round(DASH * max(canvas.shape) / READABLE))
    cv2.rectangle(canvas, (x0, y0), (x1, y1), BLACK, thickness)
    for x in range(x0, x1 + 1, 2 * dash):
        for y in (y0, y1):
            cv2.line(canvas, (x, y), (min(x + dash, x1), y), WHITE, thickness)
    for y in range(y0, y1 + 1, 2 * dash):
        for x in (x0, x1):
            cv2.line(canvas, (x, y), (x, min(y + dash, y1)), WHITE, thickness)


def _write_all(
    canvas: np.ndarray,
    corners: Sequence[Corners],
    texts: Sequence[str],
    colours: Sequence[tuple[int, int, int]],
    below: Sequence[bool],
) -> None:
    """Each text on a plate of its colour; a line leads to the box from a plate that is not at its edge."""
    scale = TEXT_SCALE * max(1.0, max(canvas.shape) / 1000)
    measured = [cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1) for text in texts]
    sizes = [
        (width + 3, height + baseline + 2) if text else (0, 0)
        for text, ((width, height), baseline) in zip(texts, measured, strict=True)
    ]
    places = label_places(corners, sizes, canvas.shape[1::-1], below)
    rows = [
        (place, wh, text, colour, box)
        for place, wh, text, colour, box in zip(places, sizes, texts, colours, corners, strict=True)
        if place is not None
    ]
    for place, (_, height), _, colour, box in rows:
        if not place.beside:
            cv2.line(canvas, (place.x, place.y + height // 2), box[:2], colour, 1, cv2.LINE_AA)
    for (x, y, _), (width, height), text, colour, _ in rows:
        cv2.rectangle(canvas, (x, y), (x + width - 1, y + height - 1), colour, cv2.FILLED)
        ink = BLACK if np.dot(colour, (0.299, 0.587, 0.114)) > 110 else WHITE
        at = (x + 1, y + cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][1] + 1)
        cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, ink, 1, cv2.LINE_AA)
