"""How exactly a run computes: autocast of the network, float16's loss scale, TF32, determinism."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from detectors.config.schema import TrainerConfig
from detectors.training.host_copy import on_host

AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}  # trainer.precision -> dtype
SMALLEST_SCALE = 2**-10  # GradScaler starts at 2^16; the demo models settle at 2^11 and 2^12


def network_precision(precision: str, device: torch.device) -> torch.autocast:
    """The context in which a network runs with trainer.precision; its outputs are float32 in any case."""
    return torch.autocast(device.type, dtype=AUTOCAST.get(precision), enabled=precision in AUTOCAST)


@contextmanager
def backend_switches(trainer: TrainerConfig) -> Iterator[None]:
    """trainer.tf32 and trainer.deterministic within the block.

    PyTorch's switches belong to the process, so they are set back: the next run has settings of its own. The
    older names of TF32's switches are used on purpose. PyTorch 2.11 accepts both without a warning, but
    torch.compile reads the older ones, which raises if they were set by the newer.
    """
    matmul = torch.backends.cuda.matmul
    cudnn = torch.backends.cudnn
    before = (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, torch.get_deterministic_debug_mode())
    try:
        matmul.allow_tf32 = cudnn.allow_tf32 = trainer.tf32
        if trainer.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
            cudnn.benchmark = False  # it would choose algorithms by their time
            torch.use_deterministic_algorithms(True)
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, mode = before
        torch.set_deterministic_debug_mode(mode)


class LossScaler:
    """torch.amp.GradScaler for the one optimiser of a run, and a count of the steps that it leaves out.

    The loss is multiplied by a large scale, because many gradients are below float16's smallest number. If
    one overflows instead, weights and optimiser stay as they are, and the scale is halved; after 2,000 steps
    without an overflow it is doubled. Nothing waits for the device, given an optimiser with fused steps.
    With any other precision than float16 the scale is 1 and every step is taken.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, precision: str, device: torch.device):
        self._optimizer = optimizer
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
        self._steps = 0
        self._taken = torch.zeros((), dtype=torch.float64, device=device)
        if self._scaler.is_enabled():
            optimizer.register_step_pre_hook(self._count)

    def _count(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """GradScaler gives a fused optimiser `found_inf`, 1 for an overflow; others it does not even call."""
        self._taken += 1 - getattr(optimizer, "found_inf", 0)

    def scale(self, loss: Tensor) -> Tensor:
        return self._scaler.scale(loss)

    def unscale(self) -> None:
        """Divides the gradients by the scale, once after the last backward pass of a step."""
        self._scaler.unscale_(self._optimizer)

    def step(self) -> None:
        """An optimiser step, unless gradients overflowed; then the scale of the next one."""
        self._steps += 1
        self._scaler.step(self._optimizer)
        self._scaler.update()

    def tensors(self) -> dict[str, Tensor]:
        """What `numbers` needs, still on the device; none without float16."""
        if not self._scaler.is_enabled():
            return {}
        scale = self._scaler._get_scale_async()
        if scale is None:  # before the first step
            scale = torch.full_like(self._taken, self._scaler.get_scale())
        return {"scale": scale, "taken": self._taken}

    def numbers(self, tensors: Mapping[str, Tensor]) -> dict[str, float]:
        """For the log: scale, and steps left out since the start of the run; none without float16.

        tensors: those of `tensors`, on the host. FloatingPointError if the gradients overflow whatever the
        scale.
        """
        if not self._scaler.is_enabled():
            return {}
        scale = float(tensors["scale"])
        if scale < SMALLEST_SCALE:
            raise FloatingPointError(
                f"the loss scale has fallen to {scale:g}, because gradients are not finite at any scale. Try "
                "trainer.precision=bfloat16 or a lower optimizer.rate; the last checkpoint is from before"
            )
        return {"loss_scale": scale, "overflows": self._steps - int(tensors["taken"])}

    def state(self) -> dict[str, float]:
        """For a checkpoint: `scale`, `growth_tracker` (steps since the last overflow), `overflows`."""
        if not self._scaler.is_enabled():
            return {}
        numbers = self.numbers(on_host(self.tensors()))
        return {
            "scale": numbers["loss_scale"],
            "growth_tracker": self._scaler.state_dict()["_growth_tracker"],
            "overflows": numbers["overflows"],
        }

    def restore(self, state: dict[str, float]) -> None:
        """Takes up what state() returned; {} of another precision's run starts anew."""
        if not state or not self._scaler.is_enabled():
            return
        stored = {"scale": state["scale"], "_growth_tracker": state["growth_tracker"]}
        self._scaler.load_state_dict(self._scaler.state_dict() | stored)
        self._steps = state["overflows"]
        self._taken.zero_()


def suited(optimizer: torch.optim.Optimizer, precision: str, device: torch.device) -> torch.optim.Optimizer:
    """A new optimiser; the same one with fused=True where that pays and PyTorch has the kernels.

    On a GPU, a fused step is a few launches instead of some for each operation. With float16 it can also be
    left out on the device; GradScaler waits for the device at each step of any other optimiser. On a CPU, the
    other precisions keep PyTorch's loop over the parameters, so that runs keep their last digits. Without
    fused kernels, as for RMSprop, or where the user has chosen, the optimiser is returned as it is.
    """
    kind = type(optimizer)
    names = signature(kind).parameters
    if not _has_fused_steps(kind, device) or (precision != "float16" and not _fused_pays(optimizer, device)):
        return optimizer
    settings = {name: value for name, value in optimizer.defaults.items() if name in names}
    groups = [group | {"fused": True, "foreach": None} for group in optimizer.param_groups]
    fused = kind(groups, **settings | {"fused": True, "foreach": None})
    if precision == "float16" and isinstance(fused, torch.optim.SGD):
        # In torch 2.11 a first step that is left out leaves momentum without values (_fused_sgd: empty_like).
        for group in filter(lambda group: group["momentum"], fused.param_groups):
            for parameter in group["params"]:
                fused.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return fused


def _has_fused_steps(kind: type[torch.optim.Optimizer], device: torch.device) -> bool:
    """Adagrad has them on CPUs alone."""
    return "fused" in signature(kind).parameters and (device.type == "cpu" or kind is not torch.optim.Adagrad)


def _fused_pays(optimizer: torch.optim.Optimizer, device: torch.device) -> bool:
    """On any device but a CPU, unless optimizer.options has `fused` or `foreach`."""
    chosen = any(optimizer.defaults.get(name) is not None for name in ("fused", "foreach"))
    return device.type != "cpu" and not chosen
