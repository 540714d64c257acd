"""From head outputs to detections: score, decode, threshold, suppress, return to the original frame."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detectors.kernels.related_suppression import suppress_related
from detectors.kernels.soft_suppression import SOFT_RULES, decayed_scores
from detectors.kernels.suppression import suppress
from detectors.structures import (
    AnchorGrid,
    BoxCoder,
    Detections,
    HeadOutputs,
    ImageInfo,
    ScoreRule,
    Scores,
)
from detectors.wordtree.tree_scores import TreeScores


def yolo_scores(outputs: HeadOutputs) -> Tensor:
    """(B, A, C): sigmoid(objectness) * softmax(classes)."""
    return _objectness(outputs) * outputs.class_logits.softmax(-1)


def yolo_logistic_scores(outputs: HeadOutputs) -> Tensor:
    """(B, A, C): sigmoid(objectness) * sigmoid(classes), Darknet's softmax=0."""
    return _objectness(outputs) * outputs.class_logits.sigmoid()


def _objectness(outputs: HeadOutputs) -> Tensor:
    """(B, A, 1)"""
    assert outputs.objectness is not None
    return outputs.objectness.sigmoid()[..., None]


# Darknet's softmax=1 and softmax=0
YOLO_SCORE_RULES: dict[str, ScoreRule] = {"softmax": yolo_scores, "logistic": yolo_logistic_scores}


def ssd_scores(outputs: HeadOutputs) -> Tensor:
    """(B, A, C): softmax over classes and background, without the background's column."""
    return outputs.class_logits.softmax(-1)[..., 1:]


# Pixels, or cells, from the origin: beyond any input, and small enough for float64 to keep groups apart.
SUPPRESSION_LIMIT = 2.0**20


# Of an image, for each detection that is wanted: an untrained network may keep a third of the best.
CANDIDATES = 4


class PostProcess(nn.Module):
    """Detections of a whole batch in one pass.

    Darknet (get_region_detections, do_nms_sort): score > .005; suppression per class at IoU > .45; no limit
    on numbers. Caffe (detection_output_layer): score > .01; the best 400 of each class; suppression per class
    at IoU > .45; the best 200 of each image. Neither clips boxes before the suppression.

    A diverging network gives huge boxes. They are returned as they are, and change nothing for other images
    and classes. Boxes and scores that are not finite are dropped; Darknet and Caffe keep such boxes.
    """

    kernel = "suppression"

    def __init__(
        self,
        *,
        coder: BoxCoder,
        score_rule: ScoreRule,
        score_threshold: float,
        nms_iou: float,
        nms: str = "hard",
        candidates_per_class: int | None = None,
        max_detections: int | None = None,
    ):
        """nms: "hard" (both papers), or one of SOFT_RULES; these lower scores, and so keep more boxes.
            "related", of classes in a tree: a class suppresses its ancestors and descendants, too.

        ValueError for another rule.
        """
        super().__init__()
        if nms not in ("hard", *SOFT_RULES, "related"):
            raise ValueError(f"nms={nms!r}: choose hard, {', '.join(SOFT_RULES)} or, with a tree, related")
        if nms == "related" and not isinstance(score_rule, TreeScores):
            raise ValueError("nms=related: it needs classes in a tree; set nms=hard")
        self.nms = nms
        self.coder = coder
        self.score_rule = score_rule
        self.score_threshold = score_threshold
        self.nms_iou = nms_iou
        self.candidates_per_class = candidates_per_class
        self.max_detections = max_detections

    def unsupported(self) -> str | None:
        """The kernel suppresses by IoU alone. See dispatch.FusedPart."""
        return None if self.nms == "hard" else f"nms={self.nms!r}"

    @torch.no_grad()
    def forward(self, outputs: HeadOutputs, grid: AnchorGrid, *, score: float = 0.0) -> Detections:
        """Detections in the frame of the model input, not clipped; `image` is the position in the batch.

        score: the lowest that is wanted. Fewer candidates are compared then; what is returned is the same.
        Of equal scores in an image, the one of the lower anchor comes first, then the one of the lower label.
        Synchronises with the device.
        """
        rated = label_scores(self.score_rule(outputs))
        scores = rated.values  # (B, A, K)
        boxes = self.coder.decode(outputs.offsets, grid)  # (B, A, 4)
        # If a network diverges, exp() overflows. A score is NaN or at most 1.
        finite = boxes.abs().amax(-1, keepdim=True) < torch.inf
        usable = (scores > self.score_threshold) & finite
        if self.nms not in SOFT_RULES:  # a worse candidate suppresses no better one
            usable &= scores >= score
        total = int(usable.sum())
        wanted = self.max_detections or total  # of each image
        if self.nms in SOFT_RULES:  # scores change, so no candidate can be left out before
            chosen, _ = self._best(scores, usable, total, scores[0].numel() if len(scores) else 0)
            return self._softly_suppressed(rated, boxes, chosen, wanted).above(score)
        count = CANDIDATES * wanted
        while True:
            chosen, least = self._best(scores, usable, total, count)
            detections = self._suppressed(rated, boxes, chosen, wanted)
            images = len(scores)
            if least is None or len(detections.image) == images * wanted:
                return detections
            number = torch.bincount(detections.image, minlength=images)
            if not ((least > -torch.inf) & (number < wanted)).any():
                return detections
            count *= 8  # rare: most of an image's best candidates are suppressed

    def _best(self, scores: Tensor, usable: Tensor, total: int, count: int) -> tuple[Tensor, Tensor | None]:
        """(B, A, C) bool: the best `count` candidates of each image, and all that equal the worst of them.

        Also (B,) that worst score, -inf for an image without more candidates; or None if no image has more.
        """
        images, anchors, classes = scores.shape
        limit = min(self.candidates_per_class or anchors, anchors)
        if total <= images * count:
            return usable, None
        scores = torch.where(usable, scores, -torch.inf)  # NaN would be the best
        if count < limit * classes:
            least = scores.flatten(1).topk(count).values[:, -1]
            return usable & (scores >= least.view(-1, 1, 1)), least
        if limit < anchors:
            return usable & (scores >= scores.topk(limit, 1).values[:, -1:]), None
        return usable, None

    def _suppressed(self, rated: Scores, boxes: Tensor, chosen: Tensor, wanted: int) -> Detections:
        """Candidates (B, A, K) -> the best `wanted` of each image after the suppression."""
        image, anchor, column = rows = chosen.nonzero().T  # (3, T)
        score = rated.values[image, anchor, column]
        order = _by_image(image, score)
        image, anchor, column = rows.index_select(1, order)
        keep = self._kept(boxes[image, anchor], image, rated.labels[image, anchor, column], rated)
        if self.max_detections:
            number = keep.cumsum(0)  # the best row of an image is kept
            keep &= number - number[torch.searchsorted(image, image)] < wanted
        kept = order[keep]
        image, anchor, column = rows[:, kept]
        return Detections(image, boxes[image, anchor], score[kept], rated.labels[image, anchor, column])

    def _kept(self, boxes: Tensor, image: Tensor, label: Tensor, rated: Scores) -> Tensor:
        """(T, 4) boxes of images and labels, the best first -> (T,) bool, which stay."""
        boxes = boxes.double().clamp(-SUPPRESSION_LIMIT, SUPPRESSION_LIMIT)
        if self.nms == "related":
            assert isinstance(self.score_rule, TreeScores)
            return suppress_related(boxes, image, label, self.score_rule.tree, iou=self.nms_iou)
        return suppress(
            boxes,
            image * rated.num_labels + label,
            len(rated.values) * rated.num_labels,
            iou=self.nms_iou,
            limit=self.candidates_per_class or rated.values.shape[1],
        )

    def _softly_suppressed(self, rated: Scores, boxes: Tensor, chosen: Tensor, wanted: int) -> Detections:
        """_suppressed() by a rule that lowers scores."""
        image, anchor, column = rows = chosen.nonzero().T  # (3, T)
        score = rated.values[image, anchor, column]
        order = _by_image(image, score)
        image, anchor, column = rows[:, order]
        label = rated.labels[image, anchor, column]
        score = decayed_scores(
            boxes[image, anchor].double().clamp(-SUPPRESSION_LIMIT, SUPPRESSION_LIMIT),
            score[order],
            image * rated.num_labels + label,
            rule=self.nms,
            iou=self.nms_iou,
            limit=self.candidates_per_class or rated.values.shape[1],
            least=self.score_threshold,
        )
        order = _by_image(image, score)
        order = order[score[order] > 0]
        image, anchor, label, score = image[order], anchor[order], label[order], score[order]
        first = torch.searchsorted(image, image)
        kept = torch.arange(len(image), device=image.device) - first < wanted
        return Detections(image[kept], boxes[image, anchor][kept], score[kept], label[kept])


def label_scores(values: Tensor | Scores) -> Scores:
    """What a score rule gives, with its labels: those of columns if it gives none."""
    if isinstance(values, Scores):
        return values
    labels = torch.arange(values.shape[2], device=values.device).expand_as(values)
    return Scores(values, labels, values.shape[2])


def _by_image(image: Tensor, score: Tensor) -> Tensor:
    """(T,) rows: image by image, the best score first in each; equal scores keep their order."""
    order = score.argsort(descending=True, stable=True)
    return order[image[order].argsort(stable=True)]


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
