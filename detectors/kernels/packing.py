"""How much of a padded batch is computed: on a CPU what is needed, on a GPU all of it.

The host reads a number on the CPU at once, so it can pick the rows that need work. On a GPU it would have to
wait for the number, so every row is computed, and what a row must not add has the weight 0. torch.compile
traces the GPU's way, because shapes that depend on numbers would break its graph. Results are the same, bit
for bit (tests/kernels/test_packing.py).
"""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor

PACKED = frozenset({"cpu"})  # kinds of devices; tests empty it to see on a CPU what a GPU would do


def packs(device: torch.device) -> bool:
    """Whether the host may read numbers on `device` to leave out work."""
    return device.type in PACKED and not torch.compiler.is_compiling()


def rows_where(needed: Tensor) -> Tensor:
    """(R,) int64: the rows of a flat or flattened bool tensor that are needed, or all rows."""
    needed = needed.flatten()
    if packs(needed.device):
        return needed.nonzero().squeeze(1)
    return torch.arange(len(needed), device=needed.device)


def at_most(counts: Tensor, limit: int) -> int:
    """A number that none of the counts exceeds: the largest of them rounded up, or `limit`."""
    if packs(counts.device):
        return min(limit, ceil(max(counts.flatten().tolist(), default=0)))
    return limit


def used_columns(needed: Tensor) -> list[int] | None:
    """For each row of a bool tensor (B, M), where its last needed column ends; None for all columns."""
    if not packs(needed.device):
        return None
    ends = torch.arange(1, needed.shape[1] + 1, device=needed.device) * needed  # (B, M)
    return ends.amax(1).tolist() if needed.shape[1] else [0] * len(needed)
