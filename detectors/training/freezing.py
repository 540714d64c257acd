"""trainer.freeze: parameters that a training does not change, and the BatchNorm statistics beside them."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from detectors.data.suggestions import did_you_mean


def freeze(module: nn.Module, patterns: Sequence[str]) -> None:
    """Takes the gradient from all parameters that a pattern matches, so that no optimiser group has them.

    A pattern matches whole names of parameters, or of the modules that hold them: `backbone`, `head.*bias`; *
    stands for any characters. ValueError for a pattern without a match, or if nothing is left to train.
    """
    parameters = dict(module.named_parameters())
    for pattern in patterns:
        matched = [name for name in parameters if _matches(name, pattern)]
        if not matched:
            hint = did_you_mean(pattern, dict.fromkeys(_names_and_modules(parameters)))
            raise ValueError(f"trainer.freeze: {pattern!r} matches no parameter of the network{hint}")
        for name in matched:
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


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def _names_and_modules(names: Sequence[str]) -> list[str]:
    """'a.b.weight' -> 'a', 'a.b', 'a.b.weight'"""
    return [
        ".".join(parts[:end]) for parts in (n.split(".") for n in names) for end in range(1, len(parts) + 1)
    ]
