"""Ground truth and detections of a whole data set for the speed of its evaluation."""

from __future__ import annotations

import numpy as np
import torch

from detectors.annotations import Annotations
from detectors.commands.benchmark.made_up_truths import CLASS_COUNTS, made_up_targets
from detectors.structures import Detections

SIZE = (480, 640)  # of every image: height, width
KEPT_PER_IMAGE = 100  # detections
CROWDS = 0.01  # share of the boxes that are crowd regions
NEAR = 0.5  # share of the detections that lie around a box, most of them with its label
RIGHT_LABEL = 0.8  # share of these with the right label
JITTER = 0.15  # standard deviation of their edges, over the sides of the box


def made_up_evaluation(images: int, seed: int = 0) -> tuple[Annotations, Detections]:
    """COCO val2017 has 5,000 images and 36,781 boxes; a detector keeps 100 detections of each image."""
    annotations = _annotations(images, seed)
    random = np.random.default_rng([seed, 1])
    image = np.repeat(np.arange(images), KEPT_PER_IMAGE)
    count = np.diff(annotations.offsets)[image]
    box = annotations.offsets[image] + (random.random(len(image)) * count).astype(np.int64)
    near = random.random(len(image)) < NEAR
    boxes = annotations.boxes_original[box]
    boxes = boxes + random.normal(0, JITTER, boxes.shape) * np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    boxes = np.where(near[:, None], boxes, random.permutation(annotations.boxes_original[box]))
    boxes = np.concatenate([boxes[:, :2], np.maximum(boxes[:, 2:], boxes[:, :2] + 1)], 1)
    right = near & (random.random(len(image)) < RIGHT_LABEL)
    classes = len(annotations.class_names)
    labels = np.where(right, annotations.labels[box], random.integers(classes, size=len(image)))
    scores = random.random(len(image)) * np.where(near, 1, 0.5)
    order = np.lexsort((-scores, image))
    columns = (image[order], boxes[order].astype(np.float32), scores[order].astype(np.float32), labels[order])
    return annotations, Detections(*(torch.from_numpy(column) for column in columns))


def _annotations(images: int, seed: int) -> Annotations:
    targets = made_up_targets("coco", images, SIZE, seed=seed)
    boxes = targets.boxes[targets.valid].double().numpy()
    counts = targets.valid.sum(1).numpy()
    crowd = np.random.default_rng([seed, 2]).random(len(boxes)) < CROWDS
    return Annotations(
        class_names=tuple(f"class{n}" for n in range(CLASS_COUNTS["coco"])),
        image_ids=list(range(1, images + 1)),
        paths=[f"{n}.jpg" for n in range(images)],
        sizes=np.tile(np.array(SIZE), (images, 1)),
        offsets=np.concatenate([[0], counts.cumsum()]),
        boxes_original=boxes,
        labels=targets.labels[targets.valid].numpy(),
        difficult=np.zeros(len(boxes), bool),
        crowd=crowd,
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(1),
        category_ids=tuple(range(1, CLASS_COUNTS["coco"] + 1)),
    )
