"""From gradients to new weights: what happens between the backward pass and the next step."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm

from detectors.training.run import Run


def update(run: Run) -> Tensor | None:
    """Clips the gradients and takes an optimiser step, which LossScaler may leave out.

    Returns clip_gradients' norm.
    """
    run.scaler.unscale()
    norm = clip_gradients(run.task.module, run.config.trainer.clip_grad_norm)
    run.scaler.step()
    return norm


def clip_gradients(module: nn.Module, limit: float | None) -> Tensor | None:
    """L2 norm over all gradients before clipping; None without a limit."""
    return clip_grad_norm_(module.parameters(), limit) if limit else None


def gradient_norm(module: nn.Module) -> Tensor:
    """L2 norm over all gradients."""
    return get_total_norm([p.grad for p in module.parameters() if p.grad is not None])


def weight_norm(module: nn.Module) -> Tensor:
    """L2 norm over all weights that are trained."""
    return get_total_norm([p.detach() for p in module.parameters() if p.requires_grad])
