"""Steps for albumentations: a layout as one step, and the noise of the Keras course's augmentation.

The other modules import albumentations from here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

# before the import, which otherwise asks a server for the newest version
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations


class Layout(Protocol):
    """Augments an image and resizes it to the model input in one go.

    All randomness is in `draw`, which does not know the size of the input.
    """

    def draw(self, generator: np.random.Generator, size: tuple[int, int], boxes: np.ndarray) -> Any: ...

    def image(self, image: np.ndarray, draws: Any, size: tuple[int, int]) -> np.ndarray: ...

    def boxes(
        self, boxes: np.ndarray, draws: Any, original: tuple[int, int], size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]: ...


class LayoutStep(albumentations.DualTransform):
    """A Layout as an albumentations step, which gets the sample's random generator.

    Boxes bypass albumentations' own box handling, which makes them relative float32, clips them and drops
    those without area.
    """

    def __init__(self, layout: Layout):
        self.layout = layout
        super().__init__(p=1.0)

    @property
    def targets(self) -> dict[str, Callable[..., Any]]:
        return {"image": self.apply, "gt_boxes": self.apply_to_gt_boxes}

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        original = params["shape"][:2]
        return {
            "draws": self.layout.draw(self.random_generator, original, data["gt_boxes"]),
            "original": original,
            "size": data["size"],
        }

    def apply(self, img: np.ndarray, draws: Any, size: tuple[int, int], **params: Any) -> np.ndarray:
        return self.layout.image(img, draws, size)

    def apply_to_gt_boxes(
        self, boxes: np.ndarray, draws: Any, original: tuple[int, int], size: tuple[int, int], **params: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        return self.layout.boxes(boxes, draws, original, size)


def course_noise() -> list[albumentations.OneOf]:
    """The seven kinds of noise. Each chooses one of its variants, such as per channel or not."""
    blur = [
        albumentations.GaussianBlur(sigma_limit=(0.0, 3.0), p=1.0),
        albumentations.Blur(blur_limit=(3, 7), p=1.0),
        albumentations.MedianBlur(blur_limit=(3, 11), p=1.0),
    ]
    sharpen = [albumentations.Sharpen(alpha=(0.0, 1.0), lightness=(0.75, 1.5), p=1.0)]
    gauss = [
        albumentations.GaussNoise(std_range=(0.0, 0.05), per_channel=each, p=1.0) for each in (True, False)
    ]
    dropout = [
        albumentations.PixelDropout(dropout_prob=0.05, per_channel=each, p=1.0) for each in (True, False)
    ]
    shift = [
        albumentations.RGBShift((-10, 10), (-10, 10), (-10, 10), p=1.0),
        albumentations.RandomBrightnessContrast((-10 / 255, 10 / 255), (0, 0), p=1.0),
    ]
    multiply = [
        albumentations.MultiplicativeNoise(multiplier=(0.5, 1.5), per_channel=each, p=1.0)
        for each in (True, False)
    ]
    contrast = [albumentations.RandomBrightnessContrast((0, 0), (-0.5, 1.0), p=1.0)]
    kinds = [blur, sharpen, gauss, dropout, shift, multiply, contrast]
    return [albumentations.OneOf(variants, p=1.0) for variants in kinds]
