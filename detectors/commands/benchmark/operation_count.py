"""How many operations a piece of work starts, and how many of them make the host wait for a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Operations whose result, or its size, the host must know. torchvision's nms brings its mask to the host.
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "bincount", "nms"}
WAITING |= {"unique", "unique_consecutive", "_unique2", "unique_dim", "unique_dim_consecutive", "item"}


def waits(function: Any, args: tuple) -> bool:
    """Whether the host would wait for a GPU in this call of an operation, as a dispatch mode sees it."""
    name = function.overloadpacket.__name__
    by_bools = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
    return name in WAITING or by_bools


class OperationCount(TorchDispatchMode):
    """Counts within its context, also on a CPU what would wait for a GPU. Views count as operations."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self.synchronisations = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.operations += 1
        self.synchronisations += waits(function, args)
        return function(*args, **(kwargs or {}))


def operation_facts(work: Callable[[], object]) -> dict[str, int]:
    """The numbers of operations and waits of one call of `work`."""
    with OperationCount() as count:
        work()
    return {"operations": count.operations, "waits": count.synchronisations}
