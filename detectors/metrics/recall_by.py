"""Which boxes a detector finds: recall by size, shape, place and crowding of the boxes."""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

import numpy as np

from detectors.annotations import Annotations
from detectors.metrics.arrays import pairs_in_images

Z = 1.959963984540054  # 97.5 % of a normal distribution lie below


class Share(NamedTuple):
    """How many boxes of one kind are found."""

    boxes: int
    found: int

    @property
    def recall(self) -> float:
        return self.found / self.boxes if self.boxes else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the recall, as if boxes were independent; (0, 1) without boxes."""
        if not self.boxes:
            return 0.0, 1.0
        n, p = self.boxes, self.recall
        centre = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
        half = Z / (1 + Z * Z / n) * sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)


# What is asked of a box -> the kinds and their lower limits.
SIZE_KINDS = (("small", 0.0), ("medium", 32.0**2), ("large", 96.0**2))  # COCO's ranges, pixels^2
SHAPE_KINDS = (("very tall", 0.0), ("tall", 1 / 3), ("square", 2 / 3), ("wide", 3 / 2), ("very wide", 3.0))
BORDER_KINDS = (("at the border", 0.0), ("near it", 0.01), ("inside", 0.1))  # gap / the image's side
CROWDING_KINDS = (("alone", 0.0), ("touched", 0.01), ("overlapped", 0.2), ("heavily overlapped", 0.5))


def recall_by(annotations: Annotations, found: np.ndarray) -> dict[str, dict[str, Share]]:
    """Attribute -> kind -> share of the boxes that are found. found: (G,) bool, as in coco_arrays.Judged.

    size: small, medium and large as in COCO. shape: width / height. border: the smallest gap to the image's
    border, relative to its width or height. crowding: the share of the box that another box of its image
    covers, at most; other boxes hide it, or it hides them. flag: boxes marked as difficult or crowd do not
    count elsewhere.
    """
    counting = ~(annotations.difficult | annotations.crowd)
    boxes = annotations.boxes_original
    wh = boxes[:, 2:] - boxes[:, :2]
    size = annotations.sizes[annotations.image][:, ::-1]  # (G, 2) width, height
    gap = np.minimum(boxes[:, :2], size - boxes[:, 2:]) / np.maximum(size, 1)
    values = {
        "size": (annotations.areas, SIZE_KINDS),
        "shape": (wh[:, 0] / np.maximum(wh[:, 1], 1e-9), SHAPE_KINDS),
        "border": (gap.min(1, initial=np.inf).clip(min=0), BORDER_KINDS),
        "crowding": (covered_share(annotations), CROWDING_KINDS),
    }
    table = {
        name: _shares(value[counting], found[counting], kinds) for name, (value, kinds) in values.items()
    }
    flags = {"none": counting, "difficult": annotations.difficult, "crowd": annotations.crowd}
    table["flag"] = {name: Share(int(rows.sum()), int(found[rows].sum())) for name, rows in flags.items()}
    return table


def _shares(values: np.ndarray, found: np.ndarray, kinds: tuple[tuple[str, float], ...]) -> dict[str, Share]:
    limits = [low for _, low in kinds]
    place = np.searchsorted(limits, values, side="right") - 1
    boxes = np.bincount(place.clip(min=0), minlength=len(kinds))
    hits = np.bincount(place.clip(min=0), found, minlength=len(kinds))
    return {name: Share(int(boxes[k]), int(hits[k])) for k, (name, _) in enumerate(kinds)}


def covered_share(annotations: Annotations) -> np.ndarray:
    """(G,) the largest share of each box's area that lies within one other box of its image; 0 if alone."""
    one, other = pairs_in_images(annotations, annotations.image)
    one, other = one[one != other], other[one != other]
    boxes = annotations.boxes_original
    low = np.maximum(boxes[one, :2], boxes[other, :2])
    high = np.minimum(boxes[one, 2:], boxes[other, 2:])
    inter = (high - low).clip(min=0).prod(1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    share = np.zeros(len(boxes))
    np.maximum.at(share, one, inter / np.maximum(area[one], 1e-9))
    return share
