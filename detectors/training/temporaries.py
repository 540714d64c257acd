"""The most memory that a piece of work has at once, and PyTorch's profiler without its complaints."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import accumulate

import torch
from torch.profiler import ProfilerActivity, profile


def quiet_profiler() -> None:
    """Without a GPU, PyTorch's profiler writes an error about it to stderr when it starts for the first time.

    It reads this variable then, and Python's warnings are not involved.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """Bytes that tensors have at once during `work`, beyond those from before: temporaries and results."""
    work()  # caches of the first call are not its temporaries
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    quiet_profiler()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        work()
    # PyTorch has no public list of single allocations.
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(accumulate((event.nbytes() for event in events), initial=0))
