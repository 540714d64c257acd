"""SSD's loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from detectors.coders import SSDBoxCoder
from detectors.kernels.dispatch import uses_triton
from detectors.kernels.packing import at_most
from detectors.losses.ablations import check_focal, iou_error, softmax_focal_error
from detectors.losses.row_cross_entropy import row_cross_entropy
from detectors.losses.shared_loss import SharedLoss, check_choice
from detectors.structures import BACKGROUND, IGNORED, AnchorGrid, EncodedTargets, HeadOutputs, builder

KERNEL_OUTPUTS = 32768  # class logits of an anchor that the kernel can hold


@builder("loss")
class MultiBoxLoss(SharedLoss):
    """SSD's loss, equations 1 to 3; by default as in Caffe (multibox_loss_layer.cpp, branch ssd, 4817bf8).

    L = (cross-entropy over positives and mined negatives + box_scale * smooth L1 over positives) / n,
    n = max(1, positives in the batch)

    Negatives are mined per image: for each positive, negatives_per_positive of those with the largest
    -log p(background). An image without boxes contributes nothing; a batch without boxes gives 0.
    """

    kernel = "multibox"

    def __init__(
        self,
        *,
        negatives_per_positive: float = 3.0,
        box_scale: float = 1.0,
        normalizer: str = "batch",
        recount_positives: bool = False,
        box_error: str = "smooth_l1",
        label_smoothing: float = 0.0,
        focal_gamma: float | None = None,
        focal_alpha: float = 0.25,
    ):
        """normalizer: "batch" divides by max(1, positives). "images" divides each image's loss by max(1, its
            positives), and takes the mean over images. "floor" divides by the sum over images of max(1, its
            positives).
        recount_positives: if an image has too few negatives, its first positives make up the number, so that
            their class error counts twice (torchvision).
        Not in the paper (losses/ablations.py):
        box_error: "smooth_l1", or 1 minus "giou" or "ciou" of the decoded box.
        label_smoothing: of the class term; mining still orders negatives by -log p(background).
        focal_gamma, focal_alpha: with a gamma, the class term is the focal loss of all anchors, without
            mining.
        """
        super().__init__()
        if negatives_per_positive < 0:
            raise ValueError(
                f"negatives_per_positive={negatives_per_positive}: 0 or more is needed; the paper has 3"
            )
        check_choice(
            "normalizer", normalizer, batch="Caffe, torchvision", images="NVIDIA", floor="mmdetection"
        )
        self.negatives_per_positive = negatives_per_positive
        self.box_scale = box_scale
        self.normalizer = normalizer
        self.recount_positives = recount_positives
        check_choice("box_error", box_error, smooth_l1="the paper", giou="ablation", ciou="ablation")
        check_focal(focal_gamma, focal_alpha, label_smoothing)
        if focal_gamma is not None and (label_smoothing or recount_positives):
            raise ValueError(
                f"focal_gamma={focal_gamma}: the focal loss mines no negatives and has hard labels; set "
                "label_smoothing=0 and recount_positives=false, or focal_gamma=null"
            )
        self.box_error = box_error
        self.label_smoothing = label_smoothing
        self.focal_gamma = focal_gamma
        self.focal_alpha = focal_alpha

    def unsupported(self) -> str | None:
        if self.recount_positives:
            return "recount_positives=true"
        covered = {"box_error": "smooth_l1", "label_smoothing": 0.0, "focal_gamma": None}
        changed = (name for name, value in covered.items() if getattr(self, name) != value)
        return next((f"{name}={getattr(self, name)!r}" for name in changed), None)

    def forward(self, outputs: HeadOutputs, encoded: EncodedTargets, grid: AnchorGrid) -> dict[str, Tensor]:
        """Terms box and class. outputs.class_logits: (B, A, C + 1), background first."""
        unsupported = self.unsupported() or _unsupported_inputs(outputs, encoded)
        if uses_triton(outputs.offsets.device, unsupported):
            return self._fused(outputs, encoded)
        return self.reference(outputs, encoded)

    def _fused(self, outputs: HeadOutputs, encoded: EncodedTargets) -> dict[str, Tensor]:
        from detectors.kernels.multibox_kernel import multibox

        assert isinstance(encoded.coder, SSDBoxCoder)
        divisors = None  # the kernel counts the positives of this process
        if self.average is not None and self.training:
            count = encoded.positive.sum(1, keepdim=True)
            divisors = self._normalizer(count).float().expand(len(count), 1)[:, 0]
        box, classes, *_ = multibox(
            outputs.offsets,
            outputs.class_logits,
            encoded.matched,
            encoded.targets.boxes,
            encoded.targets.labels,
            encoded.grid.boxes_cxcywh,
            encoded.coder.variances,
            divisors,
            self.negatives_per_positive,
            self.box_scale,
            self.normalizer,
        )
        return {"box": box, "class": classes}

    def reference(self, outputs: HeadOutputs, encoded: EncodedTargets) -> dict[str, Tensor]:
        positive = encoded.positive  # (B, A)
        count = positive.sum(1, keepdim=True)  # (B, 1)
        columns = encoded.labels + 1  # (B, A); column 0 is background, whose label is -1
        logits = outputs.class_logits.flatten(0, 1)
        error = row_cross_entropy(logits, columns.flatten()).view_as(columns)  # (B, A)
        divisor = self._normalizer(count)
        share = positive / divisor  # (B, A)
        box = (self._box_error(outputs, encoded) * share).sum() * self.box_scale
        if self.focal_gamma is not None:
            options = {"alpha": self.focal_alpha, "gamma": self.focal_gamma}
            focal = softmax_focal_error(logits, columns.flatten(), **options).view_as(columns)
            return {"box": box, "class": (focal * (encoded.matched != IGNORED) / divisor).sum()}
        counted = error
        if self.label_smoothing:
            counted = F.cross_entropy(
                logits, columns.flatten(), reduction="none", label_smoothing=self.label_smoothing
            ).view_as(columns)
        mined = self._mined(error, encoded, count, counted if self.label_smoothing else None)
        return {"box": box, "class": (counted * share).sum() + (mined / divisor).sum()}

    def _box_error(self, outputs: HeadOutputs, encoded: EncodedTargets) -> Tensor:
        """(B, A) errors; those of anchors without a box mean nothing, and are finite."""
        if self.box_error == "smooth_l1":
            return F.smooth_l1_loss(outputs.offsets, encoded.offsets, reduction="none").sum(-1)
        boxes, gt_boxes = (
            encoded.coder.decode(offsets, encoded.grid) for offsets in (outputs.offsets, encoded.offsets)
        )
        return iou_error(self.box_error, boxes, gt_boxes)

    def _normalizer(self, count: Tensor) -> Tensor:
        """(B, 1) positives of each image -> () or (B, 1) divisor of the errors."""
        if self.normalizer == "batch":
            positives = self._shared(count.sum())
            return torch.where(positives > 0, positives, 1)  # a mean over processes can be below 1
        if self.normalizer == "floor":
            return self._shared(count.clamp(min=1).sum())
        return count.clamp(min=1) * len(count)

    def _mined(
        self, error: Tensor, encoded: EncodedTargets, count: Tensor, counted: Tensor | None = None
    ) -> Tensor:
        """(B, A) errors of the hardest negatives, largest first, then zeros. error: (B, A) cross-entropy.
        counted: (B, A) errors that are returned instead.

        The cross-entropy of a negative, -log p(background), is its own mining key, so the k largest need no
        index: take them in order and keep ranks below k.
        """
        background = encoded.matched == BACKGROUND
        negatives = self._negatives(encoded, count)
        rank = torch.arange(error.shape[1], device=error.device)
        kept = at_most(negatives, error.shape[1])
        if self.recount_positives:
            # After the negatives come the positives in their order, then ignored anchors.
            others = torch.where(encoded.positive, -1.0 - rank, -torch.inf)
            key = torch.where(background, error, others)
            hardest = (error if counted is None else counted).gather(1, key.topk(kept).indices)
        elif counted is not None:
            hardest = counted.gather(1, torch.where(background, error, -1).topk(kept).indices)
        else:
            hardest = torch.where(background, error, -1).topk(kept).values
        return F.pad(hardest, (0, error.shape[1] - kept)) * (rank < negatives)

    def _negatives(self, encoded: EncodedTargets, count: Tensor) -> Tensor:
        """(B, 1) negatives to mine in each image; count: (B, 1) positives."""
        candidates = encoded.matched != IGNORED if self.recount_positives else encoded.matched == BACKGROUND
        return torch.minimum(self.negatives_per_positive * count, candidates.sum(1, keepdim=True))

    @torch.no_grad()
    def statistics(
        self, outputs: HeadOutputs, encoded: EncodedTargets, grid: AnchorGrid
    ) -> dict[str, Tensor]:
        """negatives_per_positive: the ratio that mining reaches; it is lower where negatives run out."""
        count = encoded.positive.sum(1, keepdim=True)
        return {"negatives_per_positive": self._negatives(encoded, count).sum() / count.sum().clamp(min=1)}


def _unsupported_inputs(outputs: HeadOutputs, encoded: EncodedTargets) -> str | None:
    """What the kernel cannot do with these inputs, or None."""
    if not isinstance(encoded.coder, SSDBoxCoder):
        return f"offsets of {type(encoded.coder).__name__}"
    if outputs.class_logits.shape[-1] > KERNEL_OUTPUTS:
        return f"{outputs.class_logits.shape[-1]} class logits; it holds {KERNEL_OUTPUTS}"
    for name, tensor in (("offsets", outputs.offsets), ("class logits", outputs.class_logits)):
        if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            return f"{name} of {tensor.dtype}"
    exact = (encoded.targets.boxes, encoded.grid.boxes_cxcywh, encoded.coder.variances)
    return next((f"boxes of {x.dtype}" for x in exact if x.dtype != torch.float32), None)
