"""One list of boxes from those of several views of an image, so that no object is found twice.

Whole boxes suppress each other by IoU within their class, as in one image. A box that ends at the inner
border of a tile is a part of an object: it gives way to a whole box that covers it, is joined with the part
in the next tile, or stays if no other view saw more.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

COVERED = 0.5  # share of a part's area that lies in a whole box which therefore shows the same object
SHARED = 0.3  # share of the smaller of two boxes of different views that shows the same object in both
CONTINUED = 0.5  # IoU along the border of two parts that continue each other


class Boxes(NamedTuple):
    """n boxes of one image."""

    boxes: np.ndarray  # (n, 4) float32 xyxy pixels of the image
    scores: np.ndarray  # (n,) float32
    labels: np.ndarray  # (n,) int64
    cut: np.ndarray  # (n, 4) bool: see View.cut_sides
    view: np.ndarray  # (n,) int64: in which view it was seen; negative for what was joined

    def rows(self, rows: np.ndarray) -> Boxes:
        return Boxes(*(column[rows] for column in self))

    @staticmethod
    def together(parts: list[Boxes]) -> Boxes:
        return Boxes(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def merge_views(parts: list[Boxes], iou: float) -> Boxes:
    """The boxes of all views, each object once, the best score first.

    iou: above it, a better box of the class suppresses another.
    """
    found = Boxes.together(parts)
    cut = found.cut.any(1)
    whole = found.rows(~cut).rows(_kept(found.rows(~cut), iou))
    merged = Boxes.together([whole, _joined(_uncovered(found.rows(cut), whole))])
    merged = merged.rows(_kept(merged, iou))
    return merged.rows(np.argsort(-merged.scores, kind="stable"))


def _kept(found: Boxes, iou: float) -> np.ndarray:
    """The rows that greedy suppression within each class keeps: whole boxes by score, then parts by area.

    A box suppresses another by IoU, and, in another view, one that shares SHARED of the smaller area: two
    views of an object may give it boxes of different sizes. In one view such boxes are different objects.
    """
    cut = found.cut.any(1)
    order = np.lexsort([-np.where(cut, _areas(found.boxes), found.scores), cut])
    rows = []
    while len(order):
        best, order = order[0], order[1:]
        rows.append(best)
        shared = _shared(found.boxes[best], found.boxes[order])
        areas = _areas(found.boxes[order])
        own = _areas(found.boxes[best, None])
        with np.errstate(invalid="ignore"):  # of two boxes without area
            same = shared / (areas + own - shared) > iou
            same |= (shared / np.minimum(areas, own) >= SHARED) & (found.view[order] != found.view[best])
        order = order[~(same & (found.labels[order] == found.labels[best]))]
    return np.array(rows, dtype=np.int64)


def _uncovered(parts: Boxes, whole: Boxes) -> Boxes:
    """The parts that lie in no whole box of their class."""
    shared = _shared(parts.boxes[:, None], whole.boxes)
    covered = shared >= COVERED * _areas(parts.boxes)[:, None]
    return parts.rows(~(covered & (parts.labels[:, None] == whole.labels)).any(1))


def _shared(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Areas that boxes (..., 4) have in common."""
    low = np.maximum(one[..., :2], other[..., :2])
    high = np.minimum(one[..., 2:], other[..., 2:])
    return (high - low).clip(min=0).prod(-1)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(1)


def _joined(parts: Boxes) -> Boxes:
    """Parts that continue each other across a border, as one box around both, with the better score.

    What is joined may be joined again: an object can lie in many tiles.
    """
    while (pair := _best_continuation(parts)) is not None:
        axis, low, high = pair
        cut = parts.cut[low] | parts.cut[high]
        cut[[axis, axis + 2]] = parts.cut[low, axis], parts.cut[high, axis + 2]
        corners = np.minimum(*parts.boxes[[low, high], :2]), np.maximum(*parts.boxes[[low, high], 2:])
        score = parts.scores[[low, high]].max()
        number = np.minimum(parts.view.min(), 0)[None] - 1  # a view of its own
        one = Boxes(np.concatenate(corners)[None], score[None], parts.labels[low, None], cut[None], number)
        others = np.delete(np.arange(len(parts.scores)), [low, high])
        parts = Boxes.together([parts.rows(others), one])
    return parts


def _best_continuation(parts: Boxes) -> tuple[int, int, int] | None:
    """(axis, the part before the border, the part behind it) that fit best; None without a pair that fits."""
    fits = np.stack([_continuing(parts, axis) for axis in (0, 1)])  # (2, n, n)
    if not fits.size or fits.max() < CONTINUED:
        return None
    return tuple(int(index) for index in np.unravel_index(fits.argmax(), fits.shape))


def _continuing(parts: Boxes, axis: int) -> np.ndarray:
    """(n, n) IoU along the border of part i, cut by it, with part j, cut by it and behind it; 0 for others.

    axis: 0 for a border between left and right, 1 for one between above and below.
    """
    low, high = parts.boxes[:, axis], parts.boxes[:, axis + 2]
    start, end = parts.boxes[:, 1 - axis], parts.boxes[:, 3 - axis]
    both = parts.cut[:, axis + 2, None] & parts.cut[:, axis] & (parts.labels[:, None] == parts.labels)
    meet = high[:, None] >= low - 1  # they overlap, or touch
    behind = (low > low[:, None]) & (high > high[:, None])
    shared = (np.minimum(end[:, None], end) - np.maximum(start[:, None], start)).clip(min=0)
    union = np.maximum(end[:, None], end) - np.minimum(start[:, None], start)
    return np.where(both & meet & behind, shared / union.clip(min=1e-9), 0)
