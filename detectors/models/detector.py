"""The detector that every family's parts are wired into: forward pass, anchors by input size, detections."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from detectors.kernels.dispatch import describe_versions
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

MEMORY_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


class Detector(nn.Module):
    """images -> backbone -> neck -> head -> HeadOutputs, in training and in evaluation alike.

    The rest of a training step is `encoder` (ground truth -> targets of every anchor) and `loss`:

        outputs = detector(images)
        grid = detector.grid(images.shape[-2:])
        terms = detector.loss(outputs, detector.encoder(targets, grid, outputs), grid)

    Memory format is channels_last until set_memory_format changes it: GPUs and narrow networks are fastest
    with it, and the heads' (B, H, W, K * n) -> (B, H * W * K, n) is then a view instead of a copy.

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
        """pixel_mean, pixel_std: three numbers in RGB order for pixels 0..255. channel_order: what the
        backbone was trained on. Images are always given as RGB; "bgr" flips them after the normalisation.
        """
        super().__init__()
        if channel_order not in ("rgb", "bgr"):
            raise ValueError(f"channel_order={channel_order!r}: choose 'rgb' or 'bgr' (Caffe's weights)")
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.anchors = anchors
        self.encoder = encoder
        self.loss = loss
        self.postprocess = postprocess
        self.channel_order = channel_order
        self.register_buffer("pixel_mean", _per_channel(pixel_mean), persistent=False)
        self.register_buffer("pixel_std", _per_channel(pixel_std), persistent=False)
        self._grids: dict[tuple, AnchorGrid] = {}
        self.set_memory_format("channels_last")

    def set_memory_format(self, name: str) -> None:
        """Lays weights and features out as "channels_last" or "contiguous". Results differ by rounding.

        ValueError for another name.
        """
        if name not in MEMORY_FORMATS:
            raise ValueError(f"memory format {name!r}: choose one of {', '.join(MEMORY_FORMATS)}")
        self.memory_format = name
        self.to(memory_format=MEMORY_FORMATS[name])

    def forward(self, images: Tensor) -> HeadOutputs:
        """images: (B, 3, H, W) RGB, uint8 or float 0..255. ValueError for a size it cannot take."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"images of shape {tuple(images.shape)}: a detector takes (B, 3, H, W); "
                "convert grey images to RGB and stack them"
            )
        if not torch.compiler.is_compiling():
            self.grid(images.shape[-2:])  # raises for a wrong size; the grid is kept for the loss
        return self.head(self.neck(self.backbone(self._normalize(images))))

    def _normalize(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) pixels -> float32. It happens on the device, so that only uint8 is copied there."""
        x = images.to(torch.float32, memory_format=MEMORY_FORMATS[self.memory_format])
        x = (x - self.pixel_mean) / self.pixel_std
        return x.flip(1) if self.channel_order == "bgr" else x

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
        self, outputs: HeadOutputs, infos: list[ImageInfo], size: Sequence[int], *, clip: bool = True
    ) -> Detections:
        """Detections in the original images' frame; `image` is the position in the batch.

        They are clipped to the images unless clip=False.
        """
        return to_original(self.postprocess(outputs, self.grid(size)), infos, clip)

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

    @property
    def parameter_count(self) -> int:
        """Trainable numbers."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def flops(self, size: Sequence[int]) -> int:
        """FLOPs of one image: convolutions only, 2 per multiply-add (many tables count 1). size: (height,
        width).
        """
        self.grid(size)  # raises for a size that the detector cannot take
        twin = copy.deepcopy(self).to("meta").eval()  # computes shapes only
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            twin.head(twin.neck(twin.backbone(torch.empty(1, 3, *size, device="meta"))))
        return sum(
            count
            for operation, count in counter.get_flop_counts()["Global"].items()
            if "convolution" in str(operation)
        )

    def __getstate__(self) -> dict:
        """Copies and pickles are made without the cached anchors."""
        return {**self.__dict__, "_grids": {}}


def _per_channel(values: Sequence[float]) -> Tensor:
    if len(values) != 3:
        raise ValueError(f"pixel mean and std need three numbers, red, green and blue; got {list(values)}")
    return torch.tensor([float(v) for v in values]).view(1, 3, 1, 1)
