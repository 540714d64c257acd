"""What is traced into a file: a network with plain tensors as outputs, and YOLO's or SSD's suppression in
operations that torch.export, TorchScript and ONNX have.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import nms

from detectors.models.classifier import Classifier
from detectors.models.detector import Detector
from detectors.postprocess import SUPPRESSION_LIMIT
from detectors.wordtree.tree_scores import TreeScores

HEAD_OUTPUTS = ("offsets", "class_logits", "objectness")
DETECTION_OUTPUTS = ("image", "boxes", "scores", "labels")
SCORED_OUTPUTS = ("candidate_boxes", "candidate_scores")
UNUSABLE_SCORE = -1.0  # the score of a box that is not finite; a score of the network is 0 or more


def traced_module(network: Detector | Classifier, size: tuple[int, int], *, with_boxes: bool) -> nn.Module:
    """The network in evaluation mode with tensors as outputs.

    size: (height, width) of the input. with_boxes: they are all candidates, before the suppression.
    """
    if isinstance(network, Classifier):
        module = LogitsOnly(network)
    elif with_boxes:
        module = ScoredBoxes(network, size)
    else:
        module = HeadsOnly(network, size)
    return module.eval()


class LogitsOnly(nn.Module):
    """A classifier: images -> its logits (B, C)."""

    outputs = ("logits",)

    def __init__(self, network: Classifier):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """images: (B, 3, H, W) uint8 RGB"""
        return (self.network(images),)


class HeadsOnly(nn.Module):
    """Images -> offsets (B, A, 4), class logits (B, A, C or C + 1), and objectness (B, A) or none."""

    def __init__(self, network: Detector, size: Sequence[int]):
        """size: (height, width) of the input."""
        super().__init__()
        self.network = network
        with torch.no_grad():
            outputs = network(torch.zeros(1, 3, *size, dtype=torch.uint8))
        self.outputs = tuple(name for name in HEAD_OUTPUTS if getattr(outputs, name) is not None)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """images: (B, 3, H, W) uint8 RGB"""
        outputs = self.network(images)
        return tuple(getattr(outputs, name) for name in self.outputs)


class ScoredBoxes(nn.Module):
    """A detector: images -> boxes (B, A, 4) in the frame of the input, not clipped, and scores (B, A, C).

    The scores of a box that is not finite are UNUSABLE_SCORE.
    """

    outputs = SCORED_OUTPUTS

    def __init__(self, network: Detector, size: Sequence[int]):
        """size: (height, width) of the input. ValueError for soft suppression, and for classes in a tree."""
        super().__init__()
        if network.postprocess.nms != "hard":
            raise ValueError(
                f"nms={network.postprocess.nms!r}: only hard suppression can be written into a file; leave "
                "out --with-boxes, and suppress where the file runs"
            )
        if isinstance(network.postprocess.score_rule, TreeScores):
            raise ValueError(
                "--with-boxes: classes in a tree cannot be scored inside of a file; leave it out"
            )
        self.network = network
        self.grid = network.grid(size)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images: (B, 3, H, W) uint8 RGB"""
        outputs = self.network(images)
        boxes = self.network.postprocess.coder.decode(outputs.offsets, self.grid)
        finite = (boxes.abs() < torch.inf).all(-1, keepdim=True)  # NaN is not below infinity
        return boxes, torch.where(finite, self.network.postprocess.score_rule(outputs), UNUSABLE_SCORE)


class SuppressedBoxes(nn.Module):
    """A detector: images -> image (T,), boxes (T, 4), scores (T,), labels (T,), as PostProcess gives them.

    torchvision's nms sees all groups at once, shifted apart. In float64 the shift rounds coordinates by less
    than 1e-5 pixels, so the IoU of two boxes differs from PostProcess's by rounding alone.

    torchvision 0.26 tells torch.export that nms keeps two boxes or more; a .pt2 file raises where it keeps
    fewer. So it is given two more, apart from all others and with the lowest score: they come last.
    """

    outputs = DETECTION_OUTPUTS
    extra: Tensor  # (2, 4) boxes outside of every group

    def __init__(self, scored: ScoredBoxes):
        super().__init__()
        self.scored = scored
        post = scored.network.postprocess
        self.score_threshold = post.score_threshold
        self.nms_iou = post.nms_iou
        self.max_detections = post.max_detections
        anchors = scored.grid.num_anchors
        self.limit = min(post.candidates_per_class or anchors, anchors)
        corners = torch.tensor([[-4.0, -4.0, -3.0, -3.0], [-6.0, -6.0, -5.0, -5.0]], dtype=torch.float64)
        self.register_buffer("extra", corners * SUPPRESSION_LIMIT, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """images: (B, 3, H, W) uint8 RGB"""
        boxes, scores = self.scored(images)
        usable = scores > self.score_threshold
        if self.limit < scores.shape[1]:
            best = scores.argsort(dim=1, descending=True, stable=True)[:, : self.limit]
            usable = usable & torch.zeros_like(usable).scatter(
                1, best, torch.ones_like(best, dtype=torch.bool)
            )
        image, anchor, label = usable.nonzero().unbind(1)  # (T,) each
        score = scores[image, anchor, label]
        box = boxes[image, anchor]
        group = (image * scores.shape[2] + label).double()[:, None]
        apart = box.double().clamp(-SUPPRESSION_LIMIT, SUPPRESSION_LIMIT) + group * (3 * SUPPRESSION_LIMIT)
        ranked = torch.cat([score.double(), torch.full_like(self.extra[:, 0], UNUSABLE_SCORE)])
        # the best score first; of equal ones, the first row
        kept = nms(torch.cat([apart, self.extra]), ranked, self.nms_iou)[:-2]
        kept = kept[image[kept].argsort(stable=True)]
        if self.max_detections:
            of = image[kept]
            rank = torch.arange(kept.shape[0], device=kept.device) - torch.searchsorted(of, of)
            kept = kept[rank < self.max_detections]
        return image[kept], box[kept], score[kept], label[kept]
