"""Batches on their way to the device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from detectors.structures import Batch
from detectors.training import device_copies
from detectors.training.batch_size import made_up_batch
from detectors.training.device_copies import DeviceCopies


def tensors_of(batch: Batch) -> list[torch.Tensor]:
    """Images and targets; image_labels are None without a tree of classes."""
    return [batch.images, *(t for t in vars(batch.targets).values() if t is not None)]


def labelled_batch() -> Batch:
    """Made-up images with boxes and a label each: every kind of tensor that a batch can hold."""
    batch = made_up_batch(2, 3, (32, 32))
    return replace(batch, targets=replace(batch.targets, image_labels=torch.tensor([-1, 4])))


def test_on_a_cpu_a_batch_stays_where_it_is():
    batch = made_up_batch(2, 3, (32, 32))
    copied = DeviceCopies(torch.device("cpu"))(batch)
    for ours, theirs in zip(tensors_of(copied), tensors_of(batch), strict=True):
        assert ours is theirs


@pytest.mark.parametrize(("batch", "tensors"), [(made_up_batch(2, 3, (32, 32)), 4), (labelled_batch(), 5)])
def test_the_computation_waits_for_the_copy_and_keeps_its_memory(batch, tensors, monkeypatch):
    """What must happen, in order, by streams that only note it: no GPU is needed."""
    noted: list[Any] = []

    class Stream:
        def __init__(self, device):
            self.device = device

        def __enter__(self):
            noted.append("copies begin")

        def __exit__(self, *error):
            noted.append("copies end")

        def wait_stream(self, other):
            noted.append(("wait", self, other))

    monkeypatch.setattr(torch, "Stream", Stream)
    computation = Stream(None)
    monkeypatch.setattr(device_copies.torch.accelerator, "current_stream", lambda device: computation)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: noted.append((tensor, stream)))
    to = Batch.to

    def noted_to(batch: Batch, device: torch.device, non_blocking: bool = False) -> Batch:
        noted.append(("to", device, non_blocking))
        return to(batch, "cpu")

    monkeypatch.setattr(Batch, "to", noted_to)
    device = torch.device("cuda", 1)
    copies = DeviceCopies(device)
    copied = copies(batch)
    assert noted[:4] == [
        "copies begin",
        ("to", device, True),
        "copies end",
        ("wait", computation, copies.stream),
    ]
    recorded = noted[4:]
    assert [stream for _, stream in recorded] == [computation] * tensors
    assert {id(tensor) for tensor, _ in recorded} == {id(tensor) for tensor in tensors_of(copied)}


@pytest.mark.gpu
def test_a_copy_is_the_batch_and_the_host_does_not_wait():
    """Many batches, one after another, so that memory is used again."""
    device = torch.device("cuda")
    copies = DeviceCopies(device)
    batches = [made_up_batch(4, 3, (320, 320)) for _ in range(20)]
    for number, batch in enumerate(batches):
        batch.images.fill_(number)
    pinned = [batch.pin_memory() for batch in batches]
    slow = torch.rand(2000, 2000, device=device)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        sums = []
        for batch in pinned:
            copied = copies(batch)
            slow = slow @ slow / 1000
            sums.append(copied.images.sum())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_close(torch.stack(sums).cpu(), torch.stack([batch.images.sum() for batch in batches]))
