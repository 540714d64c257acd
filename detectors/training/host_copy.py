"""Numbers from the device to the host, all of a log line at once: each transfer waits for the device."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

TensorName = TypeVar("TensorName", bound=Hashable)


def on_host(tensors: Mapping[TensorName, Tensor]) -> dict[TensorName, Tensor]:
    """The tensors of one device on the host, with their shapes and types, by one transfer.

    They travel as float64, which holds every float32, and integers up to 2^53, exactly.
    """
    if not tensors:
        return {}
    parts = [tensor.detach().reshape(-1).to(torch.float64) for tensor in tensors.values()]
    filled = [part for part in parts if part.numel()]
    fetched = torch.cat(filled or parts).cpu().split([part.numel() for part in parts])
    return {
        key: values.to(tensor.dtype).view(tensor.shape)
        for (key, tensor), values in zip(tensors.items(), fetched, strict=True)
    }
