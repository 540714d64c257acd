"""Box coders: boxes in pixels <-> the offsets that a head predicts, relative to the anchors.

Law of both: decode(encode(boxes)) == boxes for boxes with area (tests/test_laws.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detectors.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from detectors.structures import AnchorGrid


class YoloBoxCoder:
    """YOLOv2, section 2 ("Direct location prediction"): b_x = sigmoid(t_x) + c_x, b_w = p_w exp(t_w), in cells.

    Offsets are (sigmoid(t_x), sigmoid(t_y), t_w, t_h): the head has applied the sigmoid, so that a box on a cell's edge stays finite.
    """

    def encode(self, boxes: Tensor, grid: AnchorGrid) -> Tensor:
        """(..., A, 4) xyxy pixels -> (..., A, 4): the centre's place in the anchor's cell and log(size / anchor)."""
        boxes_cxcywh = xyxy_to_cxcywh(boxes)
        place = boxes_cxcywh[..., :2] / grid.stride[:, None] - grid.cell
        return torch.cat([place, torch.log(boxes_cxcywh[..., 2:] / grid.boxes_cxcywh[:, 2:])], -1)

    def decode(self, offsets: Tensor, grid: AnchorGrid) -> Tensor:
        """(..., A, 4) offsets -> (..., A, 4) xyxy pixels, not clipped."""
        centre = (offsets[..., :2] + grid.cell) * grid.stride[:, None]
        return cxcywh_to_xyxy(torch.cat([centre, offsets[..., 2:].exp() * grid.boxes_cxcywh[:, 2:]], -1))


class SSDBoxCoder:
    """SSD, equation 2, divided by Caffe's variances: ((cx - d_cx) / d_w / v_x, ..., log(w / d_w) / v_w, ...)."""

    def __init__(self, variances: Sequence[float] = (0.1, 0.1, 0.2, 0.2)):
        if len(variances) != 4 or min(variances) <= 0:
            raise ValueError(f"variances={list(variances)}: four numbers above 0 are needed, for x, y, width and height")
        self.variances = tuple(float(v) for v in variances)

    def encode(self, boxes: Tensor, grid: AnchorGrid) -> Tensor:
        """(..., A, 4) xyxy pixels -> (..., A, 4) offsets."""
        boxes_cxcywh, anchors = xyxy_to_cxcywh(boxes), grid.boxes_cxcywh
        vx, vy, vw, vh = self.variances
        x = (boxes_cxcywh[..., 0] - anchors[:, 0]) / anchors[:, 2] / vx
        y = (boxes_cxcywh[..., 1] - anchors[:, 1]) / anchors[:, 3] / vy
        w = torch.log(boxes_cxcywh[..., 2] / anchors[:, 2]) / vw
        h = torch.log(boxes_cxcywh[..., 3] / anchors[:, 3]) / vh
        return torch.stack([x, y, w, h], -1)

    def decode(self, offsets: Tensor, grid: AnchorGrid) -> Tensor:
        """(..., A, 4) offsets -> (..., A, 4) xyxy pixels, not clipped."""
        anchors = grid.boxes_cxcywh
        vx, vy, vw, vh = self.variances
        x = offsets[..., 0] * vx * anchors[:, 2] + anchors[:, 0]
        y = offsets[..., 1] * vy * anchors[:, 3] + anchors[:, 1]
        w = torch.exp(offsets[..., 2] * vw) * anchors[:, 2]
        h = torch.exp(offsets[..., 3] * vh) * anchors[:, 3]
        return cxcywh_to_xyxy(torch.stack([x, y, w, h], -1))
