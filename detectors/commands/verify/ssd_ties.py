"""SSD's matching where rounding decides: whether a matching is one that the rule allows.

Programs compute IoUs in float32, each in its own order of operations. Where two IoUs are equal but for
rounding, or an IoU is at the threshold, either choice is right, and later choices follow from it: a box that
takes one of two equal default boxes leaves the other to the next round. So a matching is replayed: the rule
runs again and, wherever rounding decides, takes what the matching has. A matching is right if the replay
gives it back.
"""

from __future__ import annotations

import numpy as np

from detectors.matching import SMALLEST_IOU
from detectors.structures import BACKGROUND

POSITIVE_IOU = 0.5
IOU_ROUNDING = 1e-6  # IoUs as near as this are equal


def replayed(iou: np.ndarray, wanted: np.ndarray, *, greedy: bool) -> np.ndarray:
    """The matching (A,) of one image by the rule, with the wanted pairs wherever rounding decides.

    iou: (M, A), M at least 1, -1 for boxes that do not count. wanted: (M, A) bool, the pairs of a matching.
    greedy: Caffe's rule; else every box takes its best default box, and the last box overwrites.
    """
    matched = _above_the_threshold(iou, wanted)
    assign = _greedy_pairs if greedy else _best_pairs
    for box, anchor in assign(iou, wanted):
        matched[anchor] = box
    return matched


def _above_the_threshold(iou: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(A,) the best box of each default box, where their IoU reaches the threshold."""
    best = iou.max(0)
    near = iou >= best - IOU_ROUNDING  # (M, A)
    possible = near & wanted
    positive = (best >= POSITIVE_IOU + IOU_ROUNDING) | (
        (best > POSITIVE_IOU - IOU_ROUNDING) & possible.any(0)
    )
    return np.where(positive, np.where(possible.any(0), possible.argmax(0), iou.argmax(0)), BACKGROUND)


def _best_pairs(iou: np.ndarray, wanted: np.ndarray) -> list[tuple[int, int]]:
    """Each box and its best default box: a wanted one, else one that a later box wants, else the first."""
    pairs = []
    for box, row in enumerate(iou):
        if row.max() > 0:
            near = row >= row.max() - IOU_ROUNDING
            overwritten = near & wanted[box + 1 :].any(0)
            choice = next(mask for mask in (near & wanted[box], overwritten, near) if mask.any())
            pairs.append((box, int(choice.argmax())))
    return pairs


def _greedy_pairs(iou: np.ndarray, wanted: np.ndarray) -> list[tuple[int, int]]:
    """Caffe's rounds, each with one of the pairs of the largest IoU: wanted pairs, if every round has one.

    A box may want several of its best default boxes, because they are above the threshold; which of them was
    taken shows only in a later round. So the choices are tried in turn.
    """
    remaining = np.where(iou > SMALLEST_IOU, iou, -1.0)
    # The state before a round, the pairs so far, and the choices that are left.
    tried: list[tuple[np.ndarray, list[tuple[int, int]], list[tuple[int, int]]]] = []
    pairs: list[tuple[int, int]] = []
    first: list[tuple[int, int]] | None = None  # the rounds as far as the first attempt came
    while (largest := remaining.max()) >= 0:
        near = (remaining >= largest - IOU_ROUNDING) & (remaining >= 0)
        choices = np.argwhere(near & wanted)
        choices = [(int(box), int(anchor)) for box, anchor in choices if box == choices[0, 0]]
        if not choices:
            first = first if first is not None else pairs + _unguided(remaining)
            while tried and not tried[-1][2]:
                tried.pop()
            if not tried:
                return first
            remaining, pairs, choices = tried.pop()
        choice, *others = choices
        tried.append((remaining, pairs, others))
        remaining = _without(remaining, choice)
        pairs = [*pairs, choice]
    return pairs


def _unguided(remaining: np.ndarray) -> list[tuple[int, int]]:
    """The remaining rounds with the first pair of each."""
    pairs = []
    while remaining.max() >= 0:
        box, anchor = np.unravel_index(remaining.argmax(), remaining.shape)
        pairs.append((int(box), int(anchor)))
        remaining = _without(remaining, pairs[-1])
    return pairs


def _without(remaining: np.ndarray, pair: tuple[int, int]) -> np.ndarray:
    remaining = remaining.copy()
    remaining[pair[0]] = -1
    remaining[:, pair[1]] = -1
    return remaining
