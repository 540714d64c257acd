"""Scores of boxes whose classes are a WordTree: one label where the walk down ends, or all of some nodes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors.kernels.packing import rows_where
from detectors.structures import HeadOutputs, Scores
from detectors.wordtree.nodes import WordTree
from detectors.wordtree.tree_files import load_map
from detectors.wordtree.tree_softmax import TreeSoftmax

TREE_RULES = ("as_meant", "darknet", "every_node")


class TreeScores(nn.Module):
    """A score rule. With o = sigmoid(objectness) and P(node) = Pr(node | box is an object):

    as_meant    one label, where the walk down ends: as long as P(node) > threshold. Its score is o * P(node)
    darknet     the same with the product of P over the path in place of P (Darknet multiplies twice), so it
                ends further up. The score is o alone
    every_node  o * P(node) of all nodes; their number is that of the tree

    With a map, all rules give o * P(node) of its nodes. Labels are node numbers.
    """

    columns: Tensor | None  # (K,) the nodes that are scored; None: the one where the walk ends

    def __init__(
        self,
        tree: WordTree,
        *,
        rule: str = "as_meant",
        threshold: float = 0.5,
        detection_map: Path | str | Sequence[int] | None = None,
        least: float = 0.0,
    ):
        """detection_map: see load_map. least: scores up to this are not needed; they may be 0 instead."""
        super().__init__()
        if rule not in TREE_RULES:
            raise ValueError(f"tree_rule={rule!r}: choose one of {', '.join(TREE_RULES)}")
        if not 0 <= threshold < 1:
            raise ValueError(f"tree_threshold={threshold}: must be from 0 to less than 1; Darknet has 0.5")
        self.softmax = TreeSoftmax(tree)
        self.rule = rule
        self.threshold = threshold
        self.least = least
        nodes = None if detection_map is None else load_map(detection_map, tree)
        scored = range(len(tree)) if nodes is None and rule == "every_node" else nodes
        columns = None if scored is None else torch.tensor(scored, device="cpu")
        self.register_buffer("columns", columns, persistent=False)
        self.nodes = nodes  # the same, or None if they are all

    @property
    def tree(self) -> WordTree:
        return self.softmax.tree

    @torch.no_grad()
    def forward(self, outputs: HeadOutputs) -> Scores:
        """Scores of K nodes, or of one node for each box. Only boxes with o > least are computed on a CPU."""
        assert outputs.objectness is not None
        objectness = outputs.objectness.sigmoid()  # (B, A)
        if self.columns is not None:
            log_objectness = F.logsigmoid(outputs.objectness)
            scores = self.softmax.probabilities(outputs.class_logits, self.nodes, log_objectness)
            return Scores(scores, self.columns.expand_as(scores), len(self.tree))
        rows = rows_where(objectness > self.least)
        logits = outputs.class_logits.flatten(0, 1)
        node, probability = self.softmax.walk(logits, self.threshold, rows, twice=self.rule == "darknet")
        score = objectness.flatten()[rows]
        if self.rule == "as_meant":
            score = score * probability
        shape = (*objectness.shape, 1)
        scores = objectness.new_zeros(objectness.numel()).index_copy_(0, rows, score).view(shape)
        labels = rows.new_zeros(objectness.numel()).index_copy_(0, rows, node).view(shape)
        return Scores(scores, labels, len(self.tree))
