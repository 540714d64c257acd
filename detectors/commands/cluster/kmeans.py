"""Which anchors fit a data set: k-means with the distance 1 - IoU, and a search for SSD's sizes.

A shape is (width, height); its IoU with another is that of the two boxes laid on one centre. "Mean IoU" is YOLO9000's Avg IOU (section 2,
table 1): the mean over boxes of the IoU with the best of the anchors. It is what both searches here raise, step by step.

Where the centre of a cluster should be: YOLO9000 does not say. The mean of the shapes, as k-means has it, maximises nothing here and can
lower the mean IoU. The point where the mean IoU stops rising is a median of the widths and of the heights, in which each box counts by how
fast its own IoU would change (_uphill). On VOC2007 trainval, k = 5, without difficult objects: mean .6258, plain median .6277, this .6283.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

CHUNK_PAIRS = 100_000  # boxes whose IoU with all anchors is held in memory at once
SETTLED = 1e-6  # gain in mean IoU below which an iteration is the last
ITERATIONS = 300
GRID = 8  # sizes tried between a neighbour and the present size, in each round of size_search


class Shapes(NamedTuple):
    """The different shapes of a set of boxes in rising order, so that the order of the boxes matters nowhere."""

    wh: np.ndarray  # (S, 2) float64
    counts: np.ndarray  # (S,) float64: boxes of this shape

    def mean_iou(self, anchors: np.ndarray) -> float:
        return float(self.counts @ best_iou(self.wh, anchors) / self.counts.sum())

    def sample(self, boxes: int, seed: int) -> Shapes:
        """At most so many boxes, drawn without replacement."""
        if self.counts.sum() <= boxes:
            return self
        of_box = np.repeat(np.arange(len(self.wh)), self.counts.astype(np.int64))
        drawn = np.random.default_rng([seed, boxes]).choice(of_box, boxes, replace=False)
        counts = np.bincount(drawn, minlength=len(self.wh)).astype(np.float64)
        return Shapes(self.wh[counts > 0], counts[counts > 0])


def shapes_of(wh: np.ndarray) -> Shapes:
    """wh: (T, 2) widths and heights of boxes, in any one unit. ValueError without boxes, or where a side is not a number above 0."""
    wh = np.asarray(wh, dtype=np.float64).reshape(-1, 2)
    if not len(wh):
        raise ValueError(
            "no boxes to cluster: the training split has none that is trained on (data.train, data.train_difficult)"
        )
    if not (np.isfinite(wh) & (wh > 0)).all():
        raise ValueError(
            f"{(~(np.isfinite(wh) & (wh > 0)).all(1)).sum()} of {len(wh)} boxes have a side that is not above 0"
        )
    unique, counts = np.unique(wh, axis=0, return_counts=True)
    return Shapes(unique, counts.astype(np.float64))


def shape_ious(wh: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """(S, 2), (K, 2) -> (S, K)"""
    inter = np.minimum(wh[:, None, 0], anchors[:, 0]) * np.minimum(wh[:, None, 1], anchors[:, 1])
    return inter / (wh.prod(1)[:, None] + anchors.prod(1) - inter)


def best_iou(wh: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """(S, 2), (K, 2) -> (S,) IoU with the best anchor"""
    anchors = np.asarray(anchors, dtype=np.float64)
    return np.concatenate(
        [
            shape_ious(wh[start : start + CHUNK_PAIRS], anchors).max(1)
            for start in range(0, len(wh), CHUNK_PAIRS)
        ]
    )


class Clustering(NamedTuple):
    anchors: np.ndarray  # (K, 2) by rising area
    mean_iou: float


def kmeans(shapes: Shapes, k: int, *, restarts: int = 5, seed: int = 0) -> Clustering:
    """The best of several starts. Start r depends on (seed, k, r) alone, so that more restarts never give less.

    ValueError unless 1 <= k <= number of different shapes, and restarts >= 1.
    """
    if not 1 <= k <= len(shapes.wh):
        raise ValueError(
            f"k={k}: must be 1 or more, and at most {len(shapes.wh)}, the number of different shapes here"
        )
    if restarts < 1:
        raise ValueError(f"restarts={restarts}: must be 1 or more")
    runs = [_climb(shapes, _start(shapes, k, np.random.default_rng([seed, k, r]))) for r in range(restarts)]
    anchors = max(runs, key=shapes.mean_iou)
    anchors = anchors[np.lexsort((anchors[:, 0], anchors.prod(1)))]
    return Clustering(anchors, shapes.mean_iou(anchors))


def _start(shapes: Shapes, k: int, random: np.random.Generator) -> np.ndarray:
    """(k, 2) different shapes, each drawn with a probability that grows with its distance from those before it (k-means++)."""
    chosen: list[int] = []
    weight = shapes.counts
    for _ in range(k):
        chosen.append(int(random.choice(len(weight), p=weight / weight.sum())))
        weight = shapes.counts * np.maximum(
            1 - best_iou(shapes.wh, shapes.wh[chosen]), 1e-12
        )  # shapes may differ by rounding only
        weight[chosen] = 0
    return shapes.wh[chosen]


def _climb(shapes: Shapes, anchors: np.ndarray) -> np.ndarray:
    """Gives each box to its best anchor and moves each anchor to a better place for its boxes, until the mean IoU no longer rises."""
    before = 0.0
    for _ in range(ITERATIONS):
        iou = shape_ious(shapes.wh, anchors)  # (S, K)
        nearest, best = iou.argmax(1), iou.max(1)
        now = float(shapes.counts @ best / shapes.counts.sum())
        if now - before < SETTLED:
            break
        before, anchors = now, anchors.copy()
        for n in range(len(anchors)):
            mine = nearest == n
            moved = _uphill(anchors[n], shapes.wh[mine], shapes.counts[mine])
            if (
                shapes.counts[mine] @ shape_ious(shapes.wh[mine], moved[None])[:, 0]
                > shapes.counts[mine] @ best[mine]
            ):
                anchors[n] = moved
    return anchors


def _uphill(anchor: np.ndarray, wh: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(2,) where the sum of IoU with `anchor` (w, h) would be greatest, if its slopes stayed what they are here.

    With the union U and m = min(h, h_i), dIoU_i / dw is m w_i h_i / U^2 for w < w_i and -m w_i h / U^2 beyond; where the two sides balance
    is a median of the w_i with these weights. h likewise.
    """
    union = wh.prod(1) + anchor.prod() - np.minimum(wh, anchor).prod(1)
    moved = anchor.copy()
    for side, other in ((0, 1), (1, 0)):
        shared = np.minimum(wh[:, other], anchor[other])
        pull = np.where(wh[:, side] > anchor[side], wh[:, other], anchor[other])
        moved[side] = _median(wh[:, side], counts * wh[:, side] * shared * pull / union**2, anchor[side])
    return moved


def _median(values: np.ndarray, weights: np.ndarray, default: float) -> float:
    """The value below which lies half of the weight; `default` without values."""
    if not len(values):
        return default
    order = np.argsort(values, kind="stable")
    below = np.cumsum(weights[order])
    return float(values[order[np.searchsorted(below, below[-1] / 2)]])


def size_search(
    shapes: Shapes, sizes: Sequence[int], boxes_of: Callable[[Sequence[int]], np.ndarray]
) -> tuple[list[int], float]:
    """SSD's sizes: whole pixels, rising, whose default boxes have the greatest mean IoU, and that mean IoU.

    sizes: where to start. boxes_of: sizes -> (K, 2) shapes of their default boxes. One size at a time is moved to the best place between
    its neighbours, until none moves: never below the start, but not necessarily the best of all.
    """
    sizes, best, moving = list(sizes), shapes.mean_iou(boxes_of(sizes)), True
    while moving:
        moving = False
        for n in range(len(sizes)):
            for tried in _between(sizes, n):
                candidate = [*sizes[:n], tried, *sizes[n + 1 :]]
                if (value := shapes.mean_iou(boxes_of(candidate))) > best + SETTLED:
                    sizes, best, moving = candidate, value, True
    return sizes, best


def _between(sizes: Sequence[int], n: int) -> list[int]:
    """Sizes strictly between the neighbours of size n, dense around it: the last size may double, the first halve."""
    low = sizes[n - 1] if n else sizes[n] // 2
    high = sizes[n + 1] if n + 1 < len(sizes) else 2 * sizes[n]
    halves = [sizes[n] + (edge - sizes[n]) // 2**step for edge in (low, high) for step in range(GRID)]
    return sorted({size for size in halves if low < size < high and size >= 1} - {sizes[n]})


def size_start(shapes: Shapes, count: int) -> list[int]:
    """(count) rising whole sizes: quantiles of the square root of the area, the same share of boxes between any two."""
    side = np.sqrt(shapes.wh.prod(1))
    order = np.argsort(side)
    share = np.cumsum(shapes.counts[order]) / shapes.counts.sum()
    found = np.interp((np.arange(count) + 0.5) / count, share, side[order]).round().astype(np.int64)
    return [
        int(size)
        for size in np.maximum.accumulate(np.maximum(found - np.arange(count), 1)) + np.arange(count)
    ]
