"""Running detectors convert, and making detectors with random parameters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from detectors.commands.convert import command

NARROW = 0.125


def run(*arguments: str | Path) -> None:
    command.main([str(argument) for argument in arguments])


def refused(capsys, *arguments: str | Path) -> str:
    """The error message of a conversion that must fail."""
    with pytest.raises(SystemExit) as exit_info:
        run(*arguments)
    assert exit_info.value.code == 2
    return capsys.readouterr().err


def randomized(detector: nn.Module, seed: int = 0) -> nn.Module:
    """Adds random numbers to all parameters and running statistics, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in detector.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape, generator=generator) * 0.2 - 0.1)
    return detector
