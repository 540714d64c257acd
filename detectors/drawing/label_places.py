"""Where the labels of boxes go on a picture, so that no label covers another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

AT_ONCE = 128  # places that are tried together; the first ones are most often free

Corners = tuple[int, int, int, int]  # x0, y0, x1, y1: the first and last pixel of a box


class LabelPlace(NamedTuple):
    """The top left pixel of a label; `beside`: whether it lies at an edge of its box."""

    x: int
    y: int
    beside: bool


def label_places(
    corners: Sequence[Corners],
    sizes: Sequence[tuple[int, int]],
    canvas_wh: tuple[int, int],
    below: Sequence[bool],
) -> list[LabelPlace | None]:
    """Where the label of each box goes, so that no label covers another and all lie within the canvas.

    The first box chooses first: at an edge of its box if there is room, else the nearest free place. None if
    the canvas has no free place left. Law: tests/drawing/test_label_places.py.

    sizes: (width, height) of each label; (0, 0) for none. below: whether its first choice is below its box.
    """
    taken = np.zeros((0, 4), dtype=np.int64)  # xyxy of the labels so far, the last pixel not included
    places: list[LabelPlace | None] = []
    refused = np.array([np.inf, np.inf])  # the size of a label without a place, so that no larger one tries
    for box, wh, under in zip(corners, np.minimum(np.reshape(sizes, (-1, 2)), canvas_wh), below, strict=True):
        place = None
        if wh.all() and (wh < refused).any():
            width, height = (int(side) for side in wh)
            at_edges = _at_edges(box, width, height, under)
            place = _first_free(at_edges, wh, taken, canvas_wh, beside=True)
            place = place or _first_free(_everywhere(box, wh, canvas_wh), wh, taken, canvas_wh, beside=False)
            if place is None and wh[0] <= refused[0]:
                refused = wh
        if place is not None:
            taken = np.vstack([taken, [*place[:2], *(place[:2] + wh)]])
        places.append(place)
    return places


def _at_edges(box: Corners, width: int, height: int, below: bool) -> np.ndarray:
    """(n, 2) x, y of places for a label at a box, the best first."""
    x0, y0, x1, y1 = box
    left, right, bottom = x0, x1 + 1 - width, y1 + 1 - height
    over = [(left, y0 - height), (right, y0 - height)]
    under = [(left, y1), (right, y1)]
    inside = [(left, y0), (left, bottom), (right, y0), (right, bottom)]
    aside = [(x1 + 1, y0), (x0 - width, y0), (x1 + 1, bottom), (x0 - width, bottom)]
    return np.array([*(under + over if below else over + under), *inside, *aside])


def _everywhere(box: Corners, wh: np.ndarray, canvas_wh: tuple[int, int]) -> np.ndarray:
    """(n, 2) x, y of places for a label on a whole canvas, the nearest to the box first."""
    columns, rows = (
        np.arange(0, limit, max(1, side // 2)) for side, limit in zip(wh, canvas_wh, strict=True)
    )
    grid = np.stack(np.meshgrid(columns, rows), -1).reshape(-1, 2)
    apart = grid - np.clip(grid, box[:2] - wh, box[2:])
    return grid[np.square(apart).sum(1).argsort(kind="stable")]


def _first_free(
    tries: np.ndarray, wh: np.ndarray, taken: np.ndarray, canvas_wh: tuple[int, int], *, beside: bool
) -> LabelPlace | None:
    """The first of (n, 2) places, moved into the canvas, where a label covers none of the others."""
    tries = np.clip(tries, 0, canvas_wh - wh)
    left, top, right, bottom = taken.T  # (m,) each: comparing them one by one is 3 times as fast as (n, m, 2)
    for some in np.split(tries, range(AT_ONCE, len(tries), AT_ONCE)):
        x, y = some.T[:, :, None]  # (n, 1) each
        covers = (x < right) & (left < x + wh[0]) & (y < bottom) & (top < y + wh[1])  # (n, m)
        free = np.flatnonzero(~covers.any(1))
        if len(free):
            x, y = some[free[0]].tolist()
            return LabelPlace(x, y, beside)
    return None
