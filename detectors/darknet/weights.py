"""Reads and writes Darknet's .weights files, for modules that register their convolutions in the cfg's order.

Layout, little-endian: int32 major, minor, revision; `seen`, the number of training images, as uint64 from
version 0.2 on (a header of 20 bytes) and as int32 before (16 bytes, all released YOLOv2 files). Then float32,
for each convolution in the cfg's order: bias; with batch norm (whose beta is that bias) scale, running mean
and running variance; finally the kernel (out, in, rows, columns).
Source: load_weights_upto, load_convolutional_weights in src/parser.c of Darknet f6afaab.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from detectors.data.files import atomic_file

FLOAT = np.dtype("<f4")
SEEN_BUFFER = "images_seen"  # the buffer for the header's `seen`, in any submodule


class Header(NamedTuple):
    major: int = 0
    minor: int = 2
    revision: int = 0
    seen: int = 0  # training images

    @property
    def seen_bytes(self) -> int:
        return 8 if self.major * 10 + self.minor >= 2 else 4

    @property
    def size(self) -> int:
        """Bytes."""
        return 12 + self.seen_bytes

    def to_bytes(self) -> bytes:
        """ValueError for numbers that the format cannot hold."""
        if not all(-(2**31) <= number < 2**31 for number in self[:3]):
            raise ValueError(f"version {'.'.join(map(str, self[:3]))}: a header holds numbers of 32 bits")
        limit = 2 ** (8 * self.seen_bytes - 1)
        if not 0 <= self.seen < limit:
            raise ValueError(
                f"seen={self.seen}: a header of version {self.major}.{self.minor} "
                f"holds numbers from 0 to {limit - 1}"
            )
        version = b"".join(number.to_bytes(4, "little", signed=True) for number in self[:3])
        return version + self.seen.to_bytes(self.seen_bytes, "little")


class Convolution(NamedTuple):
    """One convolution of a module, with the batch norm after it, if there is one."""

    name: str
    conv: nn.Conv2d
    norm: nn.BatchNorm2d | None

    def tensors(self) -> list[Tensor]:
        """In the order of a .weights file."""
        if self.norm is None:
            assert self.conv.bias is not None
            return [self.conv.bias, self.conv.weight]
        assert self.norm.running_mean is not None
        assert self.norm.running_var is not None
        return [
            self.norm.bias,
            self.norm.weight,
            self.norm.running_mean,
            self.norm.running_var,
            self.conv.weight,
        ]

    @property
    def count(self) -> int:  # type: ignore[override] # a tuple has count()
        """Floats in a .weights file."""
        return sum(tensor.numel() for tensor in self.tensors())

    def __str__(self) -> str:
        height, width = self.conv.kernel_size
        norm = "batch norm" if self.norm is not None else "bias"
        return (
            f"{self.name}: {self.conv.out_channels} filters of {width} x {height} "
            f"on {self.conv.in_channels} channels, {norm}"
        )


@dataclass(frozen=True)
class LoadReport:
    """Which layers were loaded from a .weights file."""

    path: Path
    header: Header
    loaded: tuple[Convolution, ...]
    unchanged: tuple[Convolution, ...]  # the file ends before them

    def lines(self) -> Iterator[str]:
        """The header, then one line for each layer."""
        version = ".".join(map(str, self.header[:3]))
        yield (
            f"{self.path}: version {version}, header of {self.header.size} bytes, "
            f"{self.header.seen} training images seen"
        )
        for state, layers in (("loaded", self.loaded), ("unchanged", self.unchanged)):
            for layer in layers:
                yield f"  {state}: {layer}: {layer.count} numbers"


def convolutions(module: nn.Module) -> list[Convolution]:
    """A module's convolutions as registered, which in our builders and DarknetNetwork is the cfg's order.

    ValueError for a module that cannot be stored in a .weights file.
    """
    layers: list[Convolution] = []
    for name, part in module.named_modules():
        if isinstance(part, nn.Conv2d):
            layers.append(Convolution(name.removesuffix(".conv"), part, None))
        elif isinstance(part, nn.BatchNorm2d):
            if not layers or layers[-1].norm is not None or layers[-1].conv.out_channels != part.num_features:
                raise ValueError(
                    f"{name}: this batch norm does not follow a convolution of its own, "
                    "so a .weights file cannot hold it"
                )
            layers[-1] = layers[-1]._replace(norm=part)
    for layer in layers:
        if (layer.conv.bias is None) != (layer.norm is not None):
            raise ValueError(f"{layer}: in a .weights file a convolution has either a bias or a batch norm")
    return layers


def read_header(path: Path | str) -> Header:
    """FileNotFoundError if there is no such file; ValueError if it has no valid header."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights file")
    with path.open("rb") as file:
        data = file.read(20)
    header = Header(*np.frombuffer(data[:12], "<i4").tolist()) if len(data) >= 16 else None
    if header is None or len(data) < header.size:
        raise ValueError(
            f"{path}: {len(data)} bytes are too few for the header of a Darknet weights file (16 or 20)"
        )
    if not (0 <= header.major < 1000 and 0 <= header.minor < 1000):
        raise ValueError(
            f"{path}: Darknet has no version {header.major}.{header.minor}, so this is not a weights file"
        )
    seen = int.from_bytes(data[12 : header.size], "little", signed=True)
    if seen < 0:
        raise ValueError(
            f"{path}: the header counts {seen} training images; the file is damaged or not a weights file"
        )
    return header._replace(seen=seen)


def load_weights(module: nn.Module, path: Path | str, *, partial: bool = False) -> LoadReport:
    """Fills a module's convolutions, and its buffer `images_seen` if it has one. An error changes nothing.

    partial: the file may end before the network does, between two layers, such as darknet19_448.conv.23; the
    other layers stay unchanged.
    ValueError names the first layer that does not fit, and both counts.
    """
    report = check_weights(module, path, partial=partial)
    numbers = _map_numbers(report.path, report.header)
    with torch.no_grad():
        start = 0
        for tensor in (tensor for layer in report.loaded for tensor in layer.tensors()):
            values = np.array(numbers[start : start + tensor.numel()], np.float32)
            tensor.copy_(torch.from_numpy(values).view(tensor.shape))
            start += tensor.numel()
        for buffer in _seen_buffers(module):
            buffer.fill_(report.header.seen)
    return report


def check_weights(module: nn.Module, path: Path | str, *, partial: bool = False) -> LoadReport:
    """As load_weights, with the same errors, but changes nothing. The module may be on the "meta" device."""
    path = Path(path)
    layers = convolutions(module)
    header = read_header(path)
    numbers = _map_numbers(path, header)
    loaded = _match_layers(path, numbers, layers, partial)
    _check_variances(path, numbers, loaded)
    return LoadReport(path, header, tuple(loaded), tuple(layers[len(loaded) :]))


def save_weights(module: nn.Module, path: Path | str, *, header: Header | None = None) -> None:
    """Writes a module's convolutions atomically. header: by default version 0.2.0, with `images_seen`.

    Law: load_weights, then save_weights with its header, give the same bytes (tests/darknet/test_weights.py).
    """
    path = Path(path)
    layers = convolutions(module)
    if header is None:
        header = Header(seen=max((int(buffer) for buffer in _seen_buffers(module)), default=0))
    with atomic_file(path) as file:
        file.write(header.to_bytes())
        for tensor in (tensor for layer in layers for tensor in layer.tensors()):
            file.write(tensor.detach().float().cpu().contiguous().numpy().astype(FLOAT).tobytes())


def _seen_buffers(module: nn.Module) -> list[Tensor]:
    return [buffer for name, buffer in module.named_buffers() if name.rpartition(".")[2] == SEEN_BUFFER]


def _map_numbers(path: Path, header: Header) -> np.ndarray:
    """The file's floats, memory-mapped."""
    size = path.stat().st_size - header.size
    if size % FLOAT.itemsize:
        raise ValueError(
            f"{path}: {size} bytes follow the header, not a multiple of 4; the file is truncated or damaged"
        )
    if not size:
        raise ValueError(f"{path}: nothing follows the header; the file is truncated")
    return np.memmap(path, FLOAT, mode="r", offset=header.size, shape=(size // FLOAT.itemsize,))


def _match_layers(
    path: Path, numbers: np.ndarray, layers: list[Convolution], partial: bool
) -> list[Convolution]:
    """The layers that the file fills. ValueError unless it ends where the last of them does."""
    start = 0
    for n, layer in enumerate(layers):
        available = len(numbers) - start
        if not available and partial:
            return layers[:n]
        if layer.count > available:
            reason = (
                f"convolution {n + 1} of {len(layers)} ({layer}) needs {layer.count} numbers, "
                f"but the file has {available} left"
            )
            if not available:
                reason += "; it ends between two layers: if it is a backbone, load it with partial=True"
            raise ValueError(_size_mismatch(path, numbers, layers, reason))
        start += layer.count
    if start < len(numbers):
        end = (
            f"the last convolution ({layers[-1]})"
            if layers
            else "the header (the network has no convolutions)"
        )
        reason = f"{len(numbers) - start} numbers are left after {end}"
        raise ValueError(_size_mismatch(path, numbers, layers, reason))
    return layers


def _size_mismatch(path: Path, numbers: np.ndarray, layers: list[Convolution], reason: str) -> str:
    """An error message: both counts, the reason and, if the numbers show it, the first layer that differs."""
    count = sum(layer.count for layer in layers)
    surplus = len(numbers) - count
    difference = f"{surplus} too many" if surplus > 0 else f"{-surplus} too few"
    text = f"{path}: the file has {len(numbers)} numbers, the network {count}: {difference}; {reason}"
    normed = [layer for layer in layers if layer.norm is not None]
    if normed and -surplus == sum(3 * layer.conv.out_channels for layer in normed):
        return (
            f"{text}. It fits this network without batch norm: the first layer that does not fit is "
            f"{normed[0]}; set batch_normalize=0"
        )
    layer = _first_invalid_variance(numbers, layers)
    if layer is None:
        return text
    return f"{text}. The first layer that cannot fit is {layer}: its variances would be negative"


def _check_variances(path: Path, numbers: np.ndarray, layers: list[Convolution]) -> None:
    layer = _first_invalid_variance(numbers, layers)
    if layer is not None:
        raise ValueError(
            f"{path}: {layer}: its variances would be negative; the file is damaged, or belongs to another "
            "network of the same size"
        )


def _first_invalid_variance(numbers: np.ndarray, layers: list[Convolution]) -> Convolution | None:
    """The first layer whose batch norm would get a negative or NaN variance, as far as the file goes."""

    start = 0
    for layer in layers:
        filters = layer.conv.out_channels
        if layer.norm is not None and not (numbers[start + 3 * filters : start + 4 * filters] >= 0).all():
            return layer
        start += layer.count
    return None
