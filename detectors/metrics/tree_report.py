"""What a tree of classes adds to the numbers of an evaluation: hits at every level, and average precision
of the classes that no box of the training showed.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from detectors.annotations import Annotations
from detectors.boxes import paired_iou
from detectors.metrics.arrays import DetectionArrays, pairs_in_images, to_arrays
from detectors.structures import Detections
from detectors.wordtree.nodes import WordTree

IMAGES_AT_ONCE = 64
HIT_IOU = 0.5  # a detection has to overlap a box by more


class TaughtNodes(NamedTuple):
    """The nodes that are the classes, and what the training split says about them."""

    ancestors: np.ndarray  # (N, D) int64: a node's ancestor on each level from the roots on, then -1
    boxed: np.ndarray | None = None  # (N,) bool: a box of it, or of a node below it; None: not known
    labelled: np.ndarray | None = None  # (N,) bool: an image with a label alone

    @classmethod
    def of(cls, tree: WordTree, training: Annotations | None) -> TaughtNodes:
        """training: the ground truth of the training split; None: not known."""
        ancestors = np.asarray(tree.ancestors)
        if training is None:
            return cls(ancestors)
        labels = training.image_labels
        alone = np.zeros(0, np.int64) if labels is None else labels[labels >= 0]
        boxes = training.labels[~training.crowd]
        return cls(ancestors, _with_ancestors(boxes, ancestors), _with_ancestors(alone, ancestors))

    @property
    def depth(self) -> np.ndarray:
        """(N,) 1 for a root."""
        return (self.ancestors >= 0).sum(1)

    def taught_by(self, node: int) -> str:
        """boxes, labels or nothing: what the training split has of a node."""
        assert self.boxed is not None
        assert self.labelled is not None
        if self.boxed[node]:
            return "boxes"
        return "labels" if self.labelled[node] else "nothing"


def _with_ancestors(nodes: np.ndarray, ancestors: np.ndarray) -> np.ndarray:
    """(N,) bool: these nodes and all above them."""
    marked = np.zeros(len(ancestors), bool)
    above = ancestors[np.unique(nodes)]
    marked[above[above >= 0]] = True
    return marked


def tree_scalars(
    annotations: Annotations, detections: Detections, per_class: Mapping[str, np.ndarray], tree: TaughtNodes
) -> dict[str, float | None]:
    """AP and AP50 of the classes with and without boxes in training; hits at every level that has truths.

    per_class: AP and AP50, (N,) each, below 0 without ground truth. None: no such class has ground truth.
    """
    scalars: dict[str, float | None] = {}
    if tree.boxed is not None:
        for name, values in per_class.items():
            known = values >= 0
            for group, chosen in (("boxes", tree.boxed), ("no_boxes", ~tree.boxed)):
                these = values[known & chosen]
                scalars[f"{name}_{group}"] = float(these.mean()) if len(these) else None
    hits = hits_by_level(annotations, detections, tree)
    return scalars | {f"hits_level{level + 1}": share for level, share in enumerate(hits)}


def hits_by_level(annotations: Annotations, detections: Detections, tree: TaughtNodes) -> list[float]:
    """For each level from the roots on: of the boxes whose class lies there or deeper, the share that is hit.

    A box is hit on a level if, of all detections that overlap it and name a class there or deeper, the one
    with the best score names the box's own ancestor on that level. `difficult` and crowd boxes do not count.
    """
    found = to_arrays(annotations, detections)
    counted = ~(annotations.difficult | annotations.crowd)
    levels = int(tree.depth[annotations.labels[counted]].max(initial=0))
    hits = np.zeros((levels, len(annotations.labels)), bool)
    order = np.argsort(found.image, kind="stable")
    starts = np.searchsorted(
        found.image[order], np.arange(0, len(annotations) + IMAGES_AT_ONCE, IMAGES_AT_ONCE)
    )
    for start, end in pairwise(starts):
        _note_hits(hits, annotations, found, order[start:end], tree.ancestors)
    shares = []
    for level in range(levels):
        asked = counted & (tree.depth[annotations.labels] > level)
        shares.append(float(hits[level, asked].mean()))
    return shares


def _note_hits(
    hits: np.ndarray,
    annotations: Annotations,
    found: DetectionArrays,
    rows: np.ndarray,
    ancestors: np.ndarray,
) -> None:
    """Marks the boxes of some images that are hit. rows: their detections."""
    detection, truth = pairs_in_images(annotations, found.image[rows])
    detection = rows[detection]
    iou = paired_iou(
        torch.from_numpy(found.boxes_original[detection]), torch.from_numpy(annotations.boxes_original[truth])
    ).numpy()
    near = iou > HIT_IOU
    detection, truth = detection[near], truth[near]
    best_first = np.lexsort((-found.scores[detection], truth))
    detection, truth = detection[best_first], truth[best_first]
    for level in range(len(hits)):
        named = ancestors[found.labels[detection], level]
        here = np.flatnonzero(named >= 0)
        boxes, first = np.unique(truth[here], return_index=True)
        hits[level, boxes] = named[here[first]] == ancestors[annotations.labels[boxes], level]


def most_specific(detections: Detections, tree: TaughtNodes) -> Detections:
    """Of the detections that share a box, the one of the deepest class; of several, that of the best score.

    For pictures: a rule that scores every node gives a box for each ancestor, too.
    """
    if not len(detections.scores):
        return detections
    places = torch.cat([detections.image[:, None].double(), detections.boxes.double()], 1)
    place = places.unique(dim=0, return_inverse=True)[1]
    depth = tree.depth[detections.labels.cpu().numpy()]
    order = np.lexsort((-detections.scores.cpu().numpy(), -depth, place.cpu().numpy()))
    first = np.unique(place.cpu().numpy()[order], return_index=True)[1]
    keep = torch.from_numpy(np.sort(order[first])).to(detections.labels.device)
    return Detections(
        detections.image[keep], detections.boxes[keep], detections.scores[keep], detections.labels[keep]
    )
