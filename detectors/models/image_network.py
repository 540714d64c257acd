"""What every network of images shares, detector or classifier: pixel statistics, memory format, counts."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

MEMORY_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
COUNTED = ("convolution", "addmm")  # operations that flops() counts


class ImageNetwork(nn.Module):
    """A network that takes uint8 RGB images and normalises them on the device.

    Memory format is channels_last until set_memory_format changes it: GPUs and narrow networks are fastest
    with it. A subclass calls set_memory_format("channels_last") once it has its layers.
    """

    pixel_mean: Tensor  # (1, 3, 1, 1)
    pixel_std: Tensor

    def __init__(
        self, *, pixel_mean: Sequence[float], pixel_std: Sequence[float], channel_order: str = "rgb"
    ):
        """pixel_mean, pixel_std: three numbers in RGB order for pixels 0..255. channel_order: what the
        backbone was trained on. Images are always given as RGB; "bgr" flips them after the normalisation.
        """
        super().__init__()
        if channel_order not in ("rgb", "bgr"):
            raise ValueError(f"channel_order={channel_order!r}: choose 'rgb' or 'bgr' (Caffe's weights)")
        self.channel_order = channel_order
        self.register_buffer("pixel_mean", _per_channel(pixel_mean), persistent=False)
        self.register_buffer("pixel_std", _per_channel(pixel_std), persistent=False)

    def set_memory_format(self, name: str) -> None:
        """Lays weights and features out as "channels_last" or "contiguous". Results differ by rounding.

        ValueError for another name.
        """
        if name not in MEMORY_FORMATS:
            raise ValueError(f"memory format {name!r}: choose one of {', '.join(MEMORY_FORMATS)}")
        self.memory_format = name
        self.to(memory_format=MEMORY_FORMATS[name])  # type: ignore[call-overload] # not in PyTorch's types

    def network(self, x: Tensor) -> Any:
        """What the layers of a subclass compute of normalised images (B, 3, H, W)."""
        raise NotImplementedError

    def _normalize(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) pixels -> float32. It happens on the device, so that only uint8 is copied there."""
        x = images.to(torch.float32, memory_format=MEMORY_FORMATS[self.memory_format])
        x = (x - self.pixel_mean) / self.pixel_std
        return x.flip(1) if self.channel_order == "bgr" else x

    @property
    def parameter_count(self) -> int:
        """Trainable numbers."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def flops(self, size: Sequence[int]) -> int:
        """FLOPs of one image: convolutions and linear layers, 2 per multiply-add (many tables count 1).

        size: (height, width).
        """
        twin = copy.deepcopy(self).to("meta").eval()  # computes shapes only
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            twin.network(torch.empty(1, 3, *size, device="meta"))
        return sum(
            count
            for operation, count in counter.get_flop_counts()["Global"].items()
            if any(kind in str(operation) for kind in COUNTED)
        )


def check_images(images: Tensor, taker: str) -> None:
    """ValueError unless (B, 3, H, W). taker: what takes them, 'a detector'."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"images of shape {tuple(images.shape)}: {taker} takes (B, 3, H, W); "
            "convert grey images to RGB and stack them"
        )


def _per_channel(values: Sequence[float]) -> Tensor:
    if len(values) != 3:
        raise ValueError(f"pixel mean and std need three numbers, red, green and blue; got {list(values)}")
    return torch.tensor([float(v) for v in values]).view(1, 3, 1, 1)
