"""Which version of a fused operation runs: the reference in PyTorch, or the Triton kernel.

`set_kernels` is the one switch (trainer.kernels); tests and a bisection use it too. Nothing outside this
package asks for the kind of a device.

A part of a detector that has a kernel names it and says what the kernel cannot do (FusedPart). It asks
`uses_triton` at each call, which torch.compile traces: another choice compiles another graph.
`describe_versions` says once, for the log, what runs.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from typing import NamedTuple, Protocol, runtime_checkable

import torch

KERNEL_CHOICES = ("auto", "reference", "triton")
_choice = "auto"


class Version(NamedTuple):
    """What runs, and why, for one line of a log."""

    name: str  # "reference" or "triton"
    reason: str


@runtime_checkable
class FusedPart(Protocol):
    """A loss, matcher or postprocess with a kernel."""

    kernel: str  # its name in the log, such as "region"

    def unsupported(self) -> str | None:
        """The first setting of this part that the kernel cannot do, such as "iou_gradient=true"; or None."""


def set_kernels(choice: str) -> str:
    """Sets the switch of this process and returns what it was. ValueError for an unknown choice."""
    global _choice
    if choice not in KERNEL_CHOICES:
        raise ValueError(f"kernels={choice!r}: choose {', '.join(KERNEL_CHOICES)}")
    before = _choice
    _choice = choice
    return before


def version(device: torch.device, unsupported: str | None = None) -> Version:
    """What runs on `device`. unsupported: why the kernel cannot do this call, such as "iou_gradient=true".

    The kernel is never needed: what it cannot do, the reference does. ValueError if the switch asks for
    Triton where no kernel can run: a CPU without Triton's interpreter, or Triton is not installed.
    """
    if _choice == "reference":
        return Version("reference", "kernels=reference")
    runs, reason = _triton_runs(device)
    if _choice == "triton" and not runs:
        raise ValueError(
            f"kernels=triton: {reason}; choose kernels=auto or kernels=reference "
            "(only tests run kernels on a CPU, with TRITON_INTERPRET=1)"
        )
    if not runs:
        return Version("reference", reason)
    if unsupported:
        return Version("reference", f"the kernel does not do {unsupported}")
    if _choice == "auto" and device.type != "cuda":
        return Version("reference", f"the device is {device.type}")  # the interpreter is for tests only
    return Version("triton", reason)


def uses_triton(device: torch.device, unsupported: str | None = None) -> bool:
    return version(device, unsupported).name == "triton"


def describe_versions(parts: Iterable[object], device: torch.device) -> str:
    """One line for the log: what runs for each part that has a kernel, and why. ValueError as `version`."""
    chosen = {
        part.kernel: version(device, part.unsupported()) for part in parts if isinstance(part, FusedPart)
    }
    lines = [f"{kernel}: {name} ({reason})" for kernel, (name, reason) in chosen.items()]
    return ", ".join(lines) or "none"


@torch.compiler.assume_constant_result  # torch.compile cannot trace it, and it does not change in a process
def _triton_runs(device: torch.device) -> tuple[bool, str]:
    """Whether a Triton kernel can run on `device`, and why or why not."""
    if importlib.util.find_spec("triton") is None:
        return False, "Triton is not installed"
    if device.type == "cuda":
        return True, "the device is cuda"
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
        return True, "Triton's interpreter (TRITON_INTERPRET=1)"
    return False, f"the device is {device.type}"
