"""Our augmentations written with torchvision.transforms.v2, as its users would; for `benchmark data`.

Uses v2's own transforms where they exist (SSD's), and its functional operations where they do not (Darknet's
placement). Probabilities and ranges are the same as ours, the random numbers are not.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

CANVAS_MEAN = (123.0, 117.0, 104.0)
PADDING = 127.0
Size = tuple[int, int]


class Place(torch.nn.Module):
    """Darknet's placement: resized to fit with a jittered aspect ratio, at a random place on grey."""

    def __init__(self, size: Size, jitter: float):
        super().__init__()
        self.size = size
        self.jitter = jitter

    def forward(self, image: Tensor, target: dict) -> tuple[Tensor, dict]:
        height, width = functional.get_size(image)
        rows, columns = self.size
        dy, dx = ((torch.rand(2) * 2 - 1) * self.jitter).tolist()
        aspect = width * (1 + dx) / (height * (1 + dy))
        if aspect < 1:
            new_height = rows
            new_width = max(1, int(rows * aspect))
        else:
            new_height = max(1, int(columns / aspect))
            new_width = columns
        top = int(torch.rand(()) * (rows - new_height + 1))
        left = int(torch.rand(()) * (columns - new_width + 1))
        padding = [left, top, columns - new_width - left, rows - new_height - top]

        def place(image_or_boxes: Tensor, fill: float) -> Tensor:
            resized = functional.resize(image_or_boxes, [new_height, new_width], antialias=False)
            return functional.pad(resized, padding, fill=fill)

        return place(image, PADDING), {**target, "boxes": place(target["boxes"], 0)}


class CropJitter(torch.nn.Module):
    """Darknet's crop of 2016: every edge moves on its own; torchvision fills pixels outside the image."""

    def __init__(self, size: Size, jitter: float):
        super().__init__()
        self.size = size
        self.jitter = jitter

    def forward(self, image: Tensor, target: dict) -> tuple[Tensor, dict]:
        height, width = functional.get_size(image)
        top, bottom = ((torch.rand(2) * 2 - 1) * self.jitter * height).int().tolist()
        left, right = ((torch.rand(2) * 2 - 1) * self.jitter * width).int().tolist()
        crop_height = height - top - bottom
        crop_width = width - left - right
        size = list(self.size)
        image = functional.resized_crop(image, top, left, crop_height, crop_width, size, antialias=False)
        boxes = functional.resized_crop(target["boxes"], top, left, crop_height, crop_width, size)
        return image, {**target, "boxes": boxes}


def no_pipeline(size: Size) -> list[torch.nn.Module]:
    return [v2.Resize(size, antialias=False)]


def light_pipeline(size: Size) -> list[torch.nn.Module]:
    affine = v2.RandomAffine(
        degrees=0,
        translate=(0.1, 0.1),
        scale=(0.85, 1.2),
        interpolation=v2.InterpolationMode.BILINEAR,
        fill=PADDING,
    )
    colour = v2.ColorJitter(
        brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.7, 1.4), hue=(-0.03, 0.03)
    )
    return [v2.RandomHorizontalFlip(), affine, v2.Resize(size, antialias=False), colour]


def ssd_pipeline(size: Size) -> list[torch.nn.Module]:
    """As in torchvision's reference script, with the resize that its SSD does in the model."""
    colour = v2.RandomPhotometricDistort(
        brightness=(0.875, 1.125), contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=(-0.05, 0.05)
    )
    fill = {tv_tensors.Image: CANVAS_MEAN, tv_tensors.BoundingBoxes: 0}
    return [
        colour,
        v2.RandomZoomOut(fill=fill, side_range=(1.0, 4.0)),
        v2.RandomIoUCrop(),
        v2.RandomHorizontalFlip(),
        *no_pipeline(size),
    ]


def darknet_colour() -> torch.nn.Module:
    return v2.ColorJitter(brightness=(1 / 1.5, 1.5), saturation=(1 / 1.5, 1.5), hue=0.1)


def darknet_pipeline(size: Size) -> list[torch.nn.Module]:
    return [Place(size, 0.3), darknet_colour(), v2.RandomHorizontalFlip()]


def darknet_2016_pipeline(size: Size) -> list[torch.nn.Module]:
    return [CropJitter(size, 0.2), v2.RandomHorizontalFlip(), darknet_colour()]


PIPELINES: dict[str, Callable[[Size], list[torch.nn.Module]]] = {
    "none": no_pipeline,
    "light": light_pipeline,
    "ssd": ssd_pipeline,
    "darknet": darknet_pipeline,
    "darknet_2016": darknet_2016_pipeline,
}


class TorchvisionPipeline:
    """Reads and augments an image.

    backend: "tensor" decodes with torchvision, "pil" with Pillow. Which is faster depends on the transforms.
    """

    def __init__(self, name: str, size: Size, backend: str):
        self.transform = v2.Compose(
            [*PIPELINES[name](size), v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes()]
        )
        self.read = IMAGE_READERS[backend]

    def __call__(self, path: str, boxes: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """boxes: (n, 4) xyxy pixels of the image; labels: (n,) -> (image (3, H, W) uint8, boxes, labels)."""
        image = self.read(path)
        tv_boxes = tv_tensors.BoundingBoxes(
            torch.from_numpy(boxes.astype(np.float32)), format="XYXY", canvas_size=functional.get_size(image)
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Anti-alias option is always applied")
            image, target = self.transform(image, {"boxes": tv_boxes, "labels": torch.from_numpy(labels)})
        return functional.to_image(image), target["boxes"], target["labels"]


def read_tensor(path: str) -> tv_tensors.Image:
    encoded = torch.from_numpy(np.fromfile(path, dtype=np.uint8))
    return tv_tensors.Image(decode_image(encoded, mode=ImageReadMode.RGB))


def read_pil(path: str) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


IMAGE_READERS = {"tensor": read_tensor, "pil": read_pil}
