"""Boxes drawn on images: pure functions on uint8 RGB arrays, for TensorBoard's probe images, for `predict` and for `browse`.

Predictions are solid and coloured by class, truths are dashed and white. Small images are enlarged first, so that the names can be read.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

from detectors.structures import Detections

READABLE = 480  # pixels of the longer side below which an image is enlarged
DASH = 6  # pixels drawn, then as many left out, on an image of READABLE pixels
SUBPIXELS = 0.45  # of the letters, on an image of up to 1000 pixels
CAPTION = 20  # pixels, height of a line above an image
FAINT = 0.4  # share of the image in an outline
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def class_colours(num_classes: int) -> np.ndarray:
    """(C, 3) uint8 RGB, bright, and far apart for labels that follow one another: the hue turns by the golden ratio each time."""
    turns = [(0.02 + 0.618034 * label) % 1 for label in range(num_classes)]
    colours = [colorsys.hsv_to_rgb(turn, (0.9, 0.55)[label % 2], 1.0) for label, turn in enumerate(turns)]
    return (255 * np.array(colours).reshape(-1, 3)).round().astype(np.uint8)


def magnification(size: tuple[int, int]) -> int:
    """By how much draw() enlarges an image of `size` (height, width): the smallest whole number that makes the longer side READABLE."""
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
    """A new image, magnification(size) times as large (enlarge=False: as large), with boxes on it; the first row of `boxes` ends up on top.

    image: (H, W, 3) uint8 RGB, left as it is. boxes, gt_boxes: (n, 4) xyxy pixels of that image; what lies outside is cut.
    texts: one per box, "" for none. colours: (n, 3) RGB, for instance class_colours(C)[labels]. gt_texts: none, or one per gt_box.
    ValueError: an image that is not (H, W, 3) uint8, or lists of different lengths.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"draw() needs a uint8 image (height, width, 3), got {image.dtype} {image.shape}")
    boxes, gt_boxes = np.reshape(boxes, (-1, 4)), np.reshape([] if gt_boxes is None else gt_boxes, (-1, 4))
    colours = np.tile(class_colours(1), (len(boxes), 1)) if colours is None else np.reshape(colours, (-1, 3))
    if not len(boxes) == len(texts) == len(colours) or len(gt_texts) not in (0, len(gt_boxes)):
        counts = f"{len(boxes)} boxes, {len(texts)} texts, {len(colours)} colours; {len(gt_boxes)} gt_boxes, {len(gt_texts)} gt_texts"
        raise ValueError(f"draw() needs one text and one colour per box, got {counts}")
    factor = magnification(image.shape[:2]) if enlarge else 1
    canvas = np.ascontiguousarray(image.repeat(factor, 0).repeat(factor, 1))
    truths, found = _pixels(gt_boxes, factor, canvas), _pixels(boxes, factor, canvas)
    paint = [tuple(int(channel) for channel in colour) for colour in colours]
    for corners in truths:
        _dashed(canvas, corners)
    for corners, colour in reversed(list(zip(found, paint, strict=True))):
        cv2.rectangle(canvas, corners[:2], corners[2:], colour, _thickness(canvas))
    for corners, text in zip(truths, gt_texts, strict=False):
        _write(canvas, text, (corners[0], corners[3]), WHITE, above=False)
    for corners, text, colour in reversed(list(zip(found, texts, paint, strict=True))):
        _write(canvas, text, corners[:2], colour, above=True)
    return canvas


def draw_detections(
    image: np.ndarray,
    found: Detections,
    class_names: Sequence[str],
    *,
    gt_boxes: np.ndarray | None = None,
    gt_labels: np.ndarray | None = None,
) -> np.ndarray:
    """draw() for the detections of one image: colour and name of the class, score. gt_boxes (n, 4) and gt_labels (n,) are dashed."""
    labels = found.labels.tolist()
    texts = [
        f"{class_names[label]} {score:.2f}"
        for label, score in zip(labels, found.scores.tolist(), strict=True)
    ]
    colours = class_colours(len(class_names))[labels]
    gt_texts = [] if gt_labels is None else [class_names[label] for label in gt_labels.tolist()]
    return draw_boxes(
        image, found.boxes.numpy(), texts, colours=colours, gt_boxes=gt_boxes, gt_texts=gt_texts
    )


def fit_image(image: np.ndarray, side: int) -> tuple[np.ndarray, float]:
    """(image resized so that its longer side is `side` pixels, the factor that its boxes are to be multiplied by)."""
    factor = side / max(image.shape[:2])
    wh = [max(1, round(pixels * factor)) for pixels in image.shape[1::-1]]
    return cv2.resize(image, wh, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR), factor


def outline(image: np.ndarray, boxes: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """A new image with the edges of many boxes on it, thin and faint, the first box on top. boxes: (n, 4) xyxy; colours: (n, 3) RGB."""
    canvas = np.ascontiguousarray(image).copy()
    paint = np.reshape(colours, (-1, 3)).tolist()
    for corners, colour in reversed(
        list(zip(_pixels(np.reshape(boxes, (-1, 4)), 1, canvas), paint, strict=True))
    ):
        cv2.rectangle(canvas, corners[:2], corners[2:], colour, 1)
    return cv2.addWeighted(canvas, 1 - FAINT, np.ascontiguousarray(image), FAINT, 0)


def captioned(image: np.ndarray, text: str) -> np.ndarray:
    """The image below a line of text, white on black; a text that is too long loses its beginning."""
    canvas = np.concatenate([np.zeros((CAPTION, *image.shape[1:]), np.uint8), image])
    shown = text
    while (
        len(shown) > 4
        and cv2.getTextSize(shown, cv2.FONT_HERSHEY_SIMPLEX, SUBPIXELS, 1)[0][0] > image.shape[1] - 4
    ):
        shown = "..." + shown[4:]
    cv2.putText(canvas, shown, (2, CAPTION - 6), cv2.FONT_HERSHEY_SIMPLEX, SUBPIXELS, WHITE, 1, cv2.LINE_AA)
    return canvas


def image_grid(images: Sequence[np.ndarray], columns: int, gap: int = 4) -> np.ndarray:
    """Images of any sizes laid out row by row on black, `gap` pixels apart, each at the top left of a cell as large as the largest image.

    images: at least one, (H, W, 3) uint8. ValueError: none, or columns < 1.
    """
    if not images or columns < 1:
        raise ValueError(
            f"grid() needs at least one image and one column, got {len(images)} images, {columns} columns"
        )
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height = max(image.shape[0] for image in images) + gap
    width = max(image.shape[1] for image in images) + gap
    canvas = np.zeros((rows * height - gap, columns * width - gap, 3), np.uint8)
    for n, image in enumerate(images):
        y, x = n // columns * height, n % columns * width
        canvas[y : y + image.shape[0], x : x + image.shape[1]] = image
    return canvas


def _pixels(boxes: np.ndarray, factor: int, canvas: np.ndarray) -> list[tuple[int, int, int, int]]:
    """(n, 4) continuous edges -> the first and last pixel of each box on the canvas."""
    last = np.tile(canvas.shape[1::-1], 2) - 1  # (4,)
    edges = np.asarray(boxes, dtype=np.float64) * factor - [0, 0, 1, 1]
    return [tuple(row) for row in np.clip(edges.round(), 0, last).astype(int).tolist()]


def _thickness(canvas: np.ndarray) -> int:
    return max(2, round(max(canvas.shape) / 400))


def _dashed(canvas: np.ndarray, corners: tuple[int, int, int, int]) -> None:
    """A white dashed rectangle on a black one: seen on any background."""
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


def _write(
    canvas: np.ndarray, text: str, at: tuple[int, int], colour: tuple[int, int, int], *, above: bool
) -> None:
    """Text on a plate of `colour`, above or below the point `at`, moved so that it lies within the canvas."""
    if not text:
        return
    scale = SUBPIXELS * max(1.0, max(canvas.shape) / 1000)
    (width, height), baseline = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    tall, rows, columns = height + baseline + 2, *canvas.shape[:2]
    x = max(0, min(at[0], columns - width - 3))
    y = max(0, min(at[1] - tall if above else at[1], rows - tall))
    cv2.rectangle(canvas, (x, y), (x + width + 2, y + tall - 1), colour, cv2.FILLED)
    brightness = np.dot(colour, (0.299, 0.587, 0.114))
    ink = BLACK if brightness > 110 else WHITE
    cv2.putText(canvas, text, (x + 1, y + height + 1), cv2.FONT_HERSHEY_SIMPLEX, scale, ink, 1, cv2.LINE_AA)
