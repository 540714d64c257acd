"""How well a detector does on single images, at the one score threshold at which it would be used."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detectors.annotations import Annotations
from detectors.metrics.coco import ALL, AT_50
from detectors.metrics.coco_arrays import Judged


def best_f1(judged: Sequence[Judged]) -> tuple[float, float]:
    """The score from which on detections give the highest F1 at IoU .5, and that F1.

    Over all images, classes and measurements together; of equal F1, the highest score. (1, 0) if no detection
    is right. F1 = 2 right / (right + wrong + boxes).
    """
    score = np.concatenate([one.detections.score for one in judged])
    right = np.concatenate([one.right[:, AT_50, ALL] for one in judged])
    wrong = np.concatenate([one.wrong[:, AT_50, ALL] for one in judged])
    boxes = sum(int(one.counts[:, ALL].sum()) for one in judged)
    order = np.argsort(-score, kind="stable")
    found = np.cumsum(right[order])
    if not len(found) or not found[-1]:
        return 1.0, 0.0
    f1 = 2 * found / (found + np.cumsum(wrong[order]) + boxes)
    last_of_score = np.append(np.diff(score[order]) < 0, True)
    best = int(np.argmax(np.where(last_of_score, f1, -1)))
    return float(score[order[best]]), float(f1[best])


def image_f1(annotations: Annotations, judged: Judged, score: float) -> np.ndarray:
    """(N,) F1 at IoU .5 of each image's detections of at least `score`, over all classes.

    1 for an image without boxes and detections. Difficult boxes and crowd regions do not count.
    """
    kept = judged.detections.score >= score
    images = len(annotations)

    def number(flags: np.ndarray) -> np.ndarray:
        return np.bincount(judged.detections.image[kept & flags], minlength=images)

    right = number(judged.right[:, AT_50, ALL])
    wrong = number(judged.wrong[:, AT_50, ALL])
    boxes = np.bincount(annotations.image[~(annotations.difficult | annotations.crowd)], minlength=images)
    total = right + wrong + boxes
    return np.where(total > 0, 2 * right / np.maximum(total, 1), 1.0)
