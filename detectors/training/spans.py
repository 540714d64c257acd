"""The parts of a training step, marked where they are computed: `with span("backward")`.

A mark does nothing unless a profile records it (profiling.py): 0.5 microseconds, no kernel, no graph break.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import perf_counter

import torch

Recorder = Callable[[str], AbstractContextManager]

_recorder: Recorder | None = None


def span(part: str) -> AbstractContextManager:
    """The context in which a part of a step is computed."""
    if torch.compiler.is_compiling() or _recorder is None:  # in this order, or a graph depends on it
        return nullcontext()
    return _recorder(part)


def record_spans(recorder: Recorder | None) -> None:
    """From now on `recorder` gives the context of each span; None: nothing does."""
    global _recorder
    _recorder = recorder


class SpanTimer:
    """A recorder of seconds. A span within another counts for itself alone, so that parts add up.

    Waits for the device at each border: kernels then count where they were started.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: Counter[str] = Counter()
        self.times: Counter[str] = Counter()  # how often
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        self._close()
        self._open.append(part)
        try:
            yield
        finally:
            self._close()
            self._open.pop()
            self.times[part] += 1

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return perf_counter()

    def _close(self) -> None:
        """Gives the time since the last border to the innermost open part."""
        now = self.now()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now
