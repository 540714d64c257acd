"""trainer.freeze: parameters that a training does not change, and the BatchNorm statistics beside them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from detectors.training.name_patterns import matching_names


def freeze(module: nn.Module, patterns: Sequence[str]) -> None:
    """Takes the gradient from all parameters that a pattern matches, so that no optimiser group has them.

    Patterns: see matching_names. ValueError for one without a match, or if nothing is left to train.
    """
    parameters = dict(module.named_parameters())
    for pattern in patterns:
        for name in matching_names(list(parameters), pattern, "trainer.freeze"):
            parameters[name].requires_grad_(False)
    if patterns and not any(parameter.requires_grad for parameter in parameters.values()):
        raise ValueError(f"trainer.freeze={list(patterns)}: no parameter is left to train; freeze fewer")


def train_mode(module: nn.Module, *, freeze_statistics: bool) -> None:
    """Training mode. With freeze_statistics, a BatchNorm layer whose own parameters are all frozen stays in
    evaluation mode: it normalises with its running mean and variance, which do not change.
    """
    module.train()
    for part in module.modules() if freeze_statistics else ():
        own = [parameter.requires_grad for parameter in part.parameters(recurse=False)]
        if isinstance(part, _BatchNorm) and own and not any(own):
            part.eval()
