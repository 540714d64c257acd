"""Receptive fields: what an output can depend on (theoretical), and what it does depend on (effective).

Theoretical: in a network with only positive weights and no maxima, every input pixel that an output can
depend on has a gradient above 0. PositiveNetwork makes a run of any network such a run; the field is the
support of the gradient. For a chain of layers that is 1 + sum of (kernel - 1) * dilation * stride before it.

Effective (Luo et al., "Understanding the Effective Receptive Field in Deep CNNs"): the side of the smallest
square around the gradient's centre that holds 95 % of its squares, or of its absolute values, averaged over
images, in the network as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from detectors.models.detector import Detector

SHARE = 0.95
LARGEST_INPUT = 4096  # pixels; no field of a known detector needs more
PASSED_THROUGH = (F.leaky_relu, F.relu, F.relu6, F.batch_norm, F.silu, F.hardswish, torch.relu, torch.relu_)


class Field(NamedTuple):
    """Of a level's centre unit, pixels of the input."""

    height: int
    width: int
    stride: int  # between the fields of neighbouring units


class PositiveNetwork(TorchFunctionMode):
    """Within it, convolutions sum with equal positive weights, pools average, activations do nothing.

    Only one channel is computed, since all are equal.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (F.conv2d, torch.conv2d):
            return _one_channel(*args, **kwargs)
        if func in (F.max_pool2d, torch.max_pool2d, torch.nn.functional._max_pool2d):
            return _mean_pool(*args, **kwargs)
        if func is F.pad:
            return F.pad(*args[:2])  # zeros in place of minus infinity
        if func in PASSED_THROUGH:
            return args[0]
        return func(*args, **kwargs)


def _one_channel(x: Tensor, weight: Tensor, bias=None, stride=1, padding=0, dilation=1, groups=1) -> Tensor:
    """(B, in, H, W) -> (B, out, H', W'), the mean over the window in each channel."""
    kernel = torch.full((1, 1, *weight.shape[2:]), 1 / weight[0, 0].numel(), dtype=x.dtype)
    y = F.conv2d(x.mean(1, keepdim=True), kernel, None, stride, padding, dilation)
    return y.expand(-1, len(weight), -1, -1)


def _mean_pool(
    x: Tensor, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
) -> Tensor:
    """The window of a max pool. ValueError for a dilated one."""
    if dilation not in (1, (1, 1)):
        raise ValueError("a dilated max pool: its receptive field is not known here")
    y = F.avg_pool2d(x.mean(1, keepdim=True), kernel_size, stride, padding, ceil_mode)
    return y.expand(-1, x.shape[1], -1, -1)


def theoretical_fields(detector: Detector) -> list[Field]:
    """One for each level. ValueError if one is larger than LARGEST_INPUT, or sees the whole image always.

    The border of the input is kept away: the input grows until no field reaches it.
    """
    network = nn.Sequential(detector.backbone, detector.neck, detector.head)
    dtype = next(detector.parameters()).dtype
    network.double().eval()  # the weights of a field's corner are small
    try:
        side = 512
        while side <= LARGEST_INPUT:
            fields = _fields_at(network, detector.anchors.per_location, side)
            if fields is not None:
                return fields
            side *= 2
    finally:
        network.to(dtype)
    raise ValueError(f"a receptive field is larger than {LARGEST_INPUT} px, or depends on the whole image")


def _fields_at(network: nn.Sequential, per_location: Sequence[int], side: int) -> list[Field] | None:
    """None if a field reaches the border of an image of `side` pixels, or if there is no second unit."""
    image = torch.zeros(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    with PositiveNetwork():
        maps = network[1](network[0](image))
        outputs = network[2](maps)
    first = 0
    fields = []
    for x, count in zip(maps, per_location, strict=True):
        rows, columns = x.shape[2:]
        if rows < 3:
            return None
        spans = []
        for row in (rows // 2, rows // 2 + 1):
            unit = first + (row * columns + columns // 2) * count
            (gradient,) = torch.autograd.grad(outputs.offsets[0, unit].sum(), image, retain_graph=True)
            spans.append(_support(gradient[0].abs().sum(0)))
        (top, bottom, left, right), (next_top, *_) = spans
        if min(top, left) == 0 or max(bottom, right) == side - 1:
            return None
        fields.append(Field(bottom - top + 1, right - left + 1, next_top - top))
        first += rows * columns * count
    return fields


def _support(gradient: Tensor) -> tuple[int, int, int, int]:
    """(H, W) -> first and last row, first and last column that are not 0"""
    rows = gradient.sum(1).nonzero()
    columns = gradient.sum(0).nonzero()
    return int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])


def gradient_maps(detector: Detector, images: Tensor, *, squared: bool = True) -> list[Tensor]:
    """For each level (H, W): the gradient of its centre unit's outputs with respect to the pixels.

    Squares or absolute values, summed over the three channels and averaged over images. images: (B, 3, H, W)
    pixels, one size.
    """
    detector.eval()
    size = tuple(images.shape[-2:])
    totals = [torch.zeros(size) for _ in detector.grid(size).levels]
    for image in images.float():
        pixels = image[None].requires_grad_()
        outputs = detector(pixels)
        parts = [outputs.offsets, outputs.class_logits]
        if outputs.objectness is not None:
            parts.append(outputs.objectness[..., None])
        numbers = torch.cat(parts, -1)[0]  # (A, entries)
        for total, (start, count) in zip(totals, centre_units(detector, size), strict=True):
            unit = numbers[start : start + count].sum()
            (gradient,) = torch.autograd.grad(unit, pixels, retain_graph=True)
            total += (gradient[0] ** 2 if squared else gradient[0].abs()).sum(0) / len(images)
    return totals


def centre_units(detector: Detector, size: Sequence[int]) -> list[tuple[int, int]]:
    """For each level: the first anchor of its centre cell, and how many the cell has."""
    units = []
    first = 0
    for level in detector.grid(size).levels:
        cell = level.rows // 2 * level.columns + level.columns // 2
        units.append((first + cell * level.per_location, level.per_location))
        first += level.num_anchors
    return units


def effective_square(gradient: Tensor, share: float = SHARE) -> tuple[float, float, int]:
    """(H, W), not negative -> column and row of its centre of mass, and the side of the smallest square there
    that holds `share` of the sum, in pixels. The side is 0 for a gradient of zeros.
    """
    total = gradient.sum()
    if total == 0:
        return gradient.shape[1] / 2, gradient.shape[0] / 2, 0
    rows, columns = (torch.arange(n, dtype=torch.float32) for n in gradient.shape)
    row = float((gradient.sum(1) * rows).sum() / total)
    column = float((gradient.sum(0) * columns).sum() / total)
    distance = torch.maximum((rows - row).abs()[:, None], (columns - column).abs()[None])  # (H, W)
    order = distance.flatten().argsort()
    held = gradient.flatten()[order].cumsum(0)
    last = int(torch.searchsorted(held, share * held[-1]).clamp(max=len(held) - 1))
    return column + 0.5, row + 0.5, round(2 * float(distance.flatten()[order[last]])) + 1
