"""Box coders: boxes in pixels <-> the offsets that a head predicts, relative to the anchors.

Law of both: decode(encode(boxes)) == boxes for boxes with area (tests/test_laws.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detectors.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from detectors.structures import AnchorGrid


class YoloBoxCoder:
    """YOLOv2, section 2, "Direct location prediction".

    In cells: b_x = sigmoid(t_x) + c_x, b_w = p_w exp(t_w); likewise y and h. Offsets are (sigmoid(t_x),
    sigmoid(t_y), t_w, t_h): the head applies the sigmoid, so that the offsets of a box on a cell's edge are
    finite.
    """

    def encode(self, boxes: Tensor, grid: AnchorGrid) -> Tensor:
        """(..., A, 4) xyxy pixels -> (..., A, 4) offsets: centre in the anchor's cell, log(size / anchor)."""
        boxes_cxcywh = xyxy_to_cxcywh(boxes)
        centre = boxes_cxcywh[..., :2] / grid.stride[..., None] - grid.cell
        return torch.cat([centre, torch.log(boxes_cxcywh[..., 2:] / grid.boxes_cxcywh[..., 2:])], -1)

    def decode(self, offsets: Tensor, grid: AnchorGrid) -> Tensor:
        """(..., A, 4) offsets -> (..., A, 4) xyxy pixels, not clipped."""
        # In memory four planes (..., A), as the head writes them: an inner axis of 2 or 4 is slow on a CPU.
        offsets = offsets.movedim(-1, 0).contiguous().movedim(0, -1)
        centre = (offsets[..., :2] + grid.cell) * grid.stride[..., None]
        half = offsets[..., 2:].exp() * grid.boxes_cxcywh[..., 2:] / 2
        return torch.cat([x.movedim(-1, 0) for x in (centre - half, centre + half)]).movedim(0, -1)


class SSDBoxCoder(nn.Module):
    """SSD, equation 2, divided by Caffe's variances: ((cx - d_cx) / d_w / v_x, ..., log(w / d_w) / v_w, ...).

    A module only so that the variances live on its device.
    """

    variances: Tensor  # (4,) for x, y, width and height

    def __init__(self, variances: Sequence[float] = (0.1, 0.1, 0.2, 0.2)):
        super().__init__()
        if len(variances) != 4 or min(variances) <= 0:
            raise ValueError(
                f"variances={list(variances)}: four numbers above 0 are needed, for x, y, width and height"
            )
        self.register_buffer("variances", torch.tensor(variances), persistent=False)

    def encode(self, boxes: Tensor, grid: AnchorGrid) -> Tensor:
        """(..., A, 4) xyxy pixels -> (..., A, 4) offsets."""
        boxes_cxcywh = xyxy_to_cxcywh(boxes)
        centre, wh = grid.boxes_cxcywh.split(2, -1)  # (A, 2) each
        shift = (boxes_cxcywh[..., :2] - centre) / wh
        return torch.cat([shift, torch.log(boxes_cxcywh[..., 2:] / wh)], -1) / self.variances

    def decode(self, offsets: Tensor, grid: AnchorGrid) -> Tensor:
        """(..., A, 4) offsets -> (..., A, 4) xyxy pixels, not clipped."""
        centre, wh = grid.boxes_cxcywh.split(2, -1)
        shift, log_scale = (offsets * self.variances).split(2, -1)
        return cxcywh_to_xyxy(torch.cat([shift * wh + centre, log_scale.exp() * wh], -1))
