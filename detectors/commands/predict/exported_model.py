"""A detector in a file that `detectors export` wrote, as predict takes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from detectors.commands.predict.input_framing import InputFraming
from detectors.data.images import read_image
from detectors.models.exported import ExportedDetector, open_exported
from detectors.structures import Detections, ImageInfo


class ExportedModel:
    """See Model. It runs on the CPU, with the one input size that the file has."""

    def __init__(self, path: Path):
        """FileNotFoundError or ValueError for what is no detector with its boxes."""
        network = open_exported(path)
        if not isinstance(network, ExportedDetector):
            raise ValueError(f"{path}: holds a classifier; predict takes the run that it was exported from")
        if not network.with_boxes:
            raise ValueError(f"{path}: it holds raw head outputs; export the run with --with-boxes")
        self.module = network
        self.class_names = network.class_names
        self.device = network.device
        self.size = network.size
        self.nms_iou = network.metadata["nms_iou"]
        self._framing = InputFraming(network.resize)

    def read(self, path: str) -> np.ndarray:
        return read_image(path)

    def check_size(self, size: tuple[int, int]) -> None:
        raise ValueError(
            f"{self.module.path}: augment scales needs other inputs than the file's {self.size[1]} x "
            f"{self.size[0]}; use flip or tiles instead"
        )

    def prepare(self, image: np.ndarray, size: tuple[int, int]) -> tuple[Tensor, ImageInfo]:
        return self._framing(image, size)

    def detect(self, batch: Tensor, infos: list[ImageInfo], score: float) -> Detections:
        return self.module.detections(self.module(batch.contiguous()), infos).above(score)
