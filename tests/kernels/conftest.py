"""Where the tests of kernels run, and the switch."""

from __future__ import annotations

import os

import pytest
import torch

from detectors.kernels.dispatch import set_kernels


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> torch.device:
    """The CPU, on which Triton's interpreter runs the kernels (tests/conftest.py switches it on), or a GPU.

    One process has one or the other, because Triton reads TRITON_INTERPRET when it is imported.
    """
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if interpreted != (request.param == "cpu"):
        pytest.skip(f"TRITON_INTERPRET={os.environ.get('TRITON_INTERPRET')}: kernels do not run here")
    return torch.device(request.param)


@pytest.fixture
def kernels():
    """set_kernels; afterwards the switch is as it was."""
    before = set_kernels("auto")
    yield set_kernels
    set_kernels(before)
