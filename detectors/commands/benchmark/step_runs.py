"""A training step of each program, in parts that can be timed one by one: forward, loss, backward, optimiser.

All programs get the same images and boxes, in the form that each of them takes, and the same optimiser. Its
rate is 0: weights stay as they are drawn, and the work is that of any step.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor, nn
from torchvision.models.detection import ssd300_vgg16
from torchvision.ops import box_iou

from detectors.anchors import YOLO_ANCHORS
from detectors.commands.benchmark.loss_runs import lightnet_loss, lightnet_targets, torchvision_targets
from detectors.commands.benchmark.made_up_truths import CLASS_COUNTS, made_up_targets
from detectors.models.detector import Detector
from detectors.structures import Batch
from detectors.training.compilation import GRAPH_COLUMNS, compile_step, with_variable_count
from detectors.training.detection import TrainStep
from detectors.training.precision import network_precision, suited

NUM_CLASSES = CLASS_COUNTS["voc"]


def made_up_images(batch: int, side: int) -> Batch:
    """Random pixels, and boxes as in VOC."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (batch, 3, side, side), dtype=torch.uint8, generator=generator)
    return Batch(images, made_up_targets("voc", batch, (side, side)), [])


class StepRun:
    """What the programs share. A subclass has `forward` (images -> head outputs) and `loss`."""

    def __init__(self, module: nn.Module, precision: str, device: torch.device):
        self.module = module.to(device).train()
        self.precision = precision
        self.device = device
        optimizer = torch.optim.SGD(module.parameters(), lr=0.0, momentum=0.9, weight_decay=5e-4)
        self.optimizer = suited(optimizer, precision, device)
        self.value: Tensor  # the loss of the last step

    def forward(self) -> None:
        raise NotImplementedError

    def loss(self) -> None:
        raise NotImplementedError

    def backward(self) -> None:
        self.value.backward()

    def optimise(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @property
    def phases(self) -> dict[str, Callable[[], None]]:
        return {
            "forward": self.forward,
            "loss": self.loss,
            "backward": self.backward,
            "optimiser": self.optimise,
        }


class OwnStepRun(StepRun):
    """memory_format: "channels_last" or "contiguous"."""

    def __init__(self, detector: Detector, batch: Batch, memory_format: str, precision: str):
        super().__init__(detector, precision, batch.images.device)
        detector.set_memory_format(memory_format)
        self.detector = detector
        self.batch = batch
        self.grid = detector.grid(batch.images.shape[-2:])

    def forward(self) -> None:
        with network_precision(self.precision, self.device):
            self.outputs = self.detector(self.batch.images)

    def loss(self) -> None:
        encoded = self.detector.encoder(self.batch.targets, self.grid, self.outputs)
        self.value = sum(self.detector.loss(self.outputs, encoded, self.grid).values())


class CompiledStepRun(OwnStepRun):
    """trainer.compile=true: forward and loss are one graph, so that all of it counts as forward.

    cuda_graphs: as trainer.cuda_graphs.
    """

    def __init__(
        self,
        detector: Detector,
        batch: Batch,
        memory_format: str,
        precision: str,
        cuda_graphs: bool = False,
    ):
        super().__init__(detector, batch, memory_format, precision)
        self.step = TrainStep(detector, precision)
        compile_step(self.step, self.device, sizes=1, cuda_graphs=cuda_graphs)
        self.targets = with_variable_count(batch.targets, GRAPH_COLUMNS if cuda_graphs else 1)

    def forward(self) -> None:
        self.terms, *_ = self.step(self.batch.images, self.targets, self.grid)

    def loss(self) -> None:
        self.value = sum(self.terms.values())


class TorchvisionStepRun(StepRun):
    """ssd300_vgg16, untrained; its forward() in training, in two parts."""

    def __init__(self, batch: Batch, precision: str):
        ssd = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=NUM_CLASSES + 1)
        super().__init__(ssd, precision, batch.images.device)
        self.images = list(batch.images / 255)
        self.targets = torchvision_targets(batch.targets)

    def forward(self) -> None:
        ssd = self.module
        with network_precision(self.precision, self.device):
            images, self.resized = ssd.transform(self.images, self.targets)
            features = list(ssd.backbone(images.tensors).values())
            outputs = ssd.head(features)
        self.outputs = {name: values.float() for name, values in outputs.items()}
        self.anchors = ssd.anchor_generator(images, features)

    def loss(self) -> None:
        ssd = self.module
        matched = [
            ssd.proposal_matcher(box_iou(each["boxes"], anchors))
            for each, anchors in zip(self.resized, self.anchors, strict=True)
        ]
        self.value = sum(ssd.compute_loss(self.resized, self.outputs, self.anchors, matched).values())


class LightnetStepRun(StepRun):
    """lightnet's YoloV2, untrained, with its region loss."""

    def __init__(self, lightnet: ModuleType, batch: Batch, precision: str):
        anchors = lightnet.util.Anchors.from_darknet(32, YOLO_ANCHORS["voc"])
        super().__init__(lightnet.models.YoloV2(NUM_CLASSES, anchors=anchors), precision, batch.images.device)
        self.criterion = lightnet_loss(lightnet, NUM_CLASSES, "voc").to(self.device)
        self.images = batch.images / 255
        self.targets = lightnet_targets(batch.targets, batch.images.shape[-1])

    def forward(self) -> None:
        with network_precision(self.precision, self.device):
            raw = self.module(self.images)
        self.raw = raw.float()

    def loss(self) -> None:
        self.value = self.criterion(self.raw, self.targets)
