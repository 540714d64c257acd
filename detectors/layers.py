"""Layers of both families: convolution blocks, Darknet's reorg and pools, SSD's L2Norm, initialisations."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def scale_channels(channels: int, width: float) -> int:
    """channels * width, rounded to a multiple of 8 for the vector units; at least 8.

    ValueError unless width > 0.
    """
    if width <= 0:
        raise ValueError(
            f"width={width}: the channel multiplier must be above 0; "
            "1 is the paper's network, 0.25 fits a laptop"
        )
    return max(8, round(channels * width / 8) * 8)


class ConvBNLeaky(nn.Module):
    """Darknet's [convolutional] with batch_normalize=1: convolution without bias, batch norm, leaky ReLU.

    The ReLU's slope is 0.1. Batch norm is that of Darknet's cuDNN path, with which the published weights were
    trained: (x - m) / sqrt(v + 1e-5), running statistics .99 old + .01 new. `pad=1` in a cfg means half the
    kernel, so a 1x1 convolution has no padding.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, eps=1e-5, momentum=0.01)
        init_darknet(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)"""
        return F.leaky_relu(self.norm(self.conv(x)), 0.1, inplace=True)


class ConvReLU(nn.Module):
    """VGG's and SSD's convolution and ReLU.

    batch_norm: adds a batch norm between them; the convolution then has no bias. SSD's paper has no batch
    norm. It is for training from scratch, where the plain network learns very slowly.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        batch_norm: bool = False,
    ):
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, bias=not batch_norm
        )
        self.norm = nn.BatchNorm2d(out_channels) if batch_norm else nn.Identity()
        init_caffe_xavier(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H', W')"""
        return F.relu(self.norm(self.conv(x)), inplace=True)


def darknet_reorg(x: Tensor, stride: int = 2) -> Tensor:
    """(B, C, H, W) -> (B, C * stride^2, H / stride, W / stride): Darknet's [reorg], its index error included.

    src/blas.c, reorg_cpu: it reads its input as if it had C / stride^2 channels of stride*H x stride*W
    pixels, and moves space to depth there. That is neither pixel_unshuffle nor an ordinary space-to-depth;
    the released weights expect exactly this order. ValueError unless stride divides H and W, and stride^2
    divides C.
    """
    batch, channels, height, width = x.shape
    square = stride * stride
    if channels % square or height % stride or width % stride:
        raise ValueError(
            f"darknet_reorg: input {tuple(x.shape)} (B, C, H, W) with stride {stride}; "
            f"C must be a multiple of {square}, and H and W of {stride}: "
            "change the passthrough channels or the input size"
        )
    x = x.reshape(batch, channels // square, height, stride, width, stride)  # (B, c, j, dy, i, dx)
    return x.permute(0, 3, 5, 1, 2, 4).reshape(batch, channels * square, height // stride, width // stride)


def darknet_reorg_reverse(x: Tensor, stride: int = 2) -> Tensor:
    """(B, C, H, W) -> (B, C / stride^2, stride * H, stride * W): Darknet's [reorg] with reverse=1.

    It is depth-to-space with channels in the order (row, column, channel), and does not undo darknet_reorg.
    ValueError unless stride^2 divides C.
    """
    batch, channels, height, width = x.shape
    square = stride * stride
    if channels % square:
        raise ValueError(
            f"darknet_reorg_reverse: input {tuple(x.shape)} (B, C, H, W) with stride {stride}; "
            f"C must be a multiple of {square}"
        )
    x = x.reshape(batch, stride, stride, channels // square, height, width)  # (B, dy, dx, c, j, i)
    return x.permute(0, 3, 4, 1, 5, 2).reshape(batch, channels // square, height * stride, width * stride)


class DarknetReorg(nn.Module):
    """darknet_reorg as a module."""

    def __init__(self, stride: int = 2):
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C * stride^2, H / stride, W / stride)"""
        return darknet_reorg(x, self.stride)


class DarknetMaxPool(nn.Module):
    """Darknet's [maxpool], padded with minus infinity, because features may be negative.

    padding: of both sides together; half of it, rounded down, goes to the left and the top. The default is
    size - 1. With this default, size 2 and stride 2 round up (an odd side ends in half a window), and size 2
    and stride 1 (Tiny-YOLOv2) keep the size, padding one column on the right and one row at the bottom.
    """

    def __init__(self, stride: int = 2, *, size: int = 2, padding: int | None = None):
        """ValueError unless every window overlaps the image."""
        super().__init__()
        self.size = size
        self.stride = stride
        self.padding = size - 1 if padding is None else padding
        if size < 1 or stride < 1 or not 0 <= self.padding <= 2 * size - 2:
            raise ValueError(
                f"DarknetMaxPool: size={size}, stride={stride}, padding={self.padding}; size and stride "
                "must be at least 1, and the padding from 0 to 2 * size - 2, or a window would miss the image"
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, (H + padding - size) // stride + 1, likewise W)"""
        top, bottom = self._margins(x.shape[-2])
        left, right = self._margins(x.shape[-1])
        if top or bottom or left or right:
            x = F.pad(x, (left, right, top, bottom), value=-torch.inf)
        return F.max_pool2d(x, self.size, self.stride)

    def _margins(self, side: int) -> tuple[int, int]:
        """The padding before and after a side with which max_pool2d has the same windows as Darknet."""
        before = self.padding // 2
        last_start = (side + self.padding - self.size) // self.stride * self.stride  # in the padded side
        return before, max(0, last_start + self.size - before - side)


class L2Norm(nn.Module):
    """SSD's Normalize layer on conv4_3 (ParseNet): y = scale * x / sqrt(1e-10 + sum over channels of x^2).

    One learned scale per channel. Computed in float32, because the sum of squares overflows float16. The
    epsilon is inside the root: outside, the gradient of an all-zero pixel would be NaN. The gradient is
    exact; Caffe's differs from it once the scales differ.
    """

    def __init__(self, channels: int, scale: float = 20.0):
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape and dtype"""
        x32 = x.float()
        norm = torch.sqrt(1e-10 + (x32 * x32).sum(1, keepdim=True))  # (B, 1, H, W)
        return (x32 / norm * self.scale.float()[:, None, None]).to(x.dtype)


def init_darknet(*convs: nn.Conv2d) -> None:
    """Darknet's initialisation (make_convolutional_layer): weights N(0, sqrt(2 / fan_in)), biases 0."""
    _init(convs, lambda weight, fan_in: nn.init.normal_(weight, 0.0, sqrt(2 / fan_in)))


def init_caffe_xavier(*convs: nn.Conv2d) -> None:
    """Caffe's "xavier" filler: weights U(-sqrt(3 / fan_in), sqrt(3 / fan_in)), biases 0.

    torch's xavier_uniform_ is wider here.
    """
    _init(convs, lambda weight, fan_in: nn.init.uniform_(weight, -sqrt(3 / fan_in), sqrt(3 / fan_in)))


def _init(convs: Iterable[nn.Conv2d], fill: Callable[[Tensor, int], object]) -> None:
    for conv in convs:
        fill(conv.weight, conv.weight[0].numel())
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
