"""Anchors that fit a data set: k-means with the distance 1 - IoU, and a search for SSD's sizes.

A shape is (width, height). The IoU of two shapes is that of two boxes with the same centre. "Mean IoU" is
YOLO9000's Avg IOU (section 2, table 1): the mean, over all boxes, of the IoU with the best anchor. Both
searches increase it step by step.

YOLO9000 does not say how to compute the centre of a cluster. The mean of the shapes, as in plain k-means,
does not maximise the mean IoU and can lower it. The mean IoU stops increasing at a weighted median of the
widths and of the heights, where the weight of a box is how fast its IoU changes (_weighted_median_shape). On
VOC2007 trainval, k = 5, without difficult objects, the mean gives .6258, the median .6277, the weighted
median .6283.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

CHUNK_SHAPES = 100_000  # shapes whose IoU with all anchors is in memory at a time
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
    unique, counts = np.unique(wh, axis=0, return_counts=True)
    return Shapes(unique, counts.astype(np.float64))


def shape_ious(wh: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """(S, 2), (K, 2) -> (S, K) IoU of each shape with each anchor."""
    inter = np.minimum(wh[:, None, 0], anchors[:, 0]) * np.minimum(wh[:, None, 1], anchors[:, 1])
    return inter / (wh.prod(1)[:, None] + anchors.prod(1) - inter)


def best_iou(wh: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """(S, 2), (K, 2) -> (S,) IoU of each shape with its best anchor."""
    anchors = np.asarray(anchors, dtype=np.float64)
    chunks = [wh[start : start + CHUNK_SHAPES] for start in range(0, len(wh), CHUNK_SHAPES)]
    return np.concatenate([shape_ious(chunk, anchors).max(1) for chunk in chunks])


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
    results = []
    for r in range(restarts):
        start = _start(shapes, k, np.random.default_rng([seed, k, r]))
        results.append(_improve(shapes, start))
    anchors = max(results, key=shapes.mean_iou)
    anchors = anchors[np.lexsort((anchors[:, 0], anchors.prod(1)))]
    return Clustering(anchors, shapes.mean_iou(anchors))


def _start(shapes: Shapes, k: int, random: np.random.Generator) -> np.ndarray:
    """(k, 2) distinct shapes; those far from earlier ones are drawn with higher probability (k-means++)."""
    chosen: list[int] = []
    weights = shapes.counts
    for _ in range(k):
        chosen.append(int(random.choice(len(weights), p=weights / weights.sum())))
        distance = 1 - best_iou(shapes.wh, shapes.wh[chosen])
        weights = shapes.counts * np.maximum(distance, 1e-12)  # 0 for shapes that differ by rounding only
        weights[chosen] = 0
    return shapes.wh[chosen]


def _improve(shapes: Shapes, anchors: np.ndarray) -> np.ndarray:
    """Assigns boxes to their best anchor, then moves each anchor; repeats while the mean IoU increases."""
    previous = 0.0
    for _ in range(ITERATIONS):
        iou = shape_ious(shapes.wh, anchors)  # (S, K)
        assigned = iou.argmax(1)
        best = iou.max(1)
        mean_iou = float(shapes.counts @ best / shapes.counts.sum())
        if mean_iou - previous < SETTLED:
            break
        previous = mean_iou
        anchors = anchors.copy()
        for n in range(len(anchors)):
            cluster = assigned == n
            wh = shapes.wh[cluster]
            counts = shapes.counts[cluster]
            moved = _weighted_median_shape(anchors[n], wh, counts)
            if counts @ shape_ious(wh, moved[None])[:, 0] > counts @ best[cluster]:
                anchors[n] = moved
    return anchors


def _weighted_median_shape(anchor: np.ndarray, wh: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(2,) The shape with the greatest sum of IoUs, if the slopes at `anchor` (w, h) were constant.

    With the union U and m = min(h, h_i), dIoU_i / dw is m w_i h_i / U^2 for w < w_i and -m w_i h / U^2 for
    w > w_i. The two sides balance at the median of the w_i with these weights. The same holds for h.
    """
    union = wh.prod(1) + anchor.prod() - np.minimum(wh, anchor).prod(1)
    moved = anchor.copy()
    for side, other in ((0, 1), (1, 0)):
        overlap = np.minimum(wh[:, other], anchor[other])
        factor = np.where(wh[:, side] > anchor[side], wh[:, other], anchor[other])
        weights = counts * wh[:, side] * overlap * factor / union**2
        moved[side] = _median(wh[:, side], weights, anchor[side])
    return moved


def _median(values: np.ndarray, weights: np.ndarray, default: float) -> float:
    """The value at which half of the weight is reached; `default` without values."""
    if not len(values):
        return default
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(weights[order])
    return float(values[order[np.searchsorted(cumulative, cumulative[-1] / 2)]])


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
