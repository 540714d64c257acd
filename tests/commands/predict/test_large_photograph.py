"""4,000 x 3,000 pixels of photographs side by side, and the real weights of YOLO-LITE: tiles find what the
whole image does not show, and no object twice.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from detectors import Prediction, load
from detectors.boxes import pairwise_iou
from detectors.data.class_names import VOC_CLASSES
from detectors.data.images import read_image
from detectors.data.voc import read_voc

SIZE = (3000, 4000)
MAGNIFIED = 1.5  # photographs of 300 pixels, so that a tile of 480 is as large as one


def large_photograph(root: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Photographs in rows on grey; the boxes of their objects, xyxy pixels of it, and their labels."""
    truths = read_voc(root=root, image_sets=["val"], class_names=list(VOC_CLASSES))
    rng = np.random.default_rng(0)
    canvas = np.full((*SIZE, 3), 127, np.uint8)
    boxes, labels = [], []
    x = y = row = 0
    for index in rng.permutation(len(truths)).tolist():
        photograph = read_image(truths.paths[index])
        photograph = cv2.resize(photograph, None, fx=MAGNIFIED, fy=MAGNIFIED)
        height, width = photograph.shape[:2]
        if x + width > SIZE[1]:
            x, y, row = int(rng.integers(0, 40)), y + row + int(rng.integers(0, 40)), 0
        if y + height > SIZE[0]:
            break
        canvas[y : y + height, x : x + width] = photograph
        rows = truths.rows(index)
        boxes.append(truths.boxes_original[rows] * MAGNIFIED + [x, y, x, y])
        labels.append(truths.labels[rows])
        x += width + int(rng.integers(0, 60))
        row = max(row, height)
    return canvas, np.concatenate(boxes), np.concatenate(labels)


def times_found(found: Prediction, boxes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(T,) how many detections of its class have each object as their nearest, with an IoU of at least .5."""
    iou = pairwise_iou(torch.from_numpy(found.boxes_xyxy).double(), torch.from_numpy(boxes)).numpy()
    iou = np.where(found.labels[:, None] == labels, iou, 0)
    nearest = iou.argmax(1)
    return np.bincount(nearest[iou.max(1, initial=0) >= 0.5], minlength=len(labels))


@pytest.mark.data
@pytest.mark.slow
def test_tiles_find_what_the_whole_image_misses_and_nothing_twice(shared, tmp_path):
    folder = shared / "weights/yolo-lite"
    names = tmp_path / "voc.names"
    names.write_text("\n".join(VOC_CLASSES))
    net = folder / "cfg/tiny-yolov2-trial3.cfg", folder / "weights/tiny-yolov2-trial3.weights"
    detector = load(*net, names=names, device="cpu")
    canvas, boxes, labels = large_photograph(shared / "data/voc2012-animals/VOCdevkit/VOC2012")
    (whole,) = detector.predict(canvas, score=0.5)
    (tiled,) = detector.predict(canvas, score=0.5, tile=480)
    assert times_found(whole, boxes, labels).sum() == 0
    counts = times_found(tiled, boxes, labels)
    assert (counts > 0).sum() >= 25
    assert counts.max() == 1
