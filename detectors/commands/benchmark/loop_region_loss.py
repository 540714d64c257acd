"""YOLOv2's loss as ports of Darknet usually write it: a Python loop over images and boxes fills tables of
targets, and each box is compared with all predictions of its image. Nothing trains with it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou

from detectors.structures import AnchorGrid, Targets

IGNORE_IOU = 0.6
OBJECT_SCALE = 5.0
UNUSED = -100  # F.cross_entropy's ignore_index


class LoopRegionLoss:
    """RegionLoss with its default settings, after the prior term has ended."""

    def __init__(self, grid: AnchorGrid):
        (self.level,) = grid.levels
        self.anchors = grid.boxes_cxcywh[: self.level.per_location, 2:] / self.level.stride  # (K, 2) cells
        self.cell = grid.cell  # (A, 2)

    def encode(self, raw: Tensor, targets: Targets) -> dict[str, Tensor]:
        """raw: (B, rows, columns, K, 5 + C), before any sigmoid -> tables of the same layout."""
        batch, rows, columns, kinds, _ = raw.shape
        tables = {
            "box": torch.zeros(*raw.shape[:4], 4, device=raw.device),
            "box weight": torch.zeros(raw.shape[:4], device=raw.device),
            "objectness": torch.zeros(raw.shape[:4], device=raw.device),
            "objectness weight": torch.ones(raw.shape[:4], device=raw.device),
            "label": torch.full(raw.shape[:4], UNUSED, device=raw.device),
        }
        predicted = self._decode(raw.detach())
        for image in range(batch):
            valid = targets.valid[image]
            boxes = targets.boxes[image][valid] / self.level.stride
            labels = targets.labels[image][valid].tolist()
            if not labels:
                continue
            best = torch.zeros(rows, columns, kinds, device=raw.device)
            for box, label in zip(boxes, labels, strict=True):
                iou = box_iou(box[None], predicted[image]).view_as(best)
                best = torch.maximum(best, iou)
                self._write(tables, image, box.tolist(), label, iou)
            weight = tables["objectness weight"][image]
            weight[(best > IGNORE_IOU) & (tables["label"][image] == UNUSED)] = 0
        return tables

    def _decode(self, raw: Tensor) -> Tensor:
        """-> (B, A, 4) xyxy in cells"""
        raw = raw.flatten(1, 3)
        centre = raw[..., :2].sigmoid() + self.cell
        half = raw[..., 2:4].exp() * self.anchors.repeat(len(self.cell) // len(self.anchors), 1) / 2
        return torch.cat([centre - half, centre + half], -1)

    def _write(
        self, tables: dict[str, Tensor], image: int, box: list[float], label: int, iou: Tensor
    ) -> None:
        """The targets of one box, in cells. iou: (rows, columns, K) with the predictions."""
        rows, columns = iou.shape[:2]
        width = box[2] - box[0]
        height = box[3] - box[1]
        x = (box[0] + box[2]) / 2
        y = (box[1] + box[3]) / 2
        column = min(int(x), columns - 1)
        row = min(int(y), rows - 1)
        best, best_iou = 0, 0.0
        for kind, (w, h) in enumerate(self.anchors.tolist()):
            inter = min(w, width) * min(h, height)
            shape_iou = inter / (w * h + width * height - inter)
            if shape_iou > best_iou:
                best, best_iou = kind, shape_iou
        w, h = self.anchors[best].tolist()
        place = (image, row, column, best)
        goal = [x - column, y - row, math.log(width / w), math.log(height / h)]
        tables["box"][place] = torch.tensor(goal, device=iou.device)
        tables["box weight"][place] = 2 - width * height / (rows * columns)
        tables["objectness"][place] = iou[row, column, best]
        tables["objectness weight"][place] = OBJECT_SCALE
        tables["label"][place] = label

    def __call__(self, raw: Tensor, tables: dict[str, Tensor]) -> Tensor:
        offsets = torch.cat([raw[..., :2].sigmoid(), raw[..., 2:4]], -1)
        box = ((offsets - tables["box"]) ** 2).sum(-1) * tables["box weight"]
        objectness = (raw[..., 4].sigmoid() - tables["objectness"]) ** 2 * tables["objectness weight"]
        logits = raw[..., 5:].flatten(0, 3)
        error = F.cross_entropy(logits, tables["label"].flatten(), ignore_index=UNUSED, reduction="sum")
        return (box.sum() / 2 + objectness.sum() / 2 + error) / len(raw)
