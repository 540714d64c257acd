"""Several training images in one: mosaic and mixup. They work on what the transform has made: images of one size, boxes in their frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from detectors.data.augment.transforms import TransformedSample

CUT = (0.2, 0.8)  # mosaic: where the four images meet, as a fraction of either side
MIXED_MIN_SIDE = 1.0  # pixels; thinner truths are not trained on
SHAPE = (
    1.5  # mixup: both parameters of the Beta distribution (Zhang et al. 2019, "Bag of Freebies", section 3.1)
)


@dataclass(frozen=True)
class Mixing:
    """How often images are mixed. Both may happen to one sample: the mosaic is then one of the two images of the mixup."""

    mosaic: float = 0.0  # probability
    mixup: float = 0.0  # probability

    def __call__(
        self,
        sample: TransformedSample,
        other: Callable[[int], TransformedSample],
        random: np.random.Generator,
    ) -> TransformedSample:
        """`other(n)` makes the sample's image number n, of the same size: 1 to 3 for the mosaic, 4 for the mixup."""
        draws, cut, weight = (
            random.random(2),
            random.uniform(*CUT, 2),
            random.beta(SHAPE, SHAPE),
        )  # always all: none depends on another
        if draws[0] < self.mosaic:
            sample = mosaic([sample, other(1), other(2), other(3)], cut)
        return mixup(sample, other(4), weight) if draws[1] < self.mixup else sample


def mosaic(samples: Sequence[TransformedSample], cut: Sequence[float]) -> TransformedSample:
    """Four samples of one size, of which each quadrant shows one: top left, top right, bottom left, bottom right.

    cut: (x, y), where they meet, as fractions of the sides, rounded to whole pixels. A quadrant shows that part of its image that lies at
    the same place, so that nothing is resized. A truth stays if its centre lies in its quadrant and neither side of what is left of
    it there is under MIN_SIDE.
    """
    height, width = samples[0].image.shape[:2]
    x, y = round(cut[0] * width), round(cut[1] * height)
    image, parts = np.empty_like(samples[0].image), []
    for sample, (left, top, right, bottom) in zip(samples, _quadrants(x, y, width, height), strict=True):
        image[top:bottom, left:right] = sample.image[top:bottom, left:right]
        centres = (sample.boxes[:, :2] + sample.boxes[:, 2:]) / 2
        boxes = np.clip(
            sample.boxes, np.float32([left, top, left, top]), np.float32([right, bottom, right, bottom])
        )
        stays = (
            (centres >= (left, top))
            & (centres < (right, bottom))
            & (boxes[:, 2:] - boxes[:, :2] >= MIXED_MIN_SIDE)
        ).all(1)
        parts.append(
            sample._replace(boxes=boxes[stays], labels=sample.labels[stays], kept=sample.kept[stays])
        )
    return _together(image, parts)


def mixup(first: TransformedSample, second: TransformedSample, weight: float) -> TransformedSample:
    """Pixels weight * first + (1 - weight) * second, rounded; the truths of both, at full weight: unlike in the paper, the loss does not
    weigh those of the fainter image less."""
    pixels = weight * first.image.astype(np.float32) + (1 - weight) * second.image.astype(np.float32)
    return _together(np.rint(pixels).astype(np.uint8), [first, second])


def _quadrants(x: int, y: int, width: int, height: int) -> list[tuple[int, int, int, int]]:
    """(left, top, right, bottom) of the four, in mosaic's order."""
    return [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]


def _together(image: np.ndarray, parts: Sequence[TransformedSample]) -> TransformedSample:
    """Truths one after another; `kept` counts in each one's own image; scale and shift are the first image's."""
    boxes, labels, kept = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("boxes", "labels", "kept")
    )
    return parts[0]._replace(image=image, boxes=boxes, labels=labels, kept=kept)
