"""Our augmentations written with torchvision.transforms.v2, as its users would write them: what `benchmark data` measures ours against.

Where v2 has a transform of its own (SSD's), it is taken as it is; where it has none (Darknet's placement), its functional operations stand
in. The probabilities and ranges are the same, the random numbers are not.
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
BoxFormat = tv_tensors.BoundingBoxes
Size = tuple[int, int]


class Place(torch.nn.Module):
    """Darknet's aspect jitter and placement: resized to fit the canvas with a jittered aspect ratio, put somewhere on grey."""

    def __init__(self, size: Size, jitter: float):
        super().__init__()
        self.size, self.jitter = size, jitter

    def forward(self, image: Tensor, target: dict) -> tuple[Tensor, dict]:
        (height, width), (rows, columns) = functional.get_size(image), self.size
        dy, dx = ((torch.rand(2) * 2 - 1) * self.jitter).tolist()
        aspect = width * (1 + dx) / (height * (1 + dy))
        new = (rows, max(1, int(rows * aspect))) if aspect < 1 else (max(1, int(columns / aspect)), columns)
        top, left = (
            int(torch.rand(()) * (whole - part + 1)) for whole, part in zip(self.size, new, strict=True)
        )
        padding = [left, top, columns - new[1] - left, rows - new[0] - top]

        def placed(what: Tensor, fill: float) -> Tensor:
            return functional.pad(functional.resize(what, list(new), antialias=False), padding, fill=fill)

        return placed(image, PADDING), {**target, "boxes": placed(target["boxes"], 0)}


class CropJitter(torch.nn.Module):
    """The crop of 2016: every edge moves on its own; what lies outside of the image is filled by torchvision."""

    def __init__(self, size: Size, jitter: float):
        super().__init__()
        self.size, self.jitter = size, jitter

    def forward(self, image: Tensor, target: dict) -> tuple[Tensor, dict]:
        height, width = functional.get_size(image)
        top, bottom = ((torch.rand(2) * 2 - 1) * self.jitter * height).int().tolist()
        left, right = ((torch.rand(2) * 2 - 1) * self.jitter * width).int().tolist()
        frame = (top, left, height - top - bottom, width - left - right, list(self.size))
        crop = lambda what, **extra: functional.resized_crop(what, *frame, **extra)  # noqa: E731
        return crop(image, antialias=False), {**target, "boxes": crop(target["boxes"])}


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
    """As torchvision's own reference script has it, and the resize that its SSD does in the model."""
    colour = v2.RandomPhotometricDistort(
        brightness=(0.875, 1.125), contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=(-0.05, 0.05)
    )
    fill = {tv_tensors.Image: CANVAS_MEAN, BoxFormat: 0}
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
    """Called with (path of an image, boxes (n, 4) xyxy in its frame, labels (n,)) -> (image (3, H, W) uint8, boxes, labels).

    backend: "tensor" decodes with torchvision, "pil" with Pillow; which one is quicker depends on the transforms.
    """

    def __init__(self, name: str, size: Size, backend: str):
        self.transform = v2.Compose(
            [*PIPELINES[name](size), v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes()]
        )
        self.read = IMAGE_READERS[backend]

    def __call__(self, path: str, boxes: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        image = self.read(path)
        frame = BoxFormat(
            torch.from_numpy(boxes.astype(np.float32)), format="XYXY", canvas_size=functional.get_size(image)
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Anti-alias option is always applied")
            image, target = self.transform(image, {"boxes": frame, "labels": torch.from_numpy(labels)})
        return functional.to_image(image), target["boxes"], target["labels"]


def read_tensor(path: str) -> tv_tensors.Image:
    return tv_tensors.Image(
        decode_image(torch.from_numpy(np.fromfile(path, dtype=np.uint8)), mode=ImageReadMode.RGB)
    )


def read_pil(path: str) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


IMAGE_READERS = {"tensor": read_tensor, "pil": read_pil}
