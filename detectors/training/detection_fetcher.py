"""Detections to the host while the device already computes the next batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from detectors.models.detector import Detector
from detectors.structures import Detections, HeadOutputs, ImageInfo
from detectors.training.host_copy import on_host


class DetectionFetcher:
    """Post-processes batches and collects their detections on the host, by one transfer for each batch.

    Post-processing waits for the device a few times. Right behind the network, the device would be idle until
    the host has queued the next batch. So a batch is post-processed when the network of the next one has been
    queued, on a stream of its own. On a CPU it happens at once.
    """

    def __init__(self, detector: Detector, device: torch.device, *, clip: bool = True):
        """clip: boxes are clipped to their images."""
        self.detector = detector
        self.clip = clip
        self.device = device
        self.stream = None if device.type == "cpu" else torch.Stream(device)
        self._waiting: tuple | None = None  # a batch, and when its outputs are there
        self._parts: list[Detections] = []

    def add(self, outputs: HeadOutputs, infos: list[ImageInfo], size: Sequence[int]) -> None:
        """A batch whose outputs have been queued; the host waits for the batch before at most."""
        if self.stream is None:
            self._fetch(outputs, infos, size)
            return
        computed = torch.accelerator.current_stream(self.device).record_event()
        self._fetch_waiting()
        self._waiting = (computed, outputs, infos, size)

    def finish(self) -> Detections:
        """All detections, in the original frame; `image` is the row of the images' Annotations."""
        self._fetch_waiting()
        return Detections.concatenate(self._parts)

    def _fetch_waiting(self) -> None:
        if self._waiting is None:
            return
        computed, *batch = self._waiting
        self._waiting = None
        with self.stream:
            self.stream.wait_event(computed)
            self._fetch(*batch)  # has waited for the stream at its end: outputs may be freed

    def _fetch(self, outputs: HeadOutputs, infos: list[ImageInfo], size: Sequence[int]) -> None:
        detections = self.detector.detections(outputs, infos, size, clip=self.clip)
        fetched = Detections(**on_host(vars(detections)))
        rows = torch.tensor([info.index for info in infos])
        self._parts.append(replace(fetched, image=rows[fetched.image]))
