"""From an original image to the model input: augmentation, then letterbox or stretch.

Order in training: geometry on the original image, resize, colour on the small result. That way a crop keeps
the original's detail, and colour costs least. A result depends on the image, the boxes and the seed alone.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np

from detectors.data.augment.albumentations_steps import Layout, LayoutStep, albumentations, course_noise
from detectors.data.augment.darknet_layout import DarknetCrop, DarknetPlacement
from detectors.data.augment.fitting import GREY, RESIZES, resize
from detectors.data.augment.ssd_layout import SSDLayout
from detectors.data.augment.ssd_sampling import MAX_ZOOM
from detectors.structures import builder

MIN_SIDE = 1.0  # pixels of the model input; thinner boxes are dropped in training
CENTRE_SIDE = 0.02  # pixels; see _augment_boxes
THINNEST = 0.01  # pixels of the original: albumentations rejects boxes without area in relative float32


class TransformedSample(NamedTuple):
    image: np.ndarray  # (H, W, 3) uint8 RGB, the model input
    boxes: np.ndarray  # (n, 4) float32 xyxy pixels of the model input, clipped to the image
    labels: np.ndarray  # (n,) int64
    kept: np.ndarray  # (n,) int64: rows of the given boxes that are still there
    # of the resize alone: x_input = x * scale_xy[0] + shift_xy[0]; x is x_original if nothing was augmented
    scale_xy: tuple[float, float]
    shift_xy: tuple[float, float]


@dataclass(frozen=True)
class Augmentation:
    """Either albumentations steps, or a layout that does everything including the resize."""

    geometry: list[albumentations.BasicTransform] = field(default_factory=list)  # on the original image
    colour: list[albumentations.BasicTransform] = field(default_factory=list)  # on the model input
    layout: Layout | None = None
    # the resize that evaluation must use if training uses a layout; None allows any
    resize: str | None = None
    # largest magnification of a detail, relative to the whole image on the input; used by data.reduced_decode
    max_zoom: float = math.inf


@builder("augment")
def no_augmentation() -> Augmentation:
    """Resizing only."""
    return Augmentation(max_zoom=1.0)


@builder("augment")
def light_augmentation() -> Augmentation:
    """Mirror, mild zoom and shift with a slight change of the aspect ratio, mild colour changes."""
    affine = albumentations.Affine(
        scale=(0.85, 1.2),  # drawn separately for x and y
        translate_percent=(-0.1, 0.1),  # drawn separately for x and y
        interpolation=cv2.INTER_LINEAR,
        fill=GREY,
        p=1.0,
    )
    jitter = albumentations.ColorJitter(
        brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.7, 1.4), hue=(-0.03, 0.03), p=1.0
    )
    return Augmentation([albumentations.HorizontalFlip(p=0.5), affine], [jitter], max_zoom=1.2)


@builder("augment")
def ssd_augmentation(
    *,
    brightness: float = 32.0,
    contrast: float = 0.5,
    saturation: float = 0.5,
    hue: float = 18.0,
    expand: float = 4.0,
    colour_last: bool = False,
) -> Augmentation:
    """SSD's in Caffe.

    brightness: levels. contrast, saturation: factors from 1 - x to 1 + x. hue: of 180.
    expand: side of the largest canvas, in sides of the image.
    colour_last: distort the small result instead of the crop. That is faster, but it clips averages of pixels
    where Caffe averages clipped pixels.
    """
    _check_range("brightness", brightness, 0, 255)
    _check_range("contrast", contrast, 0, 1)
    _check_range("saturation", saturation, 0, 1)
    _check_range("hue", hue, 0, 90)
    _check_range("expand", expand, 1, 16)
    layout = SSDLayout(brightness, contrast, saturation, hue, expand, colour_last)
    return Augmentation(layout=layout, resize="stretch", max_zoom=MAX_ZOOM)


@builder("augment")
def darknet_augmentation(
    *,
    jitter: float = 0.3,
    hue: float = 0.1,
    saturation: float = 1.5,
    exposure: float = 1.5,
    max_boxes: int = 30,
) -> Augmentation:
    """Darknet's since June 2017.

    Keywords as in a cfg: hue in turns, saturation and exposure as largest factors; max_boxes is `max`.
    """
    _check_darknet_ranges(jitter, hue, saturation, exposure, max_boxes)
    layout = DarknetPlacement(jitter, hue, saturation, exposure, max_boxes)
    return Augmentation(layout=layout, resize="letterbox", max_zoom=1.0)


@builder("augment")
def darknet_2016_augmentation(
    *,
    jitter: float = 0.2,
    hue: float = 0.1,
    saturation: float = 1.5,
    exposure: float = 1.5,
    max_boxes: int = 30,
) -> Augmentation:
    """Darknet's of 2016, with crop jitter. Keywords as in a cfg."""
    _check_darknet_ranges(jitter, hue, saturation, exposure, max_boxes)
    layout = DarknetCrop(jitter, hue, saturation, exposure, max_boxes)
    return Augmentation(layout=layout, resize="stretch", max_zoom=1 / (1 - 2 * jitter))


@builder("augment")
def course_augmentation() -> Augmentation:
    """The Keras course's (preprocessing.py of experiencor/keras-yolo2), made of albumentations' own steps.

    Zoom, shift, mirror; then up to five of seven kinds of noise. docs/data.md lists the differences.
    """
    zoom = albumentations.Affine(
        scale=(1.0, 1.1),
        translate_percent=(-0.045, 0.045),
        keep_ratio=True,
        interpolation=cv2.INTER_LINEAR,
        border_mode=cv2.BORDER_REPLICATE,
        p=1.0,
    )
    noise = course_noise()
    some = [albumentations.RandomOrder(noise, n=count, replace=False) for count in range(1, 6)]
    colour = albumentations.OneOf([albumentations.NoOp(p=1.0), *some], p=1.0)
    return Augmentation([zoom, albumentations.HorizontalFlip(p=0.5)], [colour], max_zoom=1.1)


AUGMENTATIONS: dict[str, Callable[..., Augmentation]] = {
    "none": no_augmentation,
    "light": light_augmentation,
    "ssd": ssd_augmentation,
    "darknet": darknet_augmentation,
    "darknet_2016": darknet_2016_augmentation,
    "course": course_augmentation,
}


def _check_darknet_ranges(
    jitter: float, hue: float, saturation: float, exposure: float, max_boxes: int
) -> None:
    _check_range("jitter", jitter, 0, 0.49)  # at .5, two opposite edges can meet: nothing would be left
    _check_range("hue", hue, 0, 0.5)
    _check_range("saturation", saturation, 1, 16)
    _check_range("exposure", exposure, 1, 16)
    _check_range("max_boxes", max_boxes, 1, 1_000_000)


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name}={value}: must be from {low} to {high}")


class Transform:
    """Augments an image and its boxes and resizes them to the model input; see __call__.

    Boxes are clipped to the image first, so that no box can crash the augmentation. A box without area inside
    the image is dropped. In training a box is also dropped if the augmentation moves its centre out of the
    image, or if a side ends up below MIN_SIDE.

    An augmentation with a layout follows its original's rules instead. It has no scale_xy and shift_xy: they
    are (1, 1) and (0, 0).
    """

    def __init__(self, *, size: tuple[int, int], resize: str, augmentation: Augmentation, min_side: float):
        self.size = tuple(size)
        self.fit = RESIZES[resize]
        self.min_side = min_side
        self.max_zoom = augmentation.max_zoom
        self.geometry = None
        if augmentation.geometry:
            bbox_params = albumentations.BboxParams(
                format="pascal_voc", label_fields=["rows"], check_each_transform=False
            )
            self.geometry = albumentations.Compose(augmentation.geometry, bbox_params=bbox_params)
        self.colour = albumentations.Compose(augmentation.colour) if augmentation.colour else None
        self.layout = None
        if augmentation.layout:
            self.layout = albumentations.Compose([LayoutStep(augmentation.layout)])

    def __call__(
        self,
        image: np.ndarray,
        boxes: np.ndarray,
        labels: np.ndarray,
        seed: int,
        size: tuple[int, int] | None = None,
    ) -> TransformedSample:
        """image: (h, w, 3) uint8 RGB; boxes: (n, 4) xyxy pixels of the image; labels: (n,).

        size: another (height, width) of the model input for this image (multi-scale training). It does not
        change what is drawn from the seed.
        """
        height, width = size or self.size
        boxes = clip_to_image(np.asarray(boxes, dtype=np.float64).reshape(-1, 4), image.shape[:2])
        labels = np.asarray(labels, dtype=np.int64)
        kept = np.flatnonzero(_shorter_side(boxes) >= THINNEST)
        numpy_random = np.random.default_rng(seed)
        python_random = random.Random(seed)
        apply = self._apply_layout if self.layout is not None else self._augment_and_resize
        sample = apply(image, boxes[kept], labels[kept], numpy_random, python_random, (height, width))
        wide = _shorter_side(sample.boxes) > 0  # in float32 as well: a coder takes the logarithm of the sides
        return sample._replace(
            boxes=sample.boxes[wide], labels=sample.labels[wide], kept=kept[sample.kept[wide]]
        )

    def _apply_layout(
        self,
        image: np.ndarray,
        boxes: np.ndarray,
        labels: np.ndarray,
        numpy_random: np.random.Generator,
        python_random: random.Random,
        size: tuple[int, int],
    ) -> TransformedSample:
        assert self.layout is not None
        self.layout.set_random_state(numpy_random, python_random)
        result = self.layout(image=image, gt_boxes=boxes, size=size)
        boxes, rows = result["gt_boxes"]
        boxes = boxes.astype(np.float32)
        return TransformedSample(result["image"], boxes, labels[rows], rows, (1.0, 1.0), (0.0, 0.0))

    def _augment_and_resize(
        self,
        image: np.ndarray,
        boxes: np.ndarray,
        labels: np.ndarray,
        numpy_random: np.random.Generator,
        python_random: random.Random,
        size: tuple[int, int],
    ) -> TransformedSample:
        # set_random_state gives all steps of a Compose one stream. set_random_seed would give every step the
        # same seed and so the same draws: only bright images would be enlarged, for example.
        rows = np.arange(len(boxes))
        if self.geometry is not None:
            self.geometry.set_random_state(numpy_random, python_random)
            image, boxes, rows = _augment_boxes(self.geometry, image, boxes)
        fit = self.fit(image.shape[:2], size)
        scale = fit.scale_xy(image.shape[:2])
        shift = fit.shift_xy()
        image = resize(image, fit, size)
        boxes = clip_to_image(boxes * np.tile(scale, 2) + np.tile(shift, 2), size)
        if self.colour is not None:
            self.colour.set_random_state(numpy_random, python_random)
            image = self.colour(image=image)["image"]
        wide = _shorter_side(boxes) >= self.min_side
        rows = rows[wide]
        return TransformedSample(image, boxes[wide].astype(np.float32), labels[rows], rows, scale, shift)


def build_transform(*, augment: Augmentation, size: tuple[int, int], resize: str, train: bool) -> Transform:
    """size: (height, width) of the model input. resize: "letterbox" or "stretch". augment: for training only.

    In training, an augmentation with a layout uses its own resize; config/check.py checks that they agree.
    """
    if resize not in RESIZES:
        raise ValueError(f"resize={resize!r}: choose one of {', '.join(RESIZES)}")
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size={tuple(size)}: give (height, width) of the model's input in pixels")
    return Transform(
        size=size,
        resize=resize,
        augmentation=augment if train else no_augmentation(),
        min_side=MIN_SIDE if train else 0.0,
    )


def clip_to_image(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(n, 4) xyxy, clipped to an image of `size` (height, width)."""
    height, width = size
    return np.clip(boxes, 0, [width, height, width, height])


def _shorter_side(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).min(1, initial=np.inf)


def _augment_boxes(
    geometry: albumentations.Compose, image: np.ndarray, boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(image, the boxes whose centre is still inside, their rows).

    albumentations returns clipped boxes, which do not tell where the centre is. So each centre is passed
    along as a tiny box of its own; it has no area left if it falls outside.
    """
    count = len(boxes)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    tiny = np.concatenate([centres - CENTRE_SIDE / 2, centres + CENTRE_SIDE / 2], 1)
    both = np.concatenate([boxes, clip_to_image(tiny, image.shape[:2])])
    result = geometry(image=image, bboxes=both, rows=np.arange(2 * count))
    remaining = np.asarray(result["rows"], dtype=np.int64)
    augmented = np.zeros((2 * count, 4))
    augmented[remaining] = np.asarray(result["bboxes"], dtype=np.float64).reshape(-1, 4)
    inside = np.flatnonzero(_shorter_side(augmented[count:]) > 0)
    return result["image"], augmented[inside], inside
