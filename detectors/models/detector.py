"""The detector that every family's parts are wired into: forward pass, anchors by input size, detections."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detectors.kernels.dispatch import describe_versions
from detectors.models.image_network import ImageNetwork, check_images
from detectors.postprocess import PostProcess, to_original
from detectors.structures import (
    AnchorGrid,
    AnchorMaker,
    Detections,
    HeadOutputs,
    ImageInfo,
    Loss,
    OutputLayer,
)
from detectors.targets import TargetEncoder


class Detector(ImageNetwork):
    """images -> backbone -> neck -> head -> HeadOutputs, in training and in evaluation alike.

    The rest of a training step is `encoder` (ground truth -> targets of every anchor) and `loss`:

        outputs = detector(images)
        grid = detector.grid(images.shape[-2:])
        terms = detector.loss(outputs, detector.encoder(targets, grid, outputs), grid)

    With channels_last memory the heads' (B, H, W, K * n) -> (B, H * W * K, n) is a view instead of a copy.

    >>> from detectors import Detector, yolov2_tiny
    >>> detector = yolov2_tiny(num_classes=3, width=0.25)
    >>> isinstance(detector, Detector), detector.grid((416, 416)).num_anchors, detector.parameter_count
    (True, 845, 995264)
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        neck: nn.Module,
        head: nn.Module,
        anchors: AnchorMaker,
        encoder: TargetEncoder,
        loss: Loss,
        postprocess: PostProcess,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        channel_order: str = "rgb",
    ):
        """pixel_mean, pixel_std, channel_order: see ImageNetwork."""
        super().__init__(pixel_mean=pixel_mean, pixel_std=pixel_std, channel_order=channel_order)
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.anchors = anchors
        self.encoder = encoder
        self.loss = loss
        self.postprocess = postprocess
        self._grids: dict[tuple, AnchorGrid] = {}
        self.set_memory_format("channels_last")

    def forward(self, images: Tensor) -> HeadOutputs:
        """images: (B, 3, H, W) RGB, uint8 or float 0..255. ValueError for a size it cannot take."""
        check_images(images, "a detector")
        if not torch.compiler.is_compiling():
            self.grid(images.shape[-2:])  # raises for a wrong size; the grid is kept for the loss
        return self.network(self._normalize(images))

    def network(self, x: Tensor) -> HeadOutputs:
        """What the network computes of normalised images (B, 3, H, W)."""
        return self.head(self.neck(self.backbone(x)))

    def grid(self, size: Sequence[int]) -> AnchorGrid:
        """The anchors of an input of `size` (height, width), on the detector's device. They are cached."""
        device = self.pixel_mean.device
        key = (int(size[0]), int(size[1]), device)
        if key not in self._grids:
            # A tensor made in inference mode could never be used in a loss again.
            with torch.inference_mode(False):
                self._grids[key] = self.anchors(key[:2]).to(device)
        return self._grids[key]

    @torch.no_grad()
    def detections(
        self,
        outputs: HeadOutputs,
        infos: list[ImageInfo],
        size: Sequence[int],
        *,
        clip: bool = True,
        score: float = 0.0,
    ) -> Detections:
        """Detections in the original images' frame; `image` is the position in the batch.

        They are clipped to the images unless clip=False. score: the lowest that is wanted.
        """
        return to_original(self.postprocess(outputs, self.grid(size), score=score), infos, clip)

    def kernel_versions(self) -> str:
        """Which version of each fused operation runs on the detector's device, and why; for the log."""
        return describe_versions((self.encoder.matcher, self.loss, self.postprocess), self.pixel_mean.device)

    def output_layers(self) -> list[OutputLayer]:
        """The convolutions that give its outputs, by their names in the detector.

        Its modules publish them; [] if none does.
        """
        return [
            layer._replace(name=f"{name}.{layer.name}")
            for name, module in self.named_modules()
            if module is not self
            for layer in getattr(module, "output_layers", ())
        ]

    def flops(self, size: Sequence[int]) -> int:
        """See ImageNetwork. ValueError for a size that the detector cannot take."""
        self.grid(size)
        return super().flops(size)

    def __getstate__(self) -> dict:
        """Copies and pickles are made without the cached anchors."""
        return {**self.__dict__, "_grids": {}}
