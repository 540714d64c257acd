"""What a piece of work does on a GPU: its kernels, whether it waits for the device, and a trace of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

ACTIVITIES = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
CALLS_BEFORE = 3  # calls before: caches, compiled kernels, cuDNN's choice of algorithms


def kernel_facts(work: Callable[[], object]) -> dict[str, float]:
    """Of one call: "kernels", copies and fills included, and "us" that the GPU computes."""
    _settle(work)
    with profile(activities=ACTIVITIES, acc_events=True) as profiler:
        work()
        torch.cuda.synchronize()
    events = [
        event
        for event in profiler.events()
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]
    return {"kernels": len(events), "us": sum(event.self_device_time_total for event in events)}


def waits_for_device(phases: Mapping[str, Callable[[], object]]) -> str:
    """The first phase that makes the host wait for the GPU; "" if none does."""
    _settle(lambda: [work() for work in phases.values()])
    torch.cuda.set_sync_debug_mode("error")
    try:
        for phase, work in phases.items():
            try:
                work()
            except RuntimeError as error:
                if "synchroniz" not in str(error):
                    raise
                return phase
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return ""


def save_trace(phases: Mapping[str, Callable[[], object]], file: Path) -> None:
    """A trace of one call of all phases, for chrome://tracing or Perfetto."""
    with profile(activities=ACTIVITIES) as profiler:
        for phase, work in phases.items():
            with torch.profiler.record_function(phase):
                work()
        torch.cuda.synchronize()
    file.parent.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(file))


def _settle(work: Callable[[], object]) -> None:
    for _ in range(CALLS_BEFORE):
        work()
    torch.cuda.synchronize()
