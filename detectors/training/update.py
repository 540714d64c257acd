"""From gradients to new weights: what happens between the backward pass and the next step."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm

from detectors.training.optim import rate_factor, set_rate
from detectors.training.run import Run
from detectors.training.spans import span


def begin_step(run: Run) -> float:
    """Sets the rate of the next step, which it returns, and clears the gradients."""
    config = run.config
    rate = config.optimizer["rate"] * rate_factor(
        config.schedule, run.progress.step + 1, config.trainer.steps
    )
    set_rate(run.optimizer, rate)
    run.optimizer.zero_grad(set_to_none=True)
    if run.guard is not None:
        run.guard.remember()
    return rate


def backward(run: Run, terms: Mapping[str, Tensor]) -> None:
    """Adds the gradients of a batch's loss terms to those of its step."""
    with span("backward"):
        run.scaler.scale(sum(terms.values()) / run.config.trainer.accumulate).backward()


def update(run: Run) -> Tensor | None:
    """Clips the gradients, takes an optimiser step and averages the weights.

    LossScaler may leave the step out, and StepGuard may undo all of it. Returns clip_gradients' norm.
    """
    trainer = run.config.trainer
    with span("optimizer"):
        run.scaler.unscale()
        norm = clip_gradients(run.task.module, trainer.clip_grad_norm)
        run.scaler.step()
        if run.ema is not None:
            run.ema.update(run.task.module, run.progress.step + 1)
        if run.guard is not None:
            run.guard.settle(run.recent.terms[-trainer.accumulate :])
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
