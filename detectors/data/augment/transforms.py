"""From an original image to the model's input: augmentation, then letterbox or stretch. The only module that knows albumentations.

Order in training: geometry on the original image, resize, colour on the small result. A crop keeps the original's detail that way, and
colour costs least. Every result is a pure function of the image, the boxes and the seed.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np

os.environ.setdefault(
    "NO_ALBUMENTATIONS_UPDATE", "1"
)  # before the import, which asks a server for the newest version otherwise
import albumentations

from detectors.data.augment.darknet_layout import DarknetCrop, DarknetPlacement
from detectors.data.augment.fitting import GREY, RESIZES, resize
from detectors.data.augment.ssd_layout import SSDLayout
from detectors.data.augment.ssd_sampling import MAX_ZOOM

MIN_SIDE = 1.0  # pixels of the model input; thinner truths are not trained on
CENTRE_SIDE = 0.02  # pixels; see _augment_boxes
THINNEST = 0.01  # pixels of the original: albumentations refuses boxes that have no area in relative float32

Generators = tuple[np.random.Generator, random.Random]
Laid = tuple[
    np.ndarray, np.ndarray, np.ndarray, tuple[float, float], tuple[float, float]
]  # image, boxes, their rows, scale_xy, shift_xy


class TransformedSample(NamedTuple):
    image: np.ndarray  # (H, W, 3) uint8 RGB at the model's size
    boxes: np.ndarray  # (n, 4) float32 xyxy, model input, clipped to the image
    labels: np.ndarray  # (n,) int64
    kept: np.ndarray  # (n,) int64: rows of the boxes given that are still there
    scale_xy: tuple[
        float, float
    ]  # of the resize alone: x_input = x * scale_xy[0] + shift_xy[0]; x is x_original if nothing was augmented
    shift_xy: tuple[float, float]


class Layout(Protocol):
    """Lays an image into the model's input and varies it on the way. All randomness is in `draw`, which does not know the input's size."""

    def draw(self, generator: np.random.Generator, size: tuple[int, int], boxes: np.ndarray) -> Any: ...

    def image(self, image: np.ndarray, draws: Any, size: tuple[int, int]) -> np.ndarray: ...

    def boxes(
        self, boxes: np.ndarray, draws: Any, original: tuple[int, int], size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]: ...


@dataclass(frozen=True)
class Augmentation:
    """Steps of albumentations on the original image and on the model's input; or a layout that does everything, the resizing too."""

    geometry: list[albumentations.BasicTransform] = field(default_factory=list)
    colour: list[albumentations.BasicTransform] = field(default_factory=list)
    layout: Layout | None = None
    resize: str | None = (
        None  # how the evaluation must resize where a layout does it in training; None leaves the choice
    )
    max_zoom: float = (
        math.inf
    )  # how much larger than in the whole image on the input a detail can become; data.reduced_decode asks


class LayOut(albumentations.DualTransform):
    """A Layout as a step of albumentations, which hands it the sample's generator.

    Boxes pass by albumentations' own: those are relative and float32, and come back cut, without those that have no area.
    """

    def __init__(self, layout: Layout):
        self.layout = layout
        super().__init__(p=1.0)

    @property
    def targets(self) -> dict[str, Callable[..., Any]]:
        return {"image": self.apply, "truths": self.apply_to_truths}

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        original = params["shape"][:2]
        return {
            "draws": self.layout.draw(self.random_generator, original, data["truths"]),
            "original": original,
            "size": data["size"],
        }

    def apply(self, img: np.ndarray, draws: Any, size: tuple[int, int], **params: Any) -> np.ndarray:
        return self.layout.image(img, draws, size)

    def apply_to_truths(
        self, truths: np.ndarray, draws: Any, original: tuple[int, int], size: tuple[int, int], **params: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        return self.layout.boxes(truths, draws, original, size)


def no_augmentation() -> Augmentation:
    """Resizing only."""
    return Augmentation(max_zoom=1.0)


def light_augmentation() -> Augmentation:
    """Mirror; zoom and shift mildly, with a slight change of the aspect ratio; change colours mildly."""
    ranges = {"scale": (0.85, 1.2), "translate_percent": (-0.1, 0.1)}  # drawn for x and for y
    affine = albumentations.Affine(**ranges, interpolation=cv2.INTER_LINEAR, fill=GREY, p=1.0)
    jitter = albumentations.ColorJitter(
        brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.7, 1.4), hue=(-0.03, 0.03), p=1.0
    )
    return Augmentation([albumentations.HorizontalFlip(p=0.5), affine], [jitter], max_zoom=1.2)


def ssd_augmentation(
    *,
    brightness: float = 32.0,
    contrast: float = 0.5,
    saturation: float = 0.5,
    hue: float = 18.0,
    expand: float = 4.0,
    colour_last: bool = False,
) -> Augmentation:
    """Caffe's SSD. brightness: levels; contrast, saturation: factors from 1 - x to 1 + x; hue: of 180; expand: largest canvas, in sides.

    colour_last distorts the small result instead of the crop: quicker, but it saturates averages of pixels where Caffe averages saturated
    ones.
    """
    _inside("brightness", brightness, 0, 255)
    _inside("contrast", contrast, 0, 1)
    _inside("saturation", saturation, 0, 1)
    _inside("hue", hue, 0, 90)
    _inside("expand", expand, 1, 16)
    return Augmentation(
        layout=SSDLayout(brightness, contrast, saturation, hue, expand, colour_last),
        resize="stretch",
        max_zoom=MAX_ZOOM,
    )


def darknet_augmentation(
    *,
    jitter: float = 0.3,
    hue: float = 0.1,
    saturation: float = 1.5,
    exposure: float = 1.5,
    max_boxes: int = 30,
) -> Augmentation:
    """Darknet's since June 2017. Keywords as in a cfg: hue in turns, saturation and exposure the largest factors; max_boxes is `max`."""
    settings = _darknet_settings(jitter, hue, saturation, exposure, max_boxes)
    return Augmentation(layout=DarknetPlacement(**settings), resize="letterbox", max_zoom=1.0)


def darknet_2016_augmentation(
    *,
    jitter: float = 0.2,
    hue: float = 0.1,
    saturation: float = 1.5,
    exposure: float = 1.5,
    max_boxes: int = 30,
) -> Augmentation:
    """Darknet's of 2016, with crop jitter. Keywords as in a cfg."""
    settings = _darknet_settings(jitter, hue, saturation, exposure, max_boxes)
    return Augmentation(layout=DarknetCrop(**settings), resize="stretch", max_zoom=1 / (1 - 2 * jitter))


def course_augmentation() -> Augmentation:
    """The list of the Keras course (experiencor/keras-yolo2, preprocessing.py) with albumentations' own steps: zoom, shift, mirror; then up
    to five of seven kinds of noise. docs/data.md says what differs."""
    ranges = {"scale": (1.0, 1.1), "translate_percent": (-0.045, 0.045), "keep_ratio": True}
    zoom = albumentations.Affine(
        **ranges, interpolation=cv2.INTER_LINEAR, border_mode=cv2.BORDER_REPLICATE, p=1.0
    )
    steps = course_colour()
    some = [albumentations.RandomOrder(steps, n=count, replace=False) for count in range(1, 6)]
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


def course_colour() -> list[albumentations.BasicTransform | albumentations.BaseCompose]:
    """Each is drawn alike; what has a choice of its own (which blur, all channels or each) draws that next."""
    a, always = albumentations, {"p": 1.0}
    both = lambda step, **settings: [step(**settings, per_channel=each, **always) for each in (True, False)]  # noqa: E731
    kinds = [
        [
            a.GaussianBlur(sigma_limit=(0.0, 3.0), **always),
            a.Blur(blur_limit=(3, 7), **always),
            a.MedianBlur(blur_limit=(3, 11), **always),
        ],
        [a.Sharpen(alpha=(0.0, 1.0), lightness=(0.75, 1.5), **always)],
        both(a.GaussNoise, std_range=(0.0, 0.05)),
        both(a.PixelDropout, dropout_prob=0.05),
        [
            a.RGBShift((-10, 10), (-10, 10), (-10, 10), **always),
            a.RandomBrightnessContrast((-10 / 255, 10 / 255), (0, 0), **always),
        ],
        both(a.MultiplicativeNoise, multiplier=(0.5, 1.5)),
        [a.RandomBrightnessContrast((0, 0), (-0.5, 1.0), **always)],
    ]
    return [a.OneOf(kind, **always) for kind in kinds]


def _darknet_settings(
    jitter: float, hue: float, saturation: float, exposure: float, max_boxes: int
) -> dict[str, Any]:
    _inside("jitter", jitter, 0, 0.49)  # two edges that take half of the image each leave nothing
    _inside("hue", hue, 0, 0.5)
    _inside("saturation", saturation, 1, 16)
    _inside("exposure", exposure, 1, 16)
    _inside("max_boxes", max_boxes, 1, 1_000_000)
    return {
        "jitter": jitter,
        "hue": hue,
        "saturation": saturation,
        "exposure": exposure,
        "max_boxes": max_boxes,
    }


def _inside(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name}={value}: must be from {low} to {high}")


class Transform:
    """Called with (image (h, w, 3) uint8, boxes (n, 4) in its frame, labels (n,), seed) -> TransformedSample. A fifth argument is another
    size for this image (multi-scale training); what is drawn from the seed stays the same.

    Boxes are clipped to the image first, whatever they are: none can crash the augmentation. A truth is dropped when it has no area inside
    the image; in training also when the augmentation pushed its centre out of the image, or a side is below MIN_SIDE. An augmentation with
    a layout has its original's rules instead, and no scale_xy and shift_xy: (1, 1) and (0, 0) stand there.
    """

    def __init__(self, *, size: tuple[int, int], resize: str, augmentation: Augmentation, min_side: float):
        self.size, self.fit, self.min_side, self.max_zoom = (
            tuple(size),
            RESIZES[resize],
            min_side,
            augmentation.max_zoom,
        )
        boxes = albumentations.BboxParams(
            format="pascal_voc", label_fields=["rows"], check_each_transform=False
        )
        self.geometry = (
            albumentations.Compose(augmentation.geometry, bbox_params=boxes)
            if augmentation.geometry
            else None
        )
        self.colour = albumentations.Compose(augmentation.colour) if augmentation.colour else None
        self.layout = albumentations.Compose([LayOut(augmentation.layout)]) if augmentation.layout else None

    def __call__(
        self,
        image: np.ndarray,
        boxes: np.ndarray,
        labels: np.ndarray,
        seed: int,
        size: tuple[int, int] | None = None,
    ) -> TransformedSample:
        size = tuple(size or self.size)
        generators = np.random.default_rng(seed), random.Random(seed)
        boxes = clip_to_image(np.asarray(boxes, dtype=np.float64).reshape(-1, 4), image.shape[:2])
        kept, labels = np.flatnonzero(_shorter_side(boxes) >= THINNEST), np.asarray(labels, dtype=np.int64)
        laid = self._laid_out if self.layout is not None else self._resized
        image, boxes, rows, scale, shift = laid(image, boxes[kept], generators, size)
        boxes, kept = boxes.astype(np.float32), kept[rows]
        wide = _shorter_side(boxes) > 0  # in float32, too: a coder takes the logarithm of the sides
        kept = kept[wide]
        return TransformedSample(image, boxes[wide], labels[kept], kept, scale, shift)

    def _laid_out(
        self, image: np.ndarray, boxes: np.ndarray, generators: Generators, size: tuple[int, int]
    ) -> Laid:
        _seed(self.layout, generators)
        result = self.layout(image=image, truths=boxes, size=size)
        boxes, rows = result["truths"]
        return result["image"], boxes, rows, (1.0, 1.0), (0.0, 0.0)

    def _resized(
        self, image: np.ndarray, boxes: np.ndarray, generators: Generators, size: tuple[int, int]
    ) -> Laid:
        rows = np.arange(len(boxes))
        if self.geometry is not None:
            _seed(self.geometry, generators)
            image, boxes, rows = _augment_boxes(self.geometry, image, boxes)
        fit = self.fit(image.shape[:2], size)
        scale, shift = fit.scale_xy(image.shape[:2]), fit.shift_xy()
        image = resize(image, fit, size)
        boxes = clip_to_image(boxes * np.tile(scale, 2) + np.tile(shift, 2), size)
        if self.colour is not None:
            _seed(self.colour, generators)
            image = self.colour(image=image)["image"]
        wide = _shorter_side(boxes) >= self.min_side
        return image, boxes[wide], rows[wide], scale, shift


def build_transform(*, augment: Augmentation, size: tuple[int, int], resize: str, train: bool) -> Transform:
    """augment: counts in training alone. size: (height, width) of the model's input. resize: "letterbox" or "stretch"; in training an
    augmentation with a layout has its own (checking.py asks that they agree)."""
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
    """(n, 4) cut to an image of `size` (height, width)."""
    height, width = size
    return np.clip(boxes, 0, [width, height, width, height])


def _shorter_side(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).min(1, initial=np.inf)


def _seed(compose: albumentations.Compose, generators: Generators) -> None:
    """One stream for all transforms of a Compose. Its set_random_seed gives every transform the same seed, and their draws are then equal:
    only bright images would be large ones, for example."""
    compose.set_random_state(*generators)


def _augment_boxes(
    geometry: albumentations.Compose, image: np.ndarray, boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(image, boxes of the truths whose centre is still inside, their rows).

    albumentations hands back clipped boxes, from which the centre cannot be told; so each centre travels as a tiny box of its own, which is
    left with no area when it falls outside.
    """
    count = len(boxes)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    tiny = np.concatenate([centres - CENTRE_SIDE / 2, centres + CENTRE_SIDE / 2], 1)
    both = np.concatenate([boxes, clip_to_image(tiny, image.shape[:2])])
    result = geometry(image=image, bboxes=both, rows=np.arange(2 * count))
    augmented = np.zeros((2 * count, 4))
    augmented[np.asarray(result["rows"], dtype=np.int64)] = np.asarray(
        result["bboxes"], dtype=np.float64
    ).reshape(-1, 4)
    inside = np.flatnonzero(_shorter_side(augmented[count:]) > 0)
    return result["image"], augmented[inside], inside
