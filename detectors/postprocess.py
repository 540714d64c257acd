"""From head outputs to detections: score, decode, threshold, suppress, return to the original frame."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from detectors.structures import AnchorGrid, BoxCoder, Detections, HeadOutputs, ImageInfo, ScoreRule


def yolo_scores(outputs: HeadOutputs) -> Tensor:
    """(B, A, C): sigmoid(objectness) * softmax(classes)."""
    return outputs.objectness.sigmoid()[..., None] * outputs.class_logits.softmax(-1)


def yolo_logistic_scores(outputs: HeadOutputs) -> Tensor:
    """(B, A, C): sigmoid(objectness) * sigmoid(classes), Darknet's softmax=0."""
    return outputs.objectness.sigmoid()[..., None] * outputs.class_logits.sigmoid()


# Darknet's softmax=1 and softmax=0
YOLO_SCORE_RULES: dict[str, ScoreRule] = {"softmax": yolo_scores, "logistic": yolo_logistic_scores}


def ssd_scores(outputs: HeadOutputs) -> Tensor:
    """(B, A, C): softmax over classes and background, without the background's column."""
    return outputs.class_logits.softmax(-1)[..., 1:]


# Pixels, or cells, from the origin: beyond any input, and small enough for float64 to keep groups apart.
SUPPRESSION_LIMIT = 2.0**20


class PostProcess(nn.Module):
    """Detections of a whole batch in one pass.

    Darknet (get_region_detections, do_nms_sort): score > .005; suppression per class at IoU > .45; no limit
    on numbers. Caffe (detection_output_layer): score > .01; the best 400 of each class; suppression per class
    at IoU > .45; the best 200 of each image. Neither clips boxes before the suppression.

    A diverging network gives huge boxes. They are returned as they are, and change nothing for other images
    and classes. Boxes and scores that are not finite are dropped; Darknet and Caffe keep such boxes.
    """

    def __init__(
        self,
        *,
        coder: BoxCoder,
        score_rule: ScoreRule,
        score_threshold: float,
        nms_iou: float,
        candidates_per_class: int | None = None,
        max_detections: int | None = None,
    ):
        super().__init__()
        self.coder = coder
        self.score_rule = score_rule
        self.score_threshold = score_threshold
        self.nms_iou = nms_iou
        self.candidates_per_class = candidates_per_class
        self.max_detections = max_detections

    @torch.no_grad()
    def forward(self, outputs: HeadOutputs, grid: AnchorGrid) -> Detections:
        """Detections in the frame of the model input, not clipped; `image` is the position in the batch.

        Synchronises with the device.
        """
        scores = self.score_rule(outputs)  # (B, A, C)
        boxes = self.coder.decode(outputs.offsets, grid)  # (B, A, 4)
        # If a network diverges, exp() overflows. NaN would count as the best score among the candidates.
        usable = boxes.isfinite().all(-1, keepdim=True) & scores.isfinite()
        scores = torch.where(usable, scores, -torch.inf)
        image, anchor, label = self._candidates(scores)
        chosen = boxes[image, anchor]  # (T, 4)
        score = scores[image, anchor, label]  # (T,)
        group = image * scores.shape[-1] + label  # suppression is per image and class
        keep = batched_nms(_bounded(chosen.double()), score.double(), group, self.nms_iou)  # by score
        keep = keep[image[keep].argsort(stable=True)]  # image by image, the best score first in each
        if self.max_detections:
            keep = keep[_rank(image[keep], len(scores)) < self.max_detections]
        return Detections(image[keep], chosen[keep], score[keep], label[keep])

    def _candidates(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, A, C) -> image, anchor and label of the scores above the threshold.

        At most candidates_per_class of each class and image.
        """
        limit = self.candidates_per_class
        if limit is None or limit >= scores.shape[1]:
            return (scores > self.score_threshold).nonzero(as_tuple=True)
        best, anchor = scores.topk(limit, 1)  # (B, k, C)
        image, rank, label = (best > self.score_threshold).nonzero(as_tuple=True)
        return image, anchor[image, rank, label], label


def _bounded(boxes: Tensor) -> Tensor:
    """(T, 4) float64 boxes for the suppression: clamped to SUPPRESSION_LIMIT, and shifted so that no
    coordinate is below 0.

    batched_nms may separate its groups by adding multiples of the largest coordinate. In float32, or with one
    huge box, that loses the digits of all boxes; with negative coordinates a box left of the image reaches
    into another group.
    """
    boxes = boxes.clamp(-SUPPRESSION_LIMIT, SUPPRESSION_LIMIT)
    return boxes - boxes.min() if len(boxes) else boxes


def _rank(image: Tensor, batch: int) -> Tensor:
    """(T,) image numbers in ascending order -> (T,) position of each row within its image."""
    count = torch.bincount(image, minlength=batch)
    return torch.arange(len(image), device=image.device) - (count.cumsum(0) - count)[image]


def to_original(detections: Detections, infos: list[ImageInfo], clip: bool = True) -> Detections:
    """Detections in the model input's frame -> the original image's frame: undoes letterbox or stretch.

    Boxes are clipped to the image unless clip=False.
    """
    boxes = detections.boxes
    rows = [[*i.shift_xy, *i.scale_xy, i.size_original[1], i.size_original[0]] for i in infos]
    frame = boxes.new_tensor(rows).reshape(-1, 6)
    shift, scale, limit = frame[detections.image].split(2, 1)  # (T, 2) each
    boxes = (boxes - shift.repeat(1, 2)) / scale.repeat(1, 2)
    if clip:
        boxes = torch.minimum(boxes.clamp(min=0), limit.repeat(1, 2))
    return Detections(detections.image, boxes, detections.scores, detections.labels)
