"""Target encoding, loss and gradient of each program, as parts that can be timed one by one.

All programs get the same head outputs and boxes. The outputs lie in memory as each program's own head writes
them: channels last for ours and for the Python loop, channels first for lightnet. The others compute in
float32 whatever the precision of the outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Protocol

import torch
from torch import Tensor
from torchvision.models.detection import _utils as detection_utils
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

from detectors.anchors import YOLO_ANCHORS
from detectors.boxes import xyxy_to_cxcywh
from detectors.commands.benchmark.loop_region_loss import LoopRegionLoss
from detectors.commands.benchmark.made_up_truths import CLASS_COUNTS
from detectors.losses.multibox_loss import MultiBoxLoss
from detectors.models.detector import Detector
from detectors.models.ssd import ssd300
from detectors.models.yolov2 import region_head_outputs, yolov2
from detectors.structures import AnchorGrid, HeadOutputs, Targets

SIDE_YOLO = 416  # px
SIDE_SSD = 300
NARROW = 0.125  # width of the networks: they only carry encoder, loss and anchors


class LossRun(Protocol):
    value: Tensor  # the loss of the last forward()

    def encode(self) -> None: ...

    def forward(self) -> None: ...

    def backward(self) -> None: ...


def loss_phases(run: LossRun) -> dict[str, Callable[[], None]]:
    return {"encode": run.encode, "loss": run.forward, "backward": run.backward}


class RegionInputs:
    """A region head's raw numbers (B, rows, columns, K * (5 + C)), at random."""

    def __init__(self, batch: int, grid: AnchorGrid, num_classes: int, dtype: torch.dtype = torch.float32):
        (level,) = grid.levels
        self.entries = 5 + num_classes
        generator = torch.Generator().manual_seed(0)
        shape = (batch, level.rows, level.columns, level.per_location * self.entries)
        raw = torch.randn(shape, generator=generator) / 2
        self.raw = raw.to(grid.stride.device, dtype).requires_grad_()
        self.leaves = [self.raw]

    def outputs(self, dtype: torch.dtype) -> HeadOutputs:
        """dtype: the head of a detector gives float32."""
        return region_head_outputs(self.raw.to(dtype).reshape(len(self.raw), -1, self.entries))


class MultiBoxInputs:
    """Offsets (B, A, 4) and class logits (B, A, C + 1) at random, with the background in front."""

    def __init__(self, batch: int, grid: AnchorGrid, num_classes: int, dtype: torch.dtype = torch.float32):
        generator = torch.Generator().manual_seed(0)
        anchors = grid.num_anchors
        offsets = torch.randn((batch, anchors, 4), generator=generator)
        logits = torch.randn((batch, anchors, num_classes + 1), generator=generator)
        logits[..., 0] += 3
        device = grid.stride.device
        self.leaves = [x.to(device, dtype).requires_grad_() for x in (offsets, logits)]

    def outputs(self, dtype: torch.dtype) -> HeadOutputs:
        """dtype: the head of a detector gives float32."""
        return HeadOutputs(*(leaf.to(dtype) for leaf in self.leaves))


def region_detector(kind: str, device: torch.device) -> Detector:
    """YOLOv2 past the images of its prior term."""
    detector = yolov2(num_classes=CLASS_COUNTS[kind], width=NARROW, anchors=kind).to(device).eval()
    detector.loss.images_seen.fill_(detector.loss.prior_images)
    return detector


def multibox_detector(kind: str, device: torch.device, as_torchvision: bool = False) -> Detector:
    """SSD300. as_torchvision: conf/loss/multibox_torchvision.yaml."""
    loss = MultiBoxLoss(recount_positives=as_torchvision)
    rule = "last" if as_torchvision else "greedy"
    return ssd300(num_classes=CLASS_COUNTS[kind], width=NARROW, sizes=kind, loss=loss, bipartite=rule).to(
        device
    )


class OwnLossRun:
    """A Detector's encoder and loss. The network itself is not called.

    float32: the loss gets float32 whatever the inputs, which is what the reference needs.
    """

    def __init__(
        self,
        detector: Detector,
        inputs: RegionInputs | MultiBoxInputs,
        targets: Targets,
        float32: bool = True,
    ):
        self.detector = detector
        self.inputs = inputs
        self.targets = targets
        self.dtype = torch.float32 if float32 else inputs.leaves[0].dtype
        side = SIDE_YOLO if isinstance(inputs, RegionInputs) else SIDE_SSD
        self.grid = detector.grid((side, side))

    def encode(self) -> None:
        self.outputs = self.inputs.outputs(self.dtype)
        self.encoded = self.detector.encoder(self.targets, self.grid, self.outputs)

    def forward(self) -> None:
        self.value = sum(self.detector.loss(self.outputs, self.encoded, self.grid).values())

    def backward(self) -> None:
        self.gradients = torch.autograd.grad(self.value, self.inputs.leaves)


class LoopLossRun:
    """loop_region_loss.py"""

    def __init__(self, inputs: RegionInputs, targets: Targets, grid: AnchorGrid):
        self.loss = LoopRegionLoss(grid)
        self.inputs = inputs
        self.targets = targets

    def encode(self) -> None:
        self.raw = self.inputs.raw.float().unflatten(-1, (-1, self.inputs.entries))
        self.tables = self.loss.encode(self.raw, self.targets)

    def forward(self) -> None:
        self.value = self.loss(self.raw, self.tables)

    def backward(self) -> None:
        self.gradients = torch.autograd.grad(self.value, self.inputs.leaves)


class LightnetLossRun:
    """lightnet's RegionLoss, past its prefill of coordinates. It encodes targets within its loss."""

    def __init__(self, lightnet: ModuleType, inputs: RegionInputs, targets: Targets, anchors: str):
        self.loss = lightnet_loss(lightnet, inputs.entries - 5, anchors)
        # its order of axes: batch, channel, row, column
        self.raw = inputs.raw.detach().float().permute(0, 3, 1, 2).contiguous().requires_grad_()
        self.targets = lightnet_targets(targets, SIDE_YOLO)

    def encode(self) -> None:
        pass

    def forward(self) -> None:
        self.value = self.loss(self.raw, self.targets)

    def backward(self) -> None:
        self.gradients = torch.autograd.grad(self.value, [self.raw])


def lightnet_loss(lightnet: ModuleType, num_classes: int, anchors: str) -> torch.nn.Module:
    """anchors: a name in YOLO_ANCHORS."""
    shapes = lightnet.util.Anchors.from_darknet(32, YOLO_ANCHORS[anchors])
    return lightnet.network.loss.RegionLoss(num_classes, shapes, 32)


def lightnet_targets(targets: Targets, side: int) -> Tensor:
    """(B, M, 5) class, centre and size over the side of the input; class -1 for padding."""
    boxes = xyxy_to_cxcywh(targets.boxes) / side
    labels = torch.where(targets.valid, targets.labels, -1)
    return torch.cat([labels[..., None].to(boxes.dtype), boxes], -1)


class TorchvisionLossRun:
    """torchvision's SSD: its matcher, and its loss, on our default boxes."""

    def __init__(self, inputs: MultiBoxInputs, targets: Targets, grid: AnchorGrid):
        self.inputs = inputs
        self.boxes = grid.boxes
        self.targets = torchvision_targets(targets)
        self.matcher = detection_utils.SSDMatcher(0.5)
        self.ssd = SimpleNamespace(
            box_coder=detection_utils.BoxCoder(weights=(10.0, 10.0, 5.0, 5.0)), neg_to_pos_ratio=3.0
        )

    def encode(self) -> None:
        self.matched = [self.matcher(box_iou(each["boxes"], self.boxes)) for each in self.targets]

    def forward(self) -> None:
        offsets, logits = (leaf.float() for leaf in self.inputs.leaves)
        outputs = {"bbox_regression": offsets, "cls_logits": logits}
        anchors = [self.boxes] * len(self.targets)
        self.value = sum(SSD.compute_loss(self.ssd, self.targets, outputs, anchors, self.matched).values())

    def backward(self) -> None:
        self.gradients = torch.autograd.grad(self.value, self.inputs.leaves)


def torchvision_targets(targets: Targets) -> list[dict[str, Tensor]]:
    """A dict for each image; 0 is the background's label."""
    rows = zip(targets.boxes, targets.labels, targets.valid, strict=True)
    return [{"boxes": boxes[valid], "labels": labels[valid] + 1} for boxes, labels, valid in rows]
