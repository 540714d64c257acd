"""The cells of the pictures of `detectors browse`: one sample each, with its boxes or its matched anchors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detectors.annotations import Annotations
from detectors.commands.browse.options import COLUMNS, ROWS
from detectors.commands.browse.sample_sources import SampleSource, ShownSample
from detectors.data.dataset import Sample
from detectors.data.sampling import Key
from detectors.drawing.drawn_boxes import class_colours, draw_boxes, smallest_first
from detectors.drawing.framed_images import captioned, fit_image, image_grid
from detectors.training.matched_anchors import matches_picture

GAP = 4  # pixels between cells
LARGEST_CELL = 1000  # pixels


def cell_side(width: int, columns: int) -> int:
    """Pixels of a cell, so that a row is at most `width` pixels wide."""
    return min(LARGEST_CELL, max(16, (width + GAP) // columns - GAP))


def paginate(cells: list[np.ndarray]) -> list[np.ndarray]:
    """Pages of COLUMNS x ROWS cells each."""
    size = COLUMNS * ROWS
    return [image_grid(cells[start : start + size], COLUMNS, GAP) for start in range(0, len(cells), size)]


def sample_cell(source: SampleSource, key: Key, sample: Sample, side: int) -> np.ndarray:
    """A sample with its boxes and class names, in class colours; one with a label alone has that below it."""
    picture = _draw_all_boxes(
        sample.image.numpy(),
        sample.boxes.numpy(),
        sample.labels.numpy(),
        source.annotations.class_names,
        side=side,
    )
    label = sample.image_label
    alone = "" if label is None or label < 0 else f", label {source.annotations.class_names[label]}"
    return captioned(picture, f"{source.title or sample.info.image_id}, epoch {key.epoch}{alone}")


def epoch_cells(source: SampleSource, shown: ShownSample, epochs: int, side: int) -> list[np.ndarray]:
    """A sample in its own epoch and in the following ones, `epochs` in all (one if nothing is augmented)."""
    cells = [sample_cell(source, shown.key, shown.sample, side)]
    if source.sampler:
        first = shown.key.epoch
        for epoch in range(first + 1, first + epochs):
            key = source.in_epoch(shown.key, epoch)
            cells.append(sample_cell(source, key, source.dataset[key], side))
    return cells


def original_cell(
    annotations: Annotations, index: int, image: np.ndarray, side: int, title: str = "original"
) -> np.ndarray:
    """The unchanged image with all its annotated boxes, including those that are not trained on.

    index: of the image in `annotations`. image: (H, W, 3) uint8 RGB.
    """
    rows = annotations.rows(index)
    flags = zip(annotations.difficult[rows], annotations.crowd[rows], strict=True)
    picture = _draw_all_boxes(
        image,
        annotations.boxes_original[rows],
        annotations.labels[rows],
        annotations.class_names,
        [" difficult" * bool(difficult) + " crowd" * bool(crowd) for difficult, crowd in flags],
        side=side,
    )
    return captioned(picture, f"{annotations.image_ids[index]}, {title}")


def anchor_cell(source: SampleSource, shown: ShownSample, side: int) -> np.ndarray:
    """A sample with its boxes and their matched anchors, see matches_picture."""
    title = str(source.title or shown.sample.info.image_id)
    names = source.annotations.class_names
    return matches_picture(shown.sample, shown.anchors, names, title=title, side=side)


def _draw_all_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    suffixes: Sequence[str] | None = None,
    *,
    side: int,
) -> np.ndarray:
    """(H, W, 3) uint8 RGB resized to `side`, with boxes and class names in class colours.

    The smallest boxes are on top. suffixes: one per box, appended to the class name.
    """
    image, factor = fit_image(image, side)
    texts = [class_names[label] for label in labels]
    if suffixes is not None:
        texts = [text + suffix for text, suffix in zip(texts, suffixes, strict=True)]
    order = smallest_first(boxes)
    colours = class_colours(len(class_names))[labels[order]]
    texts = [texts[row] for row in order]
    return draw_boxes(image, boxes[order] * factor, texts, colours=colours, enlarge=False)
