"""Images with one label each, as Annotations: every image has exactly one box, the part of it to classify.

It is the whole image in sets made for classification, and an object with a margin in a set with boxes. So
readers, caches, loaders and the hash of the ground truth are those of detection.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detectors.annotations import Annotations


def whole_images(
    class_names: Sequence[str],
    image_ids: Sequence[str | int],
    paths: Sequence[str],
    sizes: np.ndarray,
    labels: np.ndarray,
) -> Annotations:
    """N images with a label each. sizes: (N, 2) (height, width); labels: (N,) 0..C-1."""
    sizes = np.asarray(sizes, np.int64).reshape(-1, 2)
    boxes = np.zeros((len(sizes), 4))
    boxes[:, 2:] = sizes[:, ::-1]
    return _one_box_each(
        tuple(class_names), tuple(range(1, len(class_names) + 1)), image_ids, paths, sizes, boxes, labels
    )


def box_crops(annotations: Annotations, margin: float, *, use_difficult: bool = True) -> Annotations:
    """Each box of a set as an image: its window is whole pixels, larger than the box on each side by `margin`
    of the box's sides, and clipped to the image.

    Crowd regions are left out, and difficult boxes unless use_difficult. The id of a crop is its image's, #
    and the place of the box in it.
    """
    keep = ~annotations.crowd
    if not use_difficult:
        keep &= ~annotations.difficult
    image = annotations.image
    boxes = annotations.boxes_original
    reach = margin * (boxes[:, 2:] - boxes[:, :2])
    low = np.floor(boxes[:, :2] - reach)
    high = np.ceil(boxes[:, 2:] + reach)
    windows = np.clip(np.concatenate([low, high], 1), 0, annotations.sizes[image][:, [1, 0, 1, 0]])
    keep &= (windows[:, 2:] > windows[:, :2]).all(1)  # a box that lies outside its image has no pixel
    rows = np.flatnonzero(keep)
    place = rows - annotations.offsets[image[rows]]
    ids = annotations.image_ids
    return _one_box_each(
        annotations.class_names,
        annotations.category_ids,
        [f"{ids[row]}#{number}" for row, number in zip(image[rows].tolist(), place.tolist(), strict=True)],
        [annotations.paths[row] for row in image[rows].tolist()],
        annotations.sizes[image[rows]],
        windows[rows],
        annotations.labels[rows],
    )


def _one_box_each(
    class_names: tuple[str, ...],
    category_ids: tuple[int, ...],
    image_ids: Sequence[str | int],
    paths: Sequence[str],
    sizes: np.ndarray,
    boxes_original: np.ndarray,
    labels: np.ndarray,
) -> Annotations:
    count = len(boxes_original)
    return Annotations(
        class_names=class_names,
        image_ids=image_ids,
        paths=paths,
        sizes=sizes,
        offsets=np.arange(count + 1),
        boxes_original=boxes_original,
        labels=np.asarray(labels, np.int64),
        difficult=np.zeros(count, bool),
        crowd=np.zeros(count, bool),
        areas=(boxes_original[:, 2:] - boxes_original[:, :2]).prod(1),
        category_ids=category_ids,
    )
