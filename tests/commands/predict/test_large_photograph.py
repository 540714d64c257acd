"""4,000 x 3,000 pixels of photographs side by side, and the real weights of YOLO-LITE: tiles find what the
whole image does not show, and no object twice.

One view may already give an object two boxes that overlap too little for its own suppression, as the network
does on a single photograph. What tiles must not do is to add to them: an object counts as found twice if its
boxes come from different views, or from joined parts.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from detectors import Prediction, load
from detectors.boxes import pairwise_iou
from detectors.commands.predict import predictor
from detectors.commands.predict.merging import merge_views
from detectors.data.class_names import VOC_CLASSES
from detectors.data.images import read_image
from detectors.data.voc import read_voc

SIZE = (3000, 4000)
JOINED = -1  # in the place of a view


def large_photograph(root: Path, seed: int, magnified: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Photographs in rows on grey; the boxes of their objects, xyxy pixels of it, and their labels."""
    truths = read_voc(root=root, image_sets=["val"], class_names=list(VOC_CLASSES))
    rng = np.random.default_rng(seed)
    canvas = np.full((*SIZE, 3), 127, np.uint8)
    boxes, labels = [], []
    x = y = row = 0
    for index in rng.permutation(len(truths)).tolist():
        photograph = read_image(truths.paths[index])
        photograph = cv2.resize(photograph, None, fx=magnified, fy=magnified)
        height, width = photograph.shape[:2]
        if x + width > SIZE[1]:
            x, y, row = int(rng.integers(0, 40)), y + row + int(rng.integers(0, 40)), 0
        if y + height > SIZE[0]:
            break
        canvas[y : y + height, x : x + width] = photograph
        rows = truths.rows(index)
        boxes.append(truths.boxes_original[rows] * magnified + [x, y, x, y])
        labels.append(truths.labels[rows])
        x += width + int(rng.integers(0, 60))
        row = max(row, height)
    return canvas, np.concatenate(boxes), np.concatenate(labels)


def found_by(found: Prediction, view: np.ndarray, boxes: np.ndarray, labels: np.ndarray) -> list[list[int]]:
    """For each object, the views whose detections have it as their nearest of the class, IoU at least .5.

    view: (n,) of each detection; JOINED stands for all boxes that are joined.
    """
    iou = pairwise_iou(torch.from_numpy(found.boxes_xyxy).double(), torch.from_numpy(boxes)).numpy()
    iou = np.where(found.labels[:, None] == labels, iou, 0)
    nearest = np.where(iou.max(1, initial=0) >= 0.5, iou.argmax(1), -1)
    view = view.clip(min=JOINED)
    return [view[nearest == number].tolist() for number in range(len(labels))]


@pytest.fixture(scope="module")
def detector(shared, tmp_path_factory) -> predictor.Predictor:
    names = tmp_path_factory.mktemp("names") / "voc.names"
    names.write_text("\n".join(VOC_CLASSES))
    folder = shared / "weights/yolo-lite"
    net = folder / "cfg/tiny-yolov2-trial3.cfg", folder / "weights/tiny-yolov2-trial3.weights"
    return load(*net, names=names, device="cpu")


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "magnified", "score", "tile", "overlap", "least"),
    [
        (0, 1.5, 0.5, 480, 0.2, 35),
        (0, 1.5, 0.3, 560, 0.3, 40),
        (0, 1.0, 0.4, 560, 0.3, 50),
        (2, 1.0, 0.3, 480, 0.35, 60),
        (2, 2.5, 0.3, 416, 0.2, 7),
        (3, 1.0, 0.3, 480, 0.35, 60),
        (7, 1.5, 0.3, 640, 0.2, 30),
    ],
)
def test_tiles_find_what_the_whole_image_misses_and_nothing_twice(
    detector, shared, monkeypatch, seed, magnified, score, tile, overlap, least
):
    """Without magnifying, a photograph has 500 pixels; 1.5 makes a photograph of 300 as large as a tile."""
    merged = []
    monkeypatch.setattr(
        predictor, "merge_views", lambda parts, iou: merged.append(merge_views(parts, iou)) or merged[-1]
    )
    canvas, boxes, labels = large_photograph(
        shared / "data/voc2012-animals/VOCdevkit/VOC2012", seed, magnified
    )
    (whole,) = detector.predict(canvas, score=score)
    (tiled,) = detector.predict(canvas, score=score, tile=tile, overlap=overlap)
    seen_whole = found_by(whole, np.zeros(len(whole)), boxes, labels)
    seen = found_by(tiled, merged[0].view, boxes, labels)
    assert [
        number for number, views in enumerate(seen) if len(set(views)) > 1 or views.count(JOINED) > 1
    ] == []
    assert sum(map(bool, seen)) >= least > 5 * sum(map(bool, seen_whole))
