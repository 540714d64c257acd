"""Which version of a fused operation runs: the reference in PyTorch, or the Triton kernel.

`set_kernels` is the one switch (trainer.kernels); tests and a bisection use it too. Nothing outside this
package asks for the kind of a device.
"""

from __future__ import annotations

import importlib.util
import os
from typing import NamedTuple

import torch

KERNEL_CHOICES = ("auto", "reference", "triton")
_choice = "auto"


class Version(NamedTuple):
    """What runs, and why, for one line of a log."""

    name: str  # "reference" or "triton"
    reason: str


def set_kernels(choice: str) -> None:
    """Sets the switch of this process. ValueError for a choice that there is not."""
    global _choice
    if choice not in KERNEL_CHOICES:
        raise ValueError(f"kernels={choice!r}: choose {', '.join(KERNEL_CHOICES)}")
    _choice = choice


def version(device: torch.device, unsupported: str | None = None) -> Version:
    """What runs on `device`. unsupported: why the kernel cannot do this call, such as "iou_gradient=true".

    The kernel is never needed: what it cannot do, the reference does. ValueError if the switch asks for
    Triton where no kernel can run: a CPU without Triton's interpreter, or Triton is not installed.
    """
    if _choice == "reference":
        return Version("reference", "kernels=reference")
    runs, reason = _triton_runs(device)
    if _choice == "triton" and not runs:
        raise ValueError(f"kernels=triton: {reason}; choose kernels=auto or kernels=reference")
    if not runs:
        return Version("reference", reason)
    if unsupported:
        return Version("reference", f"the kernel does not do {unsupported}")
    if _choice == "auto" and device.type != "cuda":
        return Version("reference", f"the device is {device.type}")  # the interpreter is for tests only
    return Version("triton", reason)


def uses_triton(device: torch.device, unsupported: str | None = None) -> bool:
    return version(device, unsupported).name == "triton"


def _triton_runs(device: torch.device) -> tuple[bool, str]:
    """Whether a Triton kernel can run on `device`, and why or why not."""
    if importlib.util.find_spec("triton") is None:
        return False, "Triton is not installed"
    if device.type == "cuda":
        return True, "the device is cuda"
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
        return True, "Triton's interpreter (TRITON_INTERPRET=1)"
    return False, f"the device is {device.type}"
