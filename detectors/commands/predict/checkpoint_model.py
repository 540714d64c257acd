"""A checkpoint's network, and the way images go into it and boxes come out of it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from detectors.commands.predict.input_framing import InputFraming
from detectors.data.images import read_image
from detectors.models.exported import ExportedDetector
from detectors.structures import Detections, HeadOutputs, ImageInfo
from detectors.training import assemble
from detectors.training import checkpoint as ckpt
from detectors.training.precision import backend_switches, network_precision


class Model(Protocol):
    """A network and the way images go into it and boxes come out of it."""

    module: nn.Module | ExportedDetector
    class_names: tuple[str, ...]
    device: torch.device

    size: tuple[int, int]  # (height, width) of the network's input
    nms_iou: float  # of its own suppression

    def read(self, path: str) -> np.ndarray: ...  # (h, w, 3) uint8 RGB; ImageError

    def check_size(self, size: tuple[int, int]) -> None: ...  # ValueError for an input that it cannot take

    def prepare(  # (3, H, W) network input of `size`
        self, image: np.ndarray, size: tuple[int, int]
    ) -> tuple[Tensor, ImageInfo]: ...

    def detect(self, batch: Tensor, infos: list[ImageInfo], score: float) -> Detections: ...  # original frame


class CheckpointModel:
    """A checkpoint's detector, with the input size and the framing (letterbox or stretch) of its training."""

    def __init__(self, checkpoint: ckpt.Checkpoint, device: torch.device):
        self.module, config = assemble.load_detector(checkpoint, device)
        self.averaged = bool(checkpoint.ema)  # whether these are averaged weights, see trainer.ema_decay
        self.class_names = checkpoint.class_names
        self.device = device
        self.trainer = config.trainer
        self.data = config.data
        self.size = tuple(config.input.size)
        self.resize = config.input.resize
        self.max_pixels = config.data.max_pixels
        self._framing = InputFraming(self.resize)

    @property
    def nms_iou(self) -> float:
        return self.module.postprocess.nms_iou

    def read(self, path: str) -> np.ndarray:
        return read_image(path, self.max_pixels)

    def check_size(self, size: tuple[int, int]) -> None:
        try:
            self.module.grid(size)
        except ValueError as error:
            rows, columns = size
            raise ValueError(
                f"augment scales needs an input of {columns} x {rows}, but this network takes only "
                f"{self.size[1]} x {self.size[0]}; use flip or tiles instead"
            ) from error

    def prepare(self, image: np.ndarray, size: tuple[int, int] | None = None) -> tuple[Tensor, ImageInfo]:
        return self._framing(image, size or self.size)

    def outputs(self, batch: Tensor) -> HeadOutputs:
        with backend_switches(self.trainer), network_precision(self.trainer.precision, self.device):
            return self.module(batch)

    def detect(self, batch: Tensor, infos: list[ImageInfo], score: float) -> Detections:
        return self.module.detections(self.outputs(batch), infos, batch.shape[-2:], score=score)
