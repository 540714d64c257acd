"""Augmentations for classifiers: Darknet's, and shifts and turns for small images."""

from __future__ import annotations

from detectors.data.augment.classifier_layout import ClassifierCrop, SmallTurn
from detectors.data.augment.transforms import Augmentation
from detectors.structures import builder


@builder("augment")
def darknet_classifier_augmentation(
    *,
    min_crop: int = 128,
    max_crop: int = 448,
    angle: float = 7.0,
    aspect: float = 0.75,
    hue: float = 0.1,
    saturation: float = 0.75,
    exposure: float = 0.75,
) -> Augmentation:
    """Darknet's for classifiers. Keywords as in a cfg: angle in degrees, hue in turns; aspect, saturation and
    exposure are the largest factor or its inverse.
    """
    if not 1 <= min_crop <= max_crop:
        raise ValueError(f"min_crop={min_crop}, max_crop={max_crop}: must be 1 or more, and rise")
    _in_range("angle", angle, 0, 180)
    _in_range("hue", hue, 0, 0.5)
    for name, factor in (("aspect", aspect), ("saturation", saturation), ("exposure", exposure)):
        _in_range(name, factor, 1 / 16, 16)
    layout = ClassifierCrop(min_crop, max_crop, angle, aspect, hue, saturation, exposure)
    return Augmentation(layout=layout, resize="crop")


@builder("augment")
def small_turn_augmentation(
    *, angle: float = 10.0, shift: float = 0.1, zoom: float = 0.1, flip: float = 0.0
) -> Augmentation:
    """Turns, shifts, zooms and mirror images of stretched images, for digits and other small ones.

    angle: degrees to either side. shift: share of the side, in x and y. zoom: factors from 1 - zoom to
    1 + zoom. flip: probability of a mirror image.
    """
    _in_range("angle", angle, 0, 180)
    _in_range("shift", shift, 0, 1)
    _in_range("zoom", zoom, 0, 0.9)
    _in_range("flip", flip, 0, 1)
    return Augmentation(layout=SmallTurn(angle, shift, zoom, flip), resize="stretch", max_zoom=1 + zoom)


def _in_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name}={value}: must be from {low:g} to {high:g}")
