"""Darknet's .weights files: read into any module whose convolutions are registered in the order of the cfg, and written from it.

Layout, little-endian: int32 major, minor, revision; `seen`, the number of training images, as uint64 from version 0.2 on (a header of 20
bytes) and as int32 before (16 bytes, all released YOLOv2 files). Then float32: for each convolution in the cfg's order its bias; with batch
norm (whose beta is that bias) scale, running mean and running variance; last the kernel (out, in, rows, columns).
Source: load_weights_upto, load_convolutional_weights in src/parser.c of Darknet f6afaab.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

FLOAT = np.dtype("<f4")
SEEN_BUFFER = "images_seen"  # the buffer that holds the header's `seen`, wherever in the module it is


class Header(NamedTuple):
    major: int = 0
    minor: int = 2
    revision: int = 0
    seen: int = 0  # training images

    @property
    def wide(self) -> bool:
        """Whether `seen` takes 8 bytes instead of 4."""
        return self.major * 10 + self.minor >= 2

    @property
    def size(self) -> int:
        return 20 if self.wide else 16

    def to_bytes(self) -> bytes:
        """ValueError for numbers that the format cannot hold."""
        limit = 2**63 if self.wide else 2**31
        if not 0 <= self.seen < limit:
            raise ValueError(
                f"seen={self.seen}: a header of version {self.major}.{self.minor} holds numbers from 0 to {limit - 1}"
            )
        numbers = np.array([self.major, self.minor, self.revision], "<i4").tobytes()
        return numbers + self.seen.to_bytes(8 if self.wide else 4, "little")


class Convolution(NamedTuple):
    """One convolution of a module, with the batch norm behind it if there is one."""

    name: str
    conv: nn.Conv2d
    norm: nn.BatchNorm2d | None

    def tensors(self) -> list[Tensor]:
        """What a .weights file holds of it, in order."""
        if self.norm is None:
            return [self.conv.bias, self.conv.weight]
        return [
            self.norm.bias,
            self.norm.weight,
            self.norm.running_mean,
            self.norm.running_var,
            self.conv.weight,
        ]

    @property
    def count(self) -> int:
        """Floats in a .weights file."""
        return sum(tensor.numel() for tensor in self.tensors())

    def __str__(self) -> str:
        height, width = self.conv.kernel_size
        norm = "batch norm" if self.norm is not None else "bias"
        return f"{self.name}: {self.conv.out_channels} filters of {width} x {height} on {self.conv.in_channels} channels, {norm}"


@dataclass(frozen=True)
class LoadReport:
    """What became of a .weights file."""

    path: Path
    header: Header
    loaded: tuple[Convolution, ...]
    left: tuple[Convolution, ...]  # as they were: the file ended before them

    def lines(self) -> Iterator[str]:
        """One line for each layer."""
        version = ".".join(map(str, self.header[:3]))
        yield f"{self.path}: version {version}, header of {self.header.size} bytes, {self.header.seen} training images seen"
        for state, layers in (("loaded", self.loaded), ("left as it was", self.left)):
            for layer in layers:
                yield f"  {state}: {layer}: {layer.count} numbers"


def convolutions(module: nn.Module) -> list[Convolution]:
    """A module's convolutions in the order of registration, which our builders and DarknetNetwork keep equal to the cfg's.

    ValueError for a module that a .weights file cannot describe.
    """
    found: list[Convolution] = []
    for name, part in module.named_modules():
        if isinstance(part, nn.Conv2d):
            found.append(Convolution(name.removesuffix(".conv"), part, None))
        elif isinstance(part, nn.BatchNorm2d):
            if not found or found[-1].norm is not None or found[-1].conv.out_channels != part.num_features:
                raise ValueError(
                    f"{name}: this batch norm follows no convolution of its own, which a .weights file cannot hold"
                )
            found[-1] = found[-1]._replace(norm=part)
    for layer in found:
        if (layer.conv.bias is None) != (layer.norm is not None):
            raise ValueError(
                f"{layer}: a .weights file holds a bias for a convolution, or a batch norm, not both and not neither"
            )
    return found


def read_header(path: Path | str) -> Header:
    """FileNotFoundError without the file; ValueError if it does not begin with the header of a .weights file."""
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
            f"{path}: version {header.major}.{header.minor} is none of Darknet's, so this is no Darknet weights file"
        )
    seen = int.from_bytes(data[12 : header.size], "little", signed=True)
    if seen < 0:
        raise ValueError(
            f"{path}: the header counts {seen} training images; the file is damaged or is no Darknet weights file"
        )
    return header._replace(seen=seen)


def load_weights(module: nn.Module, path: Path | str, *, partial: bool = False) -> LoadReport:
    """Fills a module's convolutions, and its buffer `images_seen` if it has one, from a .weights file. After an error nothing has changed.

    partial: the file may end before the network does, between two layers, such as darknet19_448.conv.23; the rest stays as it is.
    ValueError names the first layer that does not fit and the counts.
    """
    report = check_weights(module, path, partial=partial)
    numbers = _numbers(report.path, report.header)
    with torch.no_grad():
        place = 0
        for tensor in (tensor for layer in report.loaded for tensor in layer.tensors()):
            part = np.array(numbers[place : place + tensor.numel()], np.float32)
            tensor.copy_(torch.from_numpy(part).view(tensor.shape))
            place += tensor.numel()
        for buffer in _counters(module):
            buffer.fill_(report.header.seen)
    return report


def check_weights(module: nn.Module, path: Path | str, *, partial: bool = False) -> LoadReport:
    """What load_weights would do, with all its errors, and nothing done. The module may lie on the "meta" device and hold no memory."""
    path, layers = Path(path), convolutions(module)
    header = read_header(path)
    numbers = _numbers(path, header)
    loaded = _fitting(path, numbers, layers, partial)
    _check_variances(path, numbers, loaded)
    return LoadReport(path, header, tuple(loaded), tuple(layers[len(loaded) :]))


def save_weights(module: nn.Module, path: Path | str, *, header: Header | None = None) -> None:
    """Writes a module's convolutions, whole or not at all. header: by default version 0.2.0 with the module's `images_seen`.

    Law: load_weights and save_weights with its header give back the same bytes (tests/weights/test_darknet.py).
    """
    path, layers = Path(path), convolutions(module)
    if header is None:
        header = Header(seen=max((int(buffer) for buffer in _counters(module)), default=0))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(header.to_bytes())
            for tensor in (tensor for layer in layers for tensor in layer.tensors()):
                file.write(tensor.detach().float().cpu().contiguous().numpy().astype(FLOAT).tobytes())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _counters(module: nn.Module) -> list[Tensor]:
    return [buffer for name, buffer in module.named_buffers() if name.rpartition(".")[2] == SEEN_BUFFER]


def _numbers(path: Path, header: Header) -> np.ndarray:
    """The file's floats, mapped and not yet read."""
    size = path.stat().st_size - header.size
    if size % FLOAT.itemsize:
        raise ValueError(
            f"{path}: {size} bytes follow the header, which is no multiple of 4; the file is truncated or damaged"
        )
    if not size:
        raise ValueError(f"{path}: nothing follows the header; the file is truncated")
    return np.memmap(path, FLOAT, mode="r", offset=header.size, shape=(size // FLOAT.itemsize,))


def _fitting(path: Path, numbers: np.ndarray, layers: list[Convolution], partial: bool) -> list[Convolution]:
    """The layers that the file fills. ValueError unless it ends where the last of them does."""
    place = 0
    for n, layer in enumerate(layers):
        if place == len(numbers) and partial:
            return layers[:n]
        if place + layer.count > len(numbers):
            left = f"{layer.count} numbers, and the file has {len(numbers) - place} left"
            hint = (
                "; it ends between two layers: if it is a backbone, load it with partial=True"
                if place == len(numbers)
                else ""
            )
            raise ValueError(
                _misfit(
                    path,
                    numbers,
                    layers,
                    f"convolution {n + 1} of {len(layers)} ({layer}) needs {left}{hint}",
                )
            )
        place += layer.count
    if place < len(numbers):
        last = (
            f"the last convolution ({layers[-1]})"
            if layers
            else "the header, the network having no convolution,"
        )
        raise ValueError(
            _misfit(path, numbers, layers, f"after {last} {len(numbers) - place} numbers are left")
        )
    return layers


def _misfit(path: Path, numbers: np.ndarray, layers: list[Convolution], ended: str) -> str:
    """The counts, and where the file and the network part as far as the numbers themselves show it."""
    count = sum(layer.count for layer in layers)
    verdict = (
        f"{len(numbers) - count} too many" if len(numbers) > count else f"{count - len(numbers)} too few"
    )
    text = f"{path}: the file has {len(numbers)} numbers, the network {count}: {verdict}; {ended}"
    normed = [layer for layer in layers if layer.norm is not None]
    if normed and len(numbers) == count - sum(3 * layer.conv.out_channels for layer in normed):
        return f"{text}. It fits this network without batch norm: the first layer that does not fit is {normed[0]}; set batch_normalize=0"
    broken = _impossible(numbers, layers)
    return (
        text
        if broken is None
        else f"{text}. The first layer that cannot fit is {broken}: its variances would be negative"
    )


def _check_variances(path: Path, numbers: np.ndarray, layers: list[Convolution]) -> None:
    broken = _impossible(numbers, layers)
    if broken is not None:
        raise ValueError(
            f"{path}: {broken}: its variances would be negative; the file is damaged, or of another network of the same size"
        )


def _impossible(numbers: np.ndarray, layers: list[Convolution]) -> Convolution | None:
    """The first layer whose batch norm would be given a variance below 0 or NaN, as far as the file reaches."""
    place = 0
    for layer in layers:
        filters = layer.conv.out_channels
        if layer.norm is not None and not (numbers[place + 3 * filters : place + 4 * filters] >= 0).all():
            return layer
        place += layer.count
    return None
