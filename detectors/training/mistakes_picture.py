"""What a classifier gets wrong, as pictures: its confusion matrix, and the images it is surest about."""

from __future__ import annotations

import cv2
import numpy as np

from detectors.data.images import ImageError
from detectors.data.labelled_dataset import LabelledDataset
from detectors.data.sampling import Key
from detectors.drawing.framed_images import captioned, fit_image, image_grid
from detectors.metrics.class_report import ClassReport, Guesses
from detectors.training.confusion_picture import confusion_picture

MISTAKES_SHOWN = 40  # mistakes in a picture
MISTAKE_COLUMNS = 8
MISTAKE_SIDE = 128  # pixels of an image's longer side
LARGEST_MATRIX = 50  # classes
CLASS_CAPTION = "rows: true; columns: best class; shade: share of row"


def confused_classes(report: ClassReport) -> np.ndarray:
    """(H, W, 3) uint8 RGB: the confusion matrix, of the classes with most mistakes if there are too many."""
    names = list(report.per_class)
    matrix = report.confusion
    caption = CLASS_CAPTION
    if len(names) > LARGEST_MATRIX:
        wrong = matrix * ~np.eye(len(names), dtype=bool)
        worst = np.sort(np.argsort(-(wrong.sum(0) + wrong.sum(1)), kind="stable")[:LARGEST_MATRIX])
        matrix = matrix[np.ix_(worst, worst)]
        names = [names[label] for label in worst]
        caption += f"; the {LARGEST_MATRIX} classes with most mistakes"
    return confusion_picture(matrix, names, caption, background=False)


def mistakes_picture(dataset: LabelledDataset, guesses: Guesses) -> np.ndarray | None:
    """(H, W, 3) uint8 RGB: wrong images as the model sees them, the surest first; None if there are none.

    'four, not nine .98': taken for a four, and it is a nine.
    """
    annotations = dataset.annotations
    truth = annotations.labels[guesses.rows]
    wrong = np.flatnonzero(guesses.labels[:, 0] != truth)
    order = wrong[np.argsort(-guesses.probabilities[wrong, 0], kind="stable")][:MISTAKES_SHOWN]
    names = annotations.class_names
    tiles = []
    for place in order.tolist():
        label = int(guesses.labels[place, 0])
        text = f"{names[label]}, not {names[truth[place]]} {guesses.probabilities[place, 0]:.2f}"
        try:
            image = dataset[Key(0, int(guesses.rows[place]))].image.numpy()
        except ImageError:  # the evaluation could read it
            continue
        tile, _ = fit_image(image, MISTAKE_SIDE, enlarging=cv2.INTER_NEAREST)
        tiles.append(captioned(tile, text))
    return image_grid(tiles, MISTAKE_COLUMNS) if tiles else None
