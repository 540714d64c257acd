"""The one switch between the reference and Triton."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from detectors.kernels.dispatch import describe_versions, uses_triton, version

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(params=["0", "1"])
def interpreted(request, monkeypatch) -> bool:
    monkeypatch.setenv("TRITON_INTERPRET", request.param)
    return request.param == "1"


def test_what_runs_on_a_gpu(kernels):
    assert version(CUDA) == ("triton", "the device is cuda")
    assert version(CUDA, "box_error='cells'") == ("reference", "the kernel does not do box_error='cells'")
    kernels("triton")
    assert version(CUDA) == ("triton", "the device is cuda")
    assert version(CUDA, "box_error='cells'") == ("reference", "the kernel does not do box_error='cells'")
    kernels("reference")
    assert version(CUDA) == ("reference", "kernels=reference")


def test_auto_runs_the_reference_on_a_cpu(kernels, interpreted):
    """Also where the interpreter could run the kernel: it is for tests."""
    assert version(CPU) == ("reference", "the device is cpu")
    assert version(CPU, "box_error='cells'").name == "reference"


def test_triton_on_a_cpu_needs_the_interpreter(kernels, interpreted):
    kernels("triton")
    if interpreted:
        assert version(CPU) == ("triton", "Triton's interpreter (TRITON_INTERPRET=1)")
        assert version(CPU, "box_error='cells'").name == "reference"
    else:
        message = "^kernels=triton: the device is cpu; choose kernels=auto or kernels=reference"
        with pytest.raises(ValueError, match=message):
            version(CPU)


def test_without_triton(kernels, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert version(CUDA) == ("reference", "Triton is not installed")
    kernels("triton")
    with pytest.raises(ValueError, match="^kernels=triton: Triton is not installed; choose kernels=auto"):
        version(CUDA)


def test_an_unknown_choice_changes_nothing(kernels):
    assert kernels("reference") == "auto"
    with pytest.raises(ValueError, match="^kernels='cuda': choose auto, reference, triton$"):
        kernels("cuda")
    assert kernels("auto") == "reference"


class Part:
    def __init__(self, kernel: str, reason: str | None):
        self.kernel = kernel
        self.reason = reason

    def unsupported(self) -> str | None:
        return self.reason


def test_the_line_for_the_log(kernels):
    parts = [Part("region", None), object(), Part("suppression", "float64")]
    assert describe_versions(parts, CUDA) == (
        "region: triton (the device is cuda), suppression: reference (the kernel does not do float64)"
    )
    assert describe_versions([object()], CUDA) == "none"


@pytest.mark.usefixtures("device")
def test_a_compiled_graph_follows_the_switch(kernels):
    def twice_or_thrice(x: torch.Tensor) -> torch.Tensor:
        return x * 2 if uses_triton(x.device, "float64" if x.dtype == torch.float64 else None) else x * 3

    torch.compiler.reset()
    compiled = torch.compile(twice_or_thrice, fullgraph=True, backend="eager")
    ones = torch.ones(1)
    factors = [compiled(ones).item()]
    kernels("triton")
    factors += [compiled(ones).item(), compiled(ones.double()).item()]
    kernels("reference")
    assert [*factors, compiled(ones).item()] == [3, 2, 3, 3]
