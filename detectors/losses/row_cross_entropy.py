"""Cross-entropy of many rows of which few get a gradient, as in a loss that mines hard negatives."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from detectors.kernels.packing import packs, rows_where

# Bytes of the logits that a CPU handles at a time. The table of all log-probabilities would be new memory of
# their size at each step, which costs more time than its numbers.
CACHED_LOGITS = 1 << 20


def row_cross_entropy(logits: Tensor, columns: Tensor) -> Tensor:
    """(R, C) logits, (R,) classes -> (R,) F.cross_entropy(reduction="none").

    On a CPU it can be differentiated once, and the gradient of logits is computed only in rows whose error
    has a gradient other than 0.
    """
    if packs(logits.device):
        return _PackedCrossEntropy.apply(logits, columns)
    return F.cross_entropy(logits, columns, reduction="none")


class _PackedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, columns: Tensor) -> Tensor:
        ctx.save_for_backward(logits, columns)
        rows = max(1, CACHED_LOGITS // (logits.shape[1] * logits.element_size()))
        parts = zip(logits.split(rows), columns.split(rows), strict=True)
        return torch.cat([F.cross_entropy(*part, reduction="none") for part in parts])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, error_grad: Tensor) -> tuple[Tensor, None]:
        logits, columns = ctx.saved_tensors
        rows = rows_where(error_grad != 0)
        with torch.enable_grad():
            chosen = logits.detach()[rows].requires_grad_()
            error = F.cross_entropy(chosen, columns[rows], reduction="none")
        (gradient,) = torch.autograd.grad(error, chosen, error_grad[rows])
        return torch.zeros_like(logits).index_copy_(0, rows, gradient), None
