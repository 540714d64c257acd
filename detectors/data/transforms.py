"""From an original image to the model's input: augmentation, then letterbox or stretch. The only module that knows albumentations.

Order in training: geometry on the original image, resize, colour on the small result. A crop keeps the original's detail that way, and
colour costs least. Every result is a pure function of the image, the boxes and the seed.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # before the import, which asks a server for the newest version otherwise
import albumentations

GREY = 127  # letterbox bars and uncovered corners; Darknet pads with .5
MIN_SIDE = 1.0  # pixels of the model input; thinner truths are not trained on
CENTRE_SIDE = 0.02  # pixels; see _augment_boxes


class TransformedSample(NamedTuple):
    image: np.ndarray  # (H, W, 3) uint8 RGB at the model's size
    boxes: np.ndarray  # (n, 4) float32 xyxy, model input, clipped to the image
    labels: np.ndarray  # (n,) int64
    kept: np.ndarray  # (n,) int64: rows of the boxes given that are still there
    scale_xy: tuple[float, float]  # of the resize alone: x_input = x * scale_xy[0] + shift_xy[0]; x is x_original if nothing was augmented
    shift_xy: tuple[float, float]


class Fit(NamedTuple):
    """How an image is laid into the model's input."""

    size: tuple[int, int]  # (height, width) of the resized image, without bars
    top_left: tuple[int, int]  # (row, column) in the model's input

    def scale_xy(self, size_original: tuple[int, int]) -> tuple[float, float]:
        return self.size[1] / size_original[1], self.size[0] / size_original[0]

    def shift_xy(self) -> tuple[float, float]:
        return float(self.top_left[1]), float(self.top_left[0])


def letterbox(size_original: tuple[int, int], size: tuple[int, int]) -> Fit:
    """Largest size of the same aspect ratio that fits, in the middle; sizes and offsets rounded down as in Darknet's letterbox_image."""
    (height, width), (rows, columns) = size_original, size
    if columns * height < rows * width:  # columns / width < rows / height, without rounding
        rows = max(1, height * columns // width)
    else:
        columns = max(1, width * rows // height)
    return Fit((rows, columns), ((size[0] - rows) // 2, (size[1] - columns) // 2))


def stretch(size_original: tuple[int, int], size: tuple[int, int]) -> Fit:
    """The whole image on the whole input; the aspect ratio changes."""
    return Fit(size, (0, 0))


RESIZES: dict[str, Callable[[tuple[int, int], tuple[int, int]], Fit]] = {"letterbox": letterbox, "stretch": stretch}


def resize(image: np.ndarray, fit: Fit, size: tuple[int, int]) -> np.ndarray:
    """(h, w, 3) -> (H, W, 3), bilinear without antialias (cv2.INTER_LINEAR, half-pixel centres), grey bars around."""
    if image.shape[:2] != fit.size:
        image = cv2.resize(image, fit.size[::-1], interpolation=cv2.INTER_LINEAR)
    if fit.size == tuple(size):
        return image
    canvas = np.full((*size, 3), GREY, dtype=np.uint8)
    (top, left), (rows, columns) = fit.top_left, fit.size
    canvas[top : top + rows, left : left + columns] = image
    return canvas


def light_geometry() -> list[albumentations.BasicTransform]:
    """Mirror; zoom and shift mildly, with a slight change of the aspect ratio."""
    ranges = {"scale": (0.85, 1.2), "translate_percent": (-0.1, 0.1)}  # drawn for x and for y
    affine = albumentations.Affine(**ranges, interpolation=cv2.INTER_LINEAR, fill=GREY, p=1.0)
    return [albumentations.HorizontalFlip(p=0.5), affine]


def light_colour() -> list[albumentations.BasicTransform]:
    return [albumentations.ColorJitter(brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.7, 1.4), hue=(-0.03, 0.03), p=1.0)]


AUGMENTATIONS = {"none": (list, list), "light": (light_geometry, light_colour)}  # name -> (geometry, colour)


class Transform:
    """Called with (image (h, w, 3) uint8, boxes (n, 4) in its frame, labels (n,), seed) -> TransformedSample. A fifth argument is another
    size for this image (multi-scale training); what is drawn from the seed stays the same.

    Boxes are clipped to the image first, whatever they are: none can crash the augmentation. A truth is dropped when it has no area inside
    the image; in training also when the augmentation pushed its centre out of the image, or a side is below MIN_SIDE.
    """

    def __init__(self, *, size: tuple[int, int], resize: str, geometry: list, colour: list, min_side: float):
        self.size, self.fit, self.min_side = tuple(size), RESIZES[resize], min_side
        boxes = albumentations.BboxParams(format="pascal_voc", label_fields=["rows"], check_each_transform=False)
        self.geometry = albumentations.Compose(geometry, bbox_params=boxes) if geometry else None
        self.colour = albumentations.Compose(colour) if colour else None

    def __call__(
        self, image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, seed: int, size: tuple[int, int] | None = None
    ) -> TransformedSample:
        size = size or self.size
        generators = np.random.default_rng(seed), random.Random(seed)
        boxes = clip(np.asarray(boxes, dtype=np.float64).reshape(-1, 4), image.shape[:2])
        kept = np.flatnonzero(_shorter_side(boxes) > 0)
        boxes = boxes[kept]
        if self.geometry is not None:
            _seed(self.geometry, generators)
            image, boxes, inside = _augment_boxes(self.geometry, image, boxes)
            kept = kept[inside]
        fit = self.fit(image.shape[:2], size)
        scale, shift = fit.scale_xy(image.shape[:2]), fit.shift_xy()
        image = resize(image, fit, size)
        boxes = clip(boxes * np.tile(scale, 2) + np.tile(shift, 2), size)
        if self.colour is not None:
            _seed(self.colour, generators)
            image = self.colour(image=image)["image"]
        wide = _shorter_side(boxes) >= self.min_side
        kept = kept[wide]
        return TransformedSample(image, boxes[wide].astype(np.float32), np.asarray(labels, dtype=np.int64)[kept], kept, scale, shift)


def build_transform(*, augment: str, size: tuple[int, int], resize: str, train: bool) -> Transform:
    """augment: "none" or "light", in training alone. size: (height, width) of the model's input. resize: "letterbox" or "stretch"."""
    if augment not in AUGMENTATIONS:
        raise ValueError(f"augment={augment!r}: choose one of {', '.join(AUGMENTATIONS)}")
    if resize not in RESIZES:
        raise ValueError(f"resize={resize!r}: choose one of {', '.join(RESIZES)}")
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size={tuple(size)}: give (height, width) of the model's input in pixels")
    geometry, colour = (make() for make in AUGMENTATIONS[augment if train else "none"])
    return Transform(size=size, resize=resize, geometry=geometry, colour=colour, min_side=MIN_SIDE if train else 0.0)


def clip(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(n, 4) cut to an image of `size` (height, width)."""
    height, width = size
    return np.clip(boxes, 0, [width, height, width, height])


def _shorter_side(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).min(1, initial=np.inf)


def _seed(compose: albumentations.Compose, generators: tuple[np.random.Generator, random.Random]) -> None:
    """One stream for all transforms of a Compose. Its set_random_seed gives every transform the same seed, and their draws are then equal:
    only bright images would be large ones, for example."""
    compose.set_random_state(*generators)


def _augment_boxes(geometry: albumentations.Compose, image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(image, boxes of the truths whose centre is still inside, their rows).

    albumentations hands back clipped boxes, from which the centre cannot be told; so each centre travels as a tiny box of its own, which is
    left with no area when it falls outside.
    """
    count = len(boxes)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    tiny = np.concatenate([centres - CENTRE_SIDE / 2, centres + CENTRE_SIDE / 2], 1)
    both = np.concatenate([boxes, clip(tiny, image.shape[:2])])
    result = geometry(image=image, bboxes=both, rows=np.arange(2 * count))
    augmented = np.zeros((2 * count, 4))
    augmented[np.asarray(result["rows"], dtype=np.int64)] = np.asarray(result["bboxes"], dtype=np.float64).reshape(-1, 4)
    inside = np.flatnonzero(_shorter_side(augmented[count:]) > 0)
    return result["image"], augmented[inside], inside
