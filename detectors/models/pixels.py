"""What each backbone was trained on: the mean and the deviation of its images, RGB of 0..255.

Imports nothing, because configurations are composed before PyTorch is imported.
"""

from __future__ import annotations

DARKNET_MEAN = (0.0, 0.0, 0.0)
DARKNET_STD = (255.0, 255.0, 255.0)  # pixels of 0..1
PIXEL_MEAN = (123.0, 117.0, 104.0)  # of Caffe's VGG-16
CAFFE_STD = (1.0, 1.0, 1.0)  # undivided
IMAGENET_MEAN = (123.675, 116.28, 103.53)  # torchvision's .485, .456, .406
IMAGENET_STD = (58.395, 57.12, 57.375)  # .229, .224, .225
OWN_PIXELS = {
    "darknet19": (DARKNET_MEAN, DARKNET_STD),
    "tiny_darknet": (DARKNET_MEAN, DARKNET_STD),
    "reduced_vgg16": (PIXEL_MEAN, CAFFE_STD),
}
TIMM = "timm/"  # models of timm know theirs


def backbone_pixels(backbone: str, kind: str) -> list[float] | None:
    """kind: mean or std. None for a model of timm, which must be built to be asked."""
    if str(backbone).startswith(TIMM):
        return None
    numbers = OWN_PIXELS.get(backbone, (IMAGENET_MEAN, IMAGENET_STD))[("mean", "std").index(kind)]
    return [int(number) if number.is_integer() else number for number in numbers]
