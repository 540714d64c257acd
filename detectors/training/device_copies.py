"""Batches to the device while it still computes the step before."""

from __future__ import annotations

from dataclasses import fields

import torch

from detectors.structures import Batch


class DeviceCopies:
    """Copies batches to a device on a stream of its own. On a CPU it returns them as they are.

    Between log lines the host is ahead of the device. A copy on the stream of the computation would wait for
    all that is queued there, and the computation then for the copy; on its own stream it is made at once. The
    loader has pinned the batch's memory, or the host would wait for the copy.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = None if device.type == "cpu" else torch.Stream(device)

    def __call__(self, batch: Batch) -> Batch:
        """The batch on the device, which computes with it when the copy is made. The host does not wait."""
        if self.stream is None:
            return batch.to(self.device)
        with self.stream:
            copied = batch.to(self.device, non_blocking=True)
        computation = torch.accelerator.current_stream(self.device)
        computation.wait_stream(self.stream)
        targets = (getattr(copied.targets, field.name) for field in fields(copied.targets))
        for tensor in (copied.images, *targets):
            if tensor is not None:  # image_labels
                tensor.record_stream(computation)  # or its memory would be given away before it has been read
        return copied
