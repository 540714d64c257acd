"""Which anchors are matched to which box of a sample, and a picture of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from detectors.boxes import paired_iou
from detectors.data.dataset import Sample
from detectors.data.loading import collate
from detectors.drawing.drawn_boxes import class_colours, draw_boxes, outline, smallest_first
from detectors.drawing.framed_images import captioned, fit_image
from detectors.models.detector import Detector


class MatchedAnchors(NamedTuple):
    """P matched anchors of one sample with n boxes."""

    anchors: np.ndarray  # (P, 4) float32 xyxy pixels of the model input
    box_rows: np.ndarray  # (P,) int64: the anchor's box, a row of the sample's boxes
    counts: np.ndarray  # (n,) int64: anchors of each box
    best_iou: np.ndarray  # (n,) IoU of each box with the best of its anchors, 0 without any
    sides: np.ndarray  # (n,) square root of each box's area, pixels of the model input


@torch.no_grad()
def matched_anchors(detector: Detector, sample: Sample) -> MatchedAnchors:
    """Uses the detector's own anchors, matcher and encoder, as its loss does.

    detector: in evaluation mode, so that it does not change.
    """
    batch = collate([sample]).to(detector.pixel_mean.device)
    grid = detector.grid(batch.images.shape[-2:])
    outputs = detector(batch.images) if detector.encoder.matcher.needs_predictions else None
    matched = detector.encoder(batch.targets, grid, outputs).matched[0].cpu()  # (A,)
    positive = torch.nonzero(matched >= 0).squeeze(1)  # (P,)
    anchors = grid.boxes.cpu()[positive]
    box_rows = matched[positive]
    ious = paired_iou(sample.boxes[box_rows], anchors).numpy()
    rows = box_rows.numpy()
    best_iou = np.zeros(len(sample.boxes))
    np.maximum.at(best_iou, rows, ious)
    counts = np.bincount(rows, minlength=len(best_iou))
    sides = (sample.boxes[:, 2:] - sample.boxes[:, :2]).prod(1).sqrt().numpy()
    return MatchedAnchors(anchors.numpy(), rows, counts, best_iou, sides)


def matches_picture(
    sample: Sample, matches: MatchedAnchors, class_names: Sequence[str], *, title: str, side: int
) -> np.ndarray:
    """A sample with its boxes, each in its own colour, and their matched anchors in the same colour, thin.

    The number of anchors follows the class name. A box without anchors is dashed in white. side: pixels of
    the picture's longer side. title: begins the caption.
    """
    boxes = sample.boxes.numpy()
    names = [class_names[label] for label in sample.labels.tolist()]
    texts = [f"{name} {count}" for name, count in zip(names, matches.counts, strict=True)]
    image, factor = fit_image(sample.image.numpy(), side)
    colours = class_colours(len(boxes))
    order = smallest_first(boxes)
    matched = order[matches.counts[order] > 0]
    unmatched = order[matches.counts[order] == 0]
    picture = draw_boxes(
        outline(image, matches.anchors * factor, colours[matches.box_rows]),
        boxes[matched] * factor,
        [texts[row] for row in matched],
        colours=colours[matched],
        gt_boxes=boxes[unmatched] * factor,
        gt_texts=[texts[row] for row in unmatched],
        enlarge=False,
    )
    caption = f"{title}: {len(boxes)} boxes, {len(matches.anchors)} anchors"
    if len(unmatched):
        caption += f", {len(unmatched)} without"
    return captioned(picture, caption)
