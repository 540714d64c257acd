"""RegionLoss on a WordTree: the class term over paths, and images of which only the label is known.

With p = Pr(node | parent), a softmax in each group of siblings (detectors/wordtree/):

    class     1/B  sum over boxes of  class_scale * sum of -ln p(a) over a = the box's node and its ancestors
                                   =  class_scale * -ln P(node)

Groups below the node and off its path get no gradient: a box labelled "dog" teaches nothing about breeds. If
boxes share an anchor, each group learns from the last of those whose path it is on.

An image with a label only has one positive anchor, where objectness * P(label) is the largest. It enters the
class term as a box does; it has no box and no prior term. Its other anchors learn "no object".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from detectors.kernels.packing import packs, rows_where
from detectors.losses.own_anchors import OwnAnchors
from detectors.structures import AnchorGrid, EncodedTargets, HeadOutputs
from detectors.wordtree.nodes import WordTree
from detectors.wordtree.tree_files import load_map
from detectors.wordtree.tree_paths import TreePaths
from detectors.wordtree.tree_softmax import TreeSoftmax
from detectors.wordtree.tree_sources import load_tree

PAPER_OBJECTNESS = 0.3  # the IoU that the paper assumes for the best box of an image with a label only


class LabelAnchors(NamedTuple):
    """Which images have a label only, and their positive anchors."""

    labelled: Tensor  # (B,) bool
    anchor: Tensor  # (B,) int64; of other images it means nothing
    at_anchor: Tensor  # (B, A) bool: the positive anchors


class TreeClasses(nn.Module):
    """The parts of RegionLoss that depend on the tree."""

    label_map: Tensor | None  # (classes of the data set,) nodes

    def __init__(
        self,
        tree: WordTree | Path | str | Mapping[str, Any],
        label_map: Path | str | Sequence[int] | None = None,
    ):
        """tree: see load_tree. label_map: see load_map; labels of boxes -> nodes. None: they are nodes."""
        super().__init__()
        self.softmax = TreeSoftmax(load_tree(tree))
        nodes = (
            None if label_map is None else torch.tensor(load_map(label_map, self.softmax.tree), device="cpu")
        )
        self.register_buffer("label_map", nodes, persistent=False)

    def nodes(self, targets_labels: Tensor) -> Tensor:
        """(B, M) labels of boxes -> (B, M) nodes. ValueError for a label that the map does not have."""
        if self.label_map is None:
            return targets_labels
        if packs(targets_labels.device) and targets_labels.numel():
            highest = int(targets_labels.max())
            if highest >= len(self.label_map):
                raise ValueError(
                    f"a box has the label {highest}, and label_map {len(self.label_map)} entries, from 0; "
                    "give the map of this data set"
                )
        return self.label_map[targets_labels]

    @torch.no_grad()
    def labelled_images(
        self, outputs: HeadOutputs, encoded: EncodedTargets, grid: AnchorGrid
    ) -> LabelAnchors | None:
        """None if no image of the data set has a label only.

        Of equal anchors the first in Darknet's order (anchor, row, column) counts.
        """
        labels = encoded.targets.image_labels  # (B,)
        if labels is None:
            return None
        assert outputs.objectness is not None
        rows = rows_where(labels >= 0)  # (L,)
        paths = TreePaths.of(self.softmax, labels[rows].clamp(min=0))
        place = torch.arange(grid.num_anchors, device=rows.device)[:, None]
        logits = outputs.class_logits[rows[:, None, None], place, paths.column[:, None]]  # (L, A, P)
        probability = paths.log_p(logits).sum(-1).exp().float()  # (L, A)
        scores = outputs.objectness[rows].float().sigmoid() * probability
        (level,) = grid.levels
        cells = level.rows * level.columns
        best = scores.unflatten(1, (cells, level.per_location)).transpose(1, 2).flatten(1).argmax(1)
        best = best % cells * level.per_location + best // cells  # Darknet's number -> ours
        anchor = labels.new_zeros(labels.shape).index_copy(0, rows, best)
        labelled = labels >= 0
        at_anchor = torch.arange(grid.num_anchors, device=rows.device) == anchor[:, None]
        return LabelAnchors(labelled, anchor, at_anchor & labelled[:, None])

    def errors(
        self,
        outputs: HeadOutputs,
        encoded: EncodedTargets,
        own: OwnAnchors,
        images: LabelAnchors | None,
    ) -> tuple[Tensor, Tensor]:
        """(T, D) -ln p of the ancestors of each label by level, and what it weighs: 1, or 0 where it is
        replaced by a later one or below the node. T = B * M labels of boxes, then B of images, if any.
        """
        usable = encoded.assigned >= 0  # (B, M)
        nodes = torch.where(usable, self.nodes(encoded.targets.labels), 0).flatten()
        row = own.row
        counted = usable.flatten()
        if images is not None and encoded.targets.image_labels is not None:
            first = torch.arange(len(images.anchor), device=row.device) * encoded.matched.shape[1]
            nodes = torch.cat([nodes, encoded.targets.image_labels.clamp(min=0)])
            row = torch.cat([row, first + images.anchor])
            counted = torch.cat([counted, images.labelled])
        paths = TreePaths.of(self.softmax, nodes)
        logits = outputs.class_logits.flatten(0, 1).index_select(0, row).gather(1, paths.column)  # (T, P)
        boxes = usable.numel()
        group = paths.group[:boxes].unflatten(0, usable.shape)  # (B, M, D)
        lasting = torch.cat([_lasting(group, encoded).flatten(0, 1), paths.group[boxes:] >= 0])
        return -paths.log_p(logits), (lasting & counted[:, None]).to(logits.dtype)


def _lasting(group: Tensor, encoded: EncodedTargets) -> Tensor:
    """(B, M, D) groups on the path of each box -> (B, M, D) bool: no later box of its anchor has the group.

    Groups of equal paths stand on equal levels, because a group has one parent.
    """
    anchor = torch.where(encoded.assigned >= 0, encoded.assigned, -1)  # (B, M)
    number = torch.arange(anchor.shape[1], device=anchor.device)
    later = (anchor[:, :, None] == anchor[:, None]) & (number[:, None] < number) & (anchor >= 0)[:, None]
    replaced = (later[..., None] & (group[:, :, None] == group[:, None])).any(2)
    return (group >= 0) & ~replaced
