"""Mosaic and mixup: several training images in one.

Both work on transformed samples: images of one size, boxes in their frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from detectors.data.augment.transforms import TransformedSample

CUT = (0.2, 0.8)  # mosaic: range of the point where the four images meet, as a fraction of either side
MIXED_MIN_SIDE = 1.0  # pixels; thinner boxes are dropped
# mixup: both parameters of the Beta distribution (Zhang et al. 2019, "Bag of Freebies", section 3.1)
SHAPE = 1.5


@dataclass(frozen=True)
class Mixing:
    """How often images are mixed. With both, the mosaic is the first of the two images of the mixup."""

    mosaic: float = 0.0  # probability
    mixup: float = 0.0  # probability

    def __call__(
        self,
        sample: TransformedSample,
        other: Callable[[int], TransformedSample],
        random: np.random.Generator,
    ) -> TransformedSample:
        """other(n) returns another sample of the same size: 1 to 3 are for the mosaic, 4 is for mixup."""
        # all numbers are always drawn, so that none depends on another
        draws = random.random(2)
        cut = random.uniform(*CUT, 2)
        weight = random.beta(SHAPE, SHAPE)
        if draws[0] < self.mosaic:
            sample = mosaic([sample, other(1), other(2), other(3)], cut)
        return mixup(sample, other(4), weight) if draws[1] < self.mixup else sample


def mosaic(samples: Sequence[TransformedSample], cut: Sequence[float] | np.ndarray) -> TransformedSample:
    """Four samples of one size, one per quadrant: top left, top right, bottom left, bottom right.

    cut: (x, y) where they meet, as fractions of the sides; rounded to whole pixels. Nothing is resized: each
    quadrant shows the part of its image that lies at the same place. Boxes are clipped to the quadrant. A box
    is kept if its centre lies in the quadrant and neither side of the clipped box is below MIXED_MIN_SIDE.
    """
    height, width = samples[0].image.shape[:2]
    x = round(cut[0] * width)
    y = round(cut[1] * height)
    image = np.empty_like(samples[0].image)
    parts = []
    for sample, (left, top, right, bottom) in zip(samples, _quadrants(x, y, width, height), strict=True):
        image[top:bottom, left:right] = sample.image[top:bottom, left:right]
        centres = (sample.boxes[:, :2] + sample.boxes[:, 2:]) / 2
        low = np.array([left, top, left, top], np.float32)
        high = np.array([right, bottom, right, bottom], np.float32)
        boxes = np.clip(sample.boxes, low, high)
        inside = (centres >= (left, top)) & (centres < (right, bottom))  # (n, 2)
        wide = boxes[:, 2:] - boxes[:, :2] >= MIXED_MIN_SIDE  # (n, 2)
        keep = (inside & wide).all(1)
        part = sample._replace(boxes=boxes[keep], labels=sample.labels[keep], kept=sample.kept[keep])
        parts.append(part)
    return _combined(image, parts)


def mixup(first: TransformedSample, second: TransformedSample, weight: float) -> TransformedSample:
    """Pixels weight * first + (1 - weight) * second, rounded; the boxes of both.

    Unlike in the paper, the loss gives the boxes of both images full weight.
    """
    pixels = weight * first.image.astype(np.float32) + (1 - weight) * second.image.astype(np.float32)
    return _combined(np.rint(pixels).astype(np.uint8), [first, second])


def _quadrants(x: int, y: int, width: int, height: int) -> list[tuple[int, int, int, int]]:
    """(left, top, right, bottom) of the four, in mosaic's order."""
    return [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]


def _combined(image: np.ndarray, parts: Sequence[TransformedSample]) -> TransformedSample:
    """All boxes, in order. `kept` holds rows of each part's own image; scale and shift are the first's."""
    boxes, labels, kept = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("boxes", "labels", "kept")
    )
    return parts[0]._replace(image=image, boxes=boxes, labels=labels, kept=kept)
