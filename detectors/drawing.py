"""Draws boxes on images, for TensorBoard's probe images, `predict`, `browse` and `lint`.

All functions are pure and work on uint8 RGB arrays. Detections are solid and coloured by class, ground-truth
boxes are dashed and white. Small images are enlarged first, so that the class names are readable.
"""

from __future__ import annotations

import base64
import colorsys
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from detectors.structures import Detections

READABLE = 480  # pixels; an image whose longer side is shorter is enlarged
DASH = 6  # pixels; length of a dash, and of the gap after it, on an image of READABLE pixels
TEXT_SCALE = 0.45  # OpenCV's font scale on an image of up to 1000 pixels
CAPTION = 20  # pixels; height of the line of text above an image
AT_ONCE = 128  # places that are tried together; the first ones are most often free
FAINT = 0.4  # weight of the original image where outline() draws
WHITE = (255, 255, 255)
BLACK = (0, 0, 0)

Corners = tuple[int, int, int, int]  # x0, y0, x1, y1: the first and last pixel of a box


class LabelPlace(NamedTuple):
    """The top left pixel of a label; `beside`: whether it lies at an edge of its box."""

    x: int
    y: int
    beside: bool


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
    paint = [tuple(int(channel) for channel in colour) for colour in colours]
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


def fit_image(image: np.ndarray, side: int, *, enlarging: int = cv2.INTER_LINEAR) -> tuple[np.ndarray, float]:
    """(the image resized so that its longer side is `side` pixels, the factor to multiply its boxes by).

    enlarging: OpenCV's interpolation for an image that becomes larger.
    """
    factor = side / max(image.shape[:2])
    wh = [max(1, round(pixels * factor)) for pixels in image.shape[1::-1]]
    return cv2.resize(image, wh, interpolation=cv2.INTER_AREA if factor < 1 else enlarging), factor


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


def captioned(image: np.ndarray, text: str) -> np.ndarray:
    """The image below a line of text, white on black. A text that is too long loses its beginning."""
    canvas = np.concatenate([np.zeros((CAPTION, *image.shape[1:]), np.uint8), image])
    room = image.shape[1] - 4
    while len(text) > 4 and cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, TEXT_SCALE, 1)[0][0] > room:
        text = "..." + text[4:]
    cv2.putText(canvas, text, (2, CAPTION - 6), cv2.FONT_HERSHEY_SIMPLEX, TEXT_SCALE, WHITE, 1, cv2.LINE_AA)
    return canvas


def jpeg_address(image: np.ndarray, quality: int) -> str:
    """(H, W, 3) uint8 RGB -> a data: address of it as JPEG, for a page that holds its pictures itself."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg_bytes(image, quality)).decode()}"


def jpeg_bytes(image: np.ndarray, quality: int) -> bytes:
    """(H, W, 3) uint8 RGB -> the content of a .jpg file."""
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def png_bytes(image: np.ndarray) -> bytes:
    """(H, W, 3) uint8 RGB -> the content of a .png file."""
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


def image_grid(images: Sequence[np.ndarray], columns: int, gap: int = 4) -> np.ndarray:
    """Images of any sizes, row by row on black, `gap` pixels apart.

    Every cell is as large as the largest image; each image is at the top left of its cell.
    images: at least one, (H, W, 3) uint8. ValueError: no image, or columns < 1.
    """
    if not images or columns < 1:
        counts = f"{len(images)} images, {columns} columns"
        raise ValueError(f"image_grid() needs at least one image and one column, got {counts}")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height = max(image.shape[0] for image in images) + gap
    width = max(image.shape[1] for image in images) + gap
    canvas = np.zeros((rows * height - gap, columns * width - gap, 3), np.uint8)
    for n, image in enumerate(images):
        y = n // columns * height
        x = n % columns * width
        canvas[y : y + image.shape[0], x : x + image.shape[1]] = image
    return canvas


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


def label_places(
    corners: Sequence[Corners],
    sizes: Sequence[tuple[int, int]],
    canvas_wh: tuple[int, int],
    below: Sequence[bool],
) -> list[LabelPlace | None]:
    """Where the label of each box goes, so that no label covers another and all lie within the canvas.

    The first box chooses first: at an edge of its box if there is room, else the nearest free place. None if
    the canvas has no free place left. Law: tests/test_drawing.py.

    sizes: (width, height) of each label; (0, 0) for none. below: whether its first choice is below its box.
    """
    taken = np.zeros((0, 4), dtype=np.int64)  # xyxy of the labels so far, the last pixel not included
    places: list[LabelPlace | None] = []
    refused = np.array(
        [np.inf, np.inf]
    )  # the size of a label that found no place, so that no larger one tries
    for box, wh, under in zip(corners, np.minimum(np.reshape(sizes, (-1, 2)), canvas_wh), below, strict=True):
        place = None
        if wh.all() and (wh < refused).any():
            place = _first_free(_at_edges(box, *wh, under), wh, taken, canvas_wh, beside=True)
            place = place or _first_free(_everywhere(box, wh, canvas_wh), wh, taken, canvas_wh, beside=False)
            if place is None and wh[0] <= refused[0]:
                refused = wh
        if place is not None:
            taken = np.vstack([taken, [*place[:2], *(place[:2] + wh)]])
        places.append(place)
    return places


def _at_edges(box: Corners, width: int, height: int, below: bool) -> np.ndarray:
    """(n, 2) x, y of places for a label at a box, the best first."""
    x0, y0, x1, y1 = box
    left, right, bottom = x0, x1 + 1 - width, y1 + 1 - height
    over = [(left, y0 - height), (right, y0 - height)]
    under = [(left, y1), (right, y1)]
    inside = [(left, y0), (left, bottom), (right, y0), (right, bottom)]
    aside = [(x1 + 1, y0), (x0 - width, y0), (x1 + 1, bottom), (x0 - width, bottom)]
    return np.array([*(under + over if below else over + under), *inside, *aside])


def _everywhere(box: Corners, wh: np.ndarray, canvas_wh: tuple[int, int]) -> np.ndarray:
    """(n, 2) x, y of places for a label on a whole canvas, the nearest to the box first."""
    columns, rows = (
        np.arange(0, limit, max(1, side // 2)) for side, limit in zip(wh, canvas_wh, strict=True)
    )
    grid = np.stack(np.meshgrid(columns, rows), -1).reshape(-1, 2)
    apart = grid - np.clip(grid, box[:2] - wh, box[2:])
    return grid[np.square(apart).sum(1).argsort(kind="stable")]


def _first_free(
    tries: np.ndarray, wh: np.ndarray, taken: np.ndarray, canvas_wh: tuple[int, int], *, beside: bool
) -> LabelPlace | None:
    """The first of (n, 2) places, moved into the canvas, where a label covers none of the others."""
    tries = np.clip(tries, 0, canvas_wh - wh)
    for some in np.split(tries, range(AT_ONCE, len(tries), AT_ONCE)):
        low = np.maximum(some[:, None], taken[:, :2])  # (n, m, 2)
        high = np.minimum(some[:, None] + wh, taken[:, 2:])
        free = np.flatnonzero(~(low < high).all(2).any(1))
        if len(free):
            return LabelPlace(*some[free[0]].tolist(), beside)
    return None


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
    rows = [row for row in zip(places, sizes, texts, colours, corners, strict=True) if row[0] is not None]
    for place, (_, height), _, colour, box in rows:
        if not place.beside:
            cv2.line(canvas, (place.x, place.y + height // 2), box[:2], colour, 1, cv2.LINE_AA)
    for (x, y, _), (width, height), text, colour, _ in rows:
        cv2.rectangle(canvas, (x, y), (x + width - 1, y + height - 1), colour, cv2.FILLED)
        ink = BLACK if np.dot(colour, (0.299, 0.587, 0.114)) > 110 else WHITE
        at = (x + 1, y + cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][1] + 1)
        cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, ink, 1, cv2.LINE_AA)
