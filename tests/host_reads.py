"""Notices on a CPU what would make the host wait for a GPU. Nothing is packed meanwhile, as on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from detectors.commands.benchmark.operation_count import waits
from detectors.kernels import packing

METHODS = ("cpu", "numpy", "tolist", "__array__")  # on a CPU they copy nothing, so no operation is seen


class NoHostReads(TorchDispatchMode):
    """Raises HostReadError where the host would wait: item(), bool(), cpu(), tolist(), an index of bools."""

    def __init__(self):
        super().__init__()
        self.pauses = 0
        self.operations = 0  # that were watched
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> NoHostReads:
        for name in METHODS:
            self._patch.setattr(torch.Tensor, name, self._refusing(name, getattr(torch.Tensor, name)))
        self._patch.setattr(packing, "PACKED", frozenset())
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        self._patch.undo()
        super().__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if not self.pauses:
            self.operations += 1
            if waits(function, args):
                raise HostReadError(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))

    def _refusing(self, name: str, method: Callable) -> Callable:
        @wraps(method)
        def refused(*args: Any, **kwargs: Any) -> Any:
            if not self.pauses:
                raise HostReadError(name)
            return method(*args, **kwargs)

        return refused

    def allowed_in(self, function: Callable) -> Callable:
        """The function, within which the host may wait."""

        @wraps(function)
        def unwatched(*args: Any, **kwargs: Any) -> Any:
            self.pauses += 1
            try:
                return function(*args, **kwargs)
            finally:
                self.pauses -= 1

        return unwatched


class HostReadError(Exception):
    """The host would have waited for the device."""
