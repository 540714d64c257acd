"""What of an image goes through the network: the whole, overlapping tiles, mirrored and at several sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np

AUGMENTS = ("flip", "scales")
INPUT_SCALES = (0.75, 1.25)  # sides of the network's input beside its own
STRIDE = 32  # pixels, of which a scaled side is a multiple
CUT_MARGIN = 0.05  # of a tile's side: a box that ends so near to an inner border counts as cut by it
LARGEST_OVERLAP = 0.9


class View(NamedTuple):
    """A part of an image as the network sees it."""

    window: tuple[int, int, int, int]  # x0, y0, x1, y1 pixels of the image
    size: tuple[int, int]  # (height, width) of the network's input
    mirrored: bool = False  # left and right

    def pixels(self, image: np.ndarray) -> np.ndarray:
        """The part of (h, w, 3)."""
        x0, y0, x1, y1 = self.window
        part = image[y0:y1, x0:x1]
        return np.ascontiguousarray(part[:, ::-1] if self.mirrored else part)

    def to_image(self, boxes: np.ndarray) -> np.ndarray:
        """(n, 4) xyxy pixels of the view -> of the image."""
        x0, y0, x1, _ = self.window
        if self.mirrored:
            boxes = np.stack([x1 - x0 - boxes[:, 2], boxes[:, 1], x1 - x0 - boxes[:, 0], boxes[:, 3]], 1)
        return boxes + np.array([x0, y0, x0, y0], boxes.dtype)

    def cut_sides(self, boxes: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
        """(n, 4) bool: at which inner borders each box ends: left, top, right, bottom.

        boxes: (n, 4) xyxy pixels of the image, whose own borders cut nothing.
        """
        x0, y0, x1, y1 = self.window
        height, width = image_size
        start, end = np.array([x0, y0]), np.array([x1, y1])
        margin = CUT_MARGIN * (end - start)
        low = (boxes[:, :2] <= start + margin) & (start > 0)
        high = (boxes[:, 2:] >= end - margin) & (end < (width, height))
        return np.concatenate([low, high], 1)


@dataclass(frozen=True)
class ViewPlan:
    """Which views of each image are taken.

    tile: side in pixels of the image, None for no tiles. overlap: of neighbouring tiles, a share of the side.
    whole: the whole image, too, beside its tiles. augment: of AUGMENTS.
    ValueError for a value that is out of range.
    """

    tile: int | None = None
    overlap: float = 0.2
    whole: bool = True
    augment: tuple[str, ...] = ()

    def __post_init__(self):
        if self.tile is not None and self.tile < STRIDE:
            raise ValueError(f"tile={self.tile}: must be {STRIDE} or more pixels of the image")
        if not 0 <= self.overlap <= LARGEST_OVERLAP:
            raise ValueError(
                f"overlap={self.overlap}: must be from 0 to {LARGEST_OVERLAP}, a share of the tile's side"
            )
        for name in self.augment:
            if name not in AUGMENTS:
                raise ValueError(f"augment={name!r}: choose from {', '.join(AUGMENTS)}")

    def sizes(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """The input sizes (height, width), the network's own first."""
        scaled = [
            tuple(max(STRIDE, round(side * scale / STRIDE) * STRIDE) for side in size)
            for scale in (INPUT_SCALES if "scales" in self.augment else ())
        ]
        return [size, *(other for other in scaled if other != size)]

    def views(self, image_size: tuple[int, int], sizes: list[tuple[int, int]]) -> Iterator[View]:
        """Those of an image of (height, width) pixels, one input size after another."""
        mirrors = (False, True) if "flip" in self.augment else (False,)
        for size, window, mirrored in product(sizes, self.windows(image_size), mirrors):
            yield View(window, size, mirrored)

    def windows(self, image_size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
        """x0, y0, x1, y1 of the tiles, and of the whole image, first. A small image has no tiles."""
        height, width = image_size
        whole = (0, 0, width, height)
        if self.tile is None or max(image_size) <= self.tile:
            return [whole]
        columns = _spans(width, self.tile, self.overlap)
        rows = _spans(height, self.tile, self.overlap)
        tiles = [(x0, y0, x1, y1) for (y0, y1), (x0, x1) in product(rows, columns)]
        return [whole, *tiles] if self.whole else tiles


WHOLE = ViewPlan()  # each image once, as a whole


def _spans(length: int, tile: int, overlap: float) -> list[tuple[int, int]]:
    """(start, end) of the fewest tiles that cover a side and overlap at least so much, evenly spaced."""
    if length <= tile:
        return [(0, length)]
    count = 1 + math.ceil((length - tile) / max(1.0, tile * (1 - overlap)))
    starts = np.linspace(0, length - tile, count).round().astype(int).tolist()
    return [(start, start + tile) for start in starts]
