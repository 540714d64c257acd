"""A run as the page shows it: the network's outputs of an image once, detections again for every slider."""

from __future__ import annotations

import copy
import threading
import time
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from detectors.commands.predict.checkpoint_model import CheckpointModel
from detectors.drawing.drawn_boxes import class_colours
from detectors.models.detector import Detector
from detectors.postprocess import to_original
from detectors.structures import AnchorGrid, Detections, HeadOutputs, ImageInfo

SHOWN_BOXES = 300  # of an image


class Look(NamedTuple):
    """What a run's network gives for an image."""

    outputs: HeadOutputs  # of a batch of one image
    info: ImageInfo
    milliseconds: float  # framing and network


class Suppression(NamedTuple):
    """What the page's sliders say."""

    score: float  # above which boxes count
    iou: float
    rule: str  # of schema.SUPPRESSIONS


class ShownRun:
    def __init__(self, name: str, settings_name: str, model: CheckpointModel):
        """name: of the run, different from all others'. settings_name: `name` in its settings."""
        self.name = name
        self.settings_name = settings_name
        self.model = model
        self.detector: Detector = model.module
        self.lock = threading.Lock()  # one image at a time: requests come in threads of their own

    def about(self) -> dict[str, Any]:
        """For the page: names, colours as #rrggbb, and the settings that the run has itself."""
        height, width = self.model.size
        post = self.detector.postprocess
        colours = class_colours(len(self.model.class_names)).tolist()
        return {
            "name": self.name,
            "network": f"{self.settings_name}, input {width} x {height} px, {self.model.resize}, "
            f"{self.detector.parameter_count:,} parameters",
            "classes": list(self.model.class_names),
            "colours": [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in colours],
            "nms_iou": post.nms_iou,
            "nms": post.nms,
        }

    @property
    def grid(self) -> AnchorGrid:
        return self.detector.grid(self.model.size)

    @torch.no_grad()
    def look(self, image: np.ndarray) -> Look:
        """image: (h, w, 3) uint8 RGB. ValueError: it does not fit into the input."""
        started = time.perf_counter()
        with self.lock:
            tensor, info = self.model.prepare(image)
            outputs = self.model.outputs(tensor[None].to(self.model.device))
            outputs = HeadOutputs(outputs.offsets.cpu(), outputs.class_logits.cpu(), _cpu(outputs.objectness))
        return Look(outputs, info, 1000 * (time.perf_counter() - started))

    @torch.no_grad()
    def detections(self, look: Look, suppression: Suppression) -> dict[str, Any]:
        """The project's own post-processing with other settings, and the anchor behind each box.

        Boxes and anchors are xyxy pixels of the original image, the boxes clipped to it.
        """
        started = time.perf_counter()
        grid = self.grid.to("cpu")
        post = copy.copy(self.detector.postprocess)  # other requests have settings of their own
        post.score_threshold, post.nms_iou, post.nms = suppression
        post.max_detections = min(post.max_detections or SHOWN_BOXES, SHOWN_BOXES)
        found = post(look.outputs, grid)
        anchor = anchors_behind(found, post.coder.decode(look.outputs.offsets, grid)[0])
        boxes = to_original(found, [look.info]).boxes
        behind = Detections(found.image, grid.boxes[anchor], found.scores, found.labels)
        columns = (
            boxes.tolist(),
            found.scores.tolist(),
            found.labels.tolist(),
            to_original(behind, [look.info], clip=False).boxes.tolist(),
            level_of_anchors(grid)[anchor].tolist(),
            grid.cell[anchor].int().tolist(),
        )
        keys = ("box", "score", "label", "anchor", "level", "cell")
        return {
            "detections": [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)],
            "network_ms": look.milliseconds,
            "suppression_ms": 1000 * (time.perf_counter() - started),
        }

    @torch.no_grad()
    def heat(self, look: Look) -> list[dict[str, Any]]:
        """How sure the network is that there is an object, for each level: the best anchor of each cell.

        frame: what the cells of a level cover, xyxy pixels of the original image.
        """
        grid = self.grid.to("cpu")
        best = objectness(look.outputs, len(self.model.class_names))
        levels, start = [], 0
        for level in grid.levels:
            cells = best[start : start + level.num_anchors].view(-1, level.per_location).amax(1)
            start += level.num_anchors
            frame = torch.tensor([[0, 0, level.columns * level.stride, level.rows * level.stride]])
            whole = Detections(torch.zeros(1, dtype=torch.int64), frame, torch.ones(1), torch.zeros(1))
            levels.append(
                {
                    "rows": level.rows,
                    "columns": level.columns,
                    "stride": level.stride,
                    "frame": to_original(whole, [look.info], clip=False).boxes[0].tolist(),
                    "values": [round(value, 3) for value in cells.nan_to_num().tolist()],
                }
            )
        return levels


def _cpu(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.cpu()


def objectness(outputs: HeadOutputs, classes: int) -> Tensor:
    """(A,) of the first image: YOLOv2's objectness; SSD's 1 - background; without both, the best class."""
    if outputs.objectness is not None:
        return outputs.objectness[0].sigmoid()
    logits = outputs.class_logits[0]
    if logits.shape[1] == classes + 1:
        return 1 - logits.softmax(-1)[:, 0]
    return logits.sigmoid().amax(-1)


def anchors_behind(found: Detections, decoded: Tensor) -> Tensor:
    """(T,) the anchor of each detection of one image: the one that is decoded to its box, bit by bit.

    decoded: (A, 4) boxes of all anchors, frame of the model input. Of equal boxes, the first anchor's.
    """
    if not len(found.boxes):
        return torch.zeros(0, dtype=torch.int64)
    return (found.boxes[:, None] == decoded[None]).all(-1).int().argmax(1)


def level_of_anchors(grid: AnchorGrid) -> Tensor:
    """(A,) int64"""
    counts = [level.num_anchors for level in grid.levels]
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
