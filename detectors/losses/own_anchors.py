"""The anchors of boxes, for the terms of RegionLoss that concern only these."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from detectors.boxes import paired_iou
from detectors.matching import owns
from detectors.structures import AnchorGrid, BoxCoder, EncodedTargets


class OwnAnchors(NamedTuple):
    """The anchor of each box (B, M); anchor 0 for a box without one, whose numbers then mean nothing."""

    anchor: Tensor  # (B, M) int64
    row: Tensor  # (T,) = (B * M,) int64, among all B * A anchors
    owner: Tensor  # (B, M) bool: the box has this anchor, and lost it to no later box
    grid: AnchorGrid  # of (B, M) anchors

    @staticmethod
    def of(encoded: EncodedTargets, grid: AnchorGrid) -> OwnAnchors:
        anchor = encoded.assigned.clamp(min=0)
        chosen = replace(
            grid, boxes_cxcywh=grid.boxes_cxcywh[anchor], stride=grid.stride[anchor], cell=grid.cell[anchor]
        )
        first = torch.arange(len(anchor), device=anchor.device)[:, None] * grid.num_anchors  # (B, 1)
        return OwnAnchors(anchor, (first + anchor).flatten(), owns(encoded), chosen)

    def rows(self, values: Tensor) -> Tensor:
        """(B, A, C) -> (B, M, C). index_select copies whole rows; gather would look up every number."""
        return values.flatten(0, 1).index_select(0, self.row).unflatten(0, self.anchor.shape)

    def iou(self, coder: BoxCoder, offsets: Tensor, encoded: EncodedTargets) -> Tensor:
        """(B, A, 4) offsets -> (B, M) IoU of each box with the prediction of its anchor."""
        return paired_iou(coder.decode(self.rows(offsets), self.grid), encoded.targets.boxes)


def multi_hot(labels: Tensor, encoded: EncodedTargets, logits: Tensor) -> Tensor:
    """(B, M) labels -> (B, M, C), like `logits`: 1 at the labels of all boxes that share an owner's anchor.

    Each box marks its label in the row of its anchor's owner; rows of other boxes mean nothing. A box without
    an anchor marks an extra column, which is dropped.
    """
    columns = logits.shape[-1] + 1
    owner = encoded.matched.gather(1, encoded.assigned.clamp(min=0)).clamp(min=0)  # (B, M)
    column = torch.where(encoded.assigned >= 0, labels, columns - 1)
    marks = logits.new_zeros(len(labels), labels.shape[1] * columns)
    return marks.scatter(1, owner * columns + column, 1.0).unflatten(1, (-1, columns))[..., :-1]
