"""What no program can beat on a machine: bytes at its memory's rate, FLOPs at the rate of its products.

Both rates are measured in the same rounds as the programs.
"""

from __future__ import annotations

import torch

from detectors.training.interleaving import Contender

COPY = "copy"  # the name of the bandwidth probe
PRODUCT = "product"
COPY_BYTES = {"cpu": 2**26, "cuda": 2**30}  # larger than any cache
PRODUCT_SIDE = {"cpu": 1024, "cuda": 8192}


def copy_probe(device: torch.device) -> Contender:
    """Copies a tensor that no cache holds."""
    source = torch.ones(COPY_BYTES[device.type] // 4, device=device)
    target = torch.empty_like(source)
    return Contender(COPY, {"": lambda: target.copy_(source)})


def seconds_of_bytes(count: int, copies: list[float], device: torch.device) -> list[float]:
    """count: bytes read and written. copies: seconds of copy_probe. -> seconds in each round."""
    return [count * seconds / (2 * COPY_BYTES[device.type]) for seconds in copies]


def product_probe(device: torch.device, dtype: torch.dtype) -> Contender:
    """Multiplies two square matrices."""
    side = PRODUCT_SIDE[device.type]
    left = torch.ones(side, side, device=device, dtype=dtype)
    right = torch.ones_like(left)
    return Contender(PRODUCT, {"": lambda: left @ right})


def seconds_of_flops(count: int, products: list[float], device: torch.device) -> list[float]:
    """count: FLOPs, 2 per multiply-add. products: seconds of product_probe. -> seconds in each round."""
    return [count * seconds / (2 * PRODUCT_SIDE[device.type] ** 3) for seconds in products]
