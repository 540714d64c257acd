"""Anchors that fit a data set: k-means with the distance 1 - IoU, and a search for SSD's sizes.

A shape is (width, height). The IoU of two shapes is that of two boxes with the same centre. "Mean IoU" is
YOLO9000's Avg IOU (section 2, table 1): the mean, over all boxes, of the IoU with the best anchor. Both
searches increase it step by step.

YOLO9000 does not say how to compute the centre of a cluster. The mean of the shapes, as in plain k-means,
does not maximise the mean IoU and can lower it. The mean IoU stops increasing at a weighted median of the
widths and of the heights, where the weight of a box is how fast its IoU changes (_weighted_medians). On
VOC2007 trainval, k = 5, without difficult objects, the mean gives .6258, the median .6277, the weighted
median .6283.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

SETTLED = 1e-6  # gain in mean IoU; a search stops below it
ITERATIONS = 300  # of k-means, at most
GRID = 8  # candidates between a size and its neighbour, in each round of size_search


class Shapes(NamedTuple):
    """The distinct shapes of a set of boxes, sorted: the order of the boxes does not matter."""

    wh: np.ndarray  # (S, 2) float64
    counts: np.ndarray  # (S,) float64, boxes of each shape

    def mean_iou(self, anchors: np.ndarray) -> float:
        return float(self.counts @ best_iou(self.wh, anchors) / self.counts.sum())

    def sample(self, boxes: int, seed: int) -> Shapes:
        """Shapes of `boxes` random boxes, drawn without replacement; all shapes if there are fewer boxes."""
        if self.counts.sum() <= boxes:
            return self
        shape_of_box = np.repeat(np.arange(len(self.wh)), self.counts.astype(np.int64))
        sampled = np.random.default_rng([seed, boxes]).choice(shape_of_box, boxes, replace=False)
        counts = np.bincount(sampled, minlength=len(self.wh)).astype(np.float64)
        return Shapes(self.wh[counts > 0], counts[counts > 0])


def shapes_of(wh: np.ndarray) -> Shapes:
    """wh: (T, 2) widths and heights of boxes in any unit. ValueError: no boxes, or a side not above 0."""
    wh = np.asarray(wh, dtype=np.float64).reshape(-1, 2)
    if not len(wh):
        raise ValueError(
            "no boxes to cluster: training uses none of the training split (data.train, data.train_difficult)"
        )
    valid = (np.isfinite(wh) & (wh > 0)).all(1)
    if not valid.all():
        raise ValueError(f"{(~valid).sum()} of {len(wh)} boxes have a side that is not above 0")
    wh = wh[np.lexsort((wh[:, 1], wh[:, 0]))]
    first = np.flatnonzero(np.append(True, (wh[1:] != wh[:-1]).any(1)))
    return Shapes(wh[first], np.diff(np.append(first, len(wh))).astype(np.float64))


class ShapeColumns:
    """Widths, heights and areas of S shapes, each in one piece of memory."""

    def __init__(self, wh: np.ndarray):
        """wh: (S, 2)"""
        self.sides = np.ascontiguousarray(wh.T)  # (2, S)
        self.areas = self.sides[0] * self.sides[1]

    def iou(self, width: float | np.ndarray, height: float | np.ndarray) -> np.ndarray:
        """(S,) IoU of each shape with one other, or with an (S,) other of its own."""
        inter = np.minimum(self.sides[0], width)
        inter *= np.minimum(self.sides[1], height)
        union = self.areas + width * height
        union -= inter
        inter /= union
        return inter


def best_iou(wh: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """(S, 2), (K, 2) -> (S,) IoU of each shape with its best anchor."""
    columns = ShapeColumns(wh)
    best = np.zeros(len(wh))
    for width, height in np.asarray(anchors, dtype=np.float64):
        np.maximum(best, columns.iou(width, height), out=best)
    return best


class Clustering(NamedTuple):
    anchors: np.ndarray  # (K, 2), sorted by area
    mean_iou: float


def kmeans(shapes: Shapes, k: int, *, restarts: int = 5, seed: int = 0) -> Clustering:
    """The best result of several starts. Start r depends on (seed, k, r) only: more restarts are never worse.

    ValueError unless 1 <= k <= number of distinct shapes and restarts >= 1.
    """
    if not 1 <= k <= len(shapes.wh):
        raise ValueError(
            f"k={k}: must be 1 or more, and at most {len(shapes.wh)}, the number of distinct shapes"
        )
    if restarts < 1:
        raise ValueError(f"restarts={restarts}: must be 1 or more")
    search = _Iterations(shapes)
    results = [search.improved(search.start(k, np.random.default_rng([seed, k, r]))) for r in range(restarts)]
    anchors = max(results, key=shapes.mean_iou)
    anchors = anchors[np.lexsort((anchors[:, 0], anchors.prod(1)))]
    return Clustering(anchors, shapes.mean_iou(anchors))


class _Iterations:
    """The steps of k-means, and what they need of the shapes. S runs over the distinct shapes."""

    def __init__(self, shapes: Shapes):
        self.shapes = shapes
        self.columns = ShapeColumns(shapes.wh)
        self.weighted_sides = shapes.counts * self.columns.sides  # (2, S)
        self.by_height = np.argsort(self.columns.sides[1], kind="stable")  # the shapes are sorted by width

    def start(self, k: int, random: np.random.Generator) -> np.ndarray:
        """(k, 2) distinct shapes, those far from earlier ones with higher probability (k-means++)."""
        counts = self.shapes.counts
        chosen: list[int] = []
        weights = counts
        best = np.zeros(len(counts))
        for _ in range(k):
            chosen.append(int(random.choice(len(weights), p=weights / weights.sum())))
            np.maximum(best, self.columns.iou(*self.shapes.wh[chosen[-1]]), out=best)
            weights = counts * np.maximum(1 - best, 1e-12)  # 0 for shapes that differ by rounding only
            weights[chosen] = 0
        return self.shapes.wh[chosen]

    def improved(self, anchors: np.ndarray) -> np.ndarray:
        """Assigns boxes to their best anchor, moves each anchor, and repeats while the mean IoU increases."""
        counts = self.shapes.counts
        previous = 0.0
        for _ in range(ITERATIONS):
            assigned, best = self._assigned(anchors)
            mean_iou = float(counts @ best / counts.sum())
            if mean_iou - previous < SETTLED:
                break
            previous = mean_iou
            moved = self._weighted_medians(anchors, assigned)
            gain = self.columns.iou(*moved.T.take(assigned, axis=1))
            gain -= best
            gain *= counts
            helps = np.bincount(assigned, gain, len(anchors)) > 0
            anchors = np.where(helps[:, None], moved, anchors)
        return anchors

    def _assigned(self, anchors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(S,) row of each shape's best anchor, the first of equals, and (S,) its IoU."""
        best = self.columns.iou(*anchors[0])
        assigned = np.zeros(len(best), np.intp)
        for n in range(1, len(anchors)):
            iou = self.columns.iou(*anchors[n])
            np.putmask(assigned, iou > best, n)
            np.maximum(best, iou, out=best)
        return assigned, best

    def _weighted_medians(self, anchors: np.ndarray, assigned: np.ndarray) -> np.ndarray:
        """(K, 2) The shapes with the greatest sums of IoUs, if the slopes at `anchors` (w, h) were constant.

        With the union U and m = min(h, h_i), dIoU_i / dw is m w_i h_i / U^2 for w < w_i and -m w_i h / U^2
        for w > w_i. The two sides balance at the median of the w_i with these weights. The same holds for h.
        An anchor without boxes stays.
        """
        sides = self.columns.sides
        own = anchors.T.take(assigned, axis=1)  # (2, S)
        overlap = np.minimum(sides, own)
        union = self.columns.areas + own[0] * own[1] - overlap[0] * overlap[1]
        squared = union * union
        small = assigned.astype(np.min_scalar_type(len(anchors)))  # whose stable sort takes linear time
        rows = (
            np.argsort(small, kind="stable"),
            self.by_height.take(np.argsort(small.take(self.by_height), kind="stable")),
        )  # the shapes of the first anchor, of the second, ...: by ascending width, by ascending height
        ends = np.bincount(assigned, minlength=len(anchors)).cumsum()
        moved = anchors.copy()
        for side, other in ((0, 1), (1, 0)):
            weights = self.weighted_sides[side] * overlap[other]
            weights *= np.where(sides[side] > own[side], sides[other], own[other])
            weights /= squared
            weights = weights.take(rows[side])
            for n, (begin, end) in enumerate(pairwise([0, *ends.tolist()])):
                if begin < end:
                    moved[n, side] = sides[side, rows[side][begin + _half(weights[begin:end])]]
        return moved


def _half(weights: np.ndarray) -> int:
    """The first place at which the running sum reaches half of the sum."""
    cumulative = weights.cumsum()
    return int(cumulative.searchsorted(cumulative[-1] / 2))


def size_search(
    shapes: Shapes, sizes: Sequence[int], boxes_of: Callable[[Sequence[int]], np.ndarray]
) -> tuple[list[int], float]:
    """SSD's sizes, ascending whole pixels, whose default boxes have a high mean IoU; and that mean IoU.

    sizes: the start. boxes_of: sizes -> (K, 2) shapes of their default boxes. Moves one size at a time
    between its neighbours until no move helps. The result is never worse than the start but may be a local
    maximum.
    """
    sizes = list(sizes)
    best = shapes.mean_iou(boxes_of(sizes))
    improved = True
    while improved:
        improved = False
        for n in range(len(sizes)):
            for size in _candidates(sizes, n):
                candidate = [*sizes[:n], size, *sizes[n + 1 :]]
                mean_iou = shapes.mean_iou(boxes_of(candidate))
                if mean_iou > best + SETTLED:
                    sizes = candidate
                    best = mean_iou
                    improved = True
    return sizes, best


def _candidates(sizes: Sequence[int], n: int) -> list[int]:
    """Sizes between the neighbours of size n, denser near it. The first may halve, the last may double."""
    low = sizes[n - 1] if n else sizes[n] // 2
    high = sizes[n + 1] if n + 1 < len(sizes) else 2 * sizes[n]
    halvings = [sizes[n] + (edge - sizes[n]) // 2**step for edge in (low, high) for step in range(GRID)]
    return sorted({size for size in halvings if low < size < high and size >= 1} - {sizes[n]})


def size_start(shapes: Shapes, count: int) -> list[int]:
    """`count` ascending whole sizes: quantiles of sqrt(area) with equal shares of boxes between them."""
    sides = np.sqrt(shapes.wh.prod(1))
    order = np.argsort(sides)
    share = np.cumsum(shapes.counts[order]) / shapes.counts.sum()
    ranks = np.arange(count)
    quantiles = np.interp((ranks + 0.5) / count, share, sides[order]).round().astype(np.int64)
    distinct = np.maximum.accumulate(np.maximum(quantiles - ranks, 1)) + ranks  # at least 1 px apart
    return [int(size) for size in distinct]
