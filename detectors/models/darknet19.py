"""Darknet's backbones of YOLOv2 and Tiny-YOLOv2, and Darknet-19 as a classifier.

A backbone publishes `channels` and `strides` of the feature maps that it returns; necks and heads read them.
Its convolutions are registered in the order of Darknet's cfg file, which is the order of a .weights file.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from detectors.layers import init_darknet, scale_channels
from detectors.losses.cross_entropy import CrossEntropyLoss
from detectors.models.classifier import Classifier, check_classes
from detectors.models.pixels import DARKNET_MEAN, DARKNET_STD
from detectors.models.switches import PAPER, LayerSwitches
from detectors.structures import builder

# Channels of each stage. Kernels alternate 3, 1, 3, ...; between two stages lies a max pool of stride 2.
DARKNET19_STAGES = (
    (32,),
    (64,),
    (128, 64, 128),
    (256, 128, 256),
    (512, 256, 512, 256, 512),
    (1024, 512, 1024, 512, 1024),
)
TINY_CHANNELS = (16, 32, 64, 128, 256, 512, 1024)


class Darknet19(nn.Module):
    """The 18 convolutions of Darknet-19 below its classifier (YOLO9000, table 6; yolov2-voc.cfg, layers 0 to
    22).
    """

    pixel_mean = DARKNET_MEAN
    pixel_std = DARKNET_STD

    def __init__(
        self,
        width: float = 1.0,
        strides: Sequence[int] = (16, 32),
        switches: LayerSwitches = PAPER,
        *,
        stage_channels: Sequence[Sequence[int]] | None = None,
    ):
        """width multiplies every channel count. strides: of the maps, rising; later stages are left out.
        stage_channels: other stages; width does not change them.

        ValueError for a stride that it does not have.
        """
        super().__init__()
        scaled = [[scale_channels(count, width) for count in counts] for counts in DARKNET19_STAGES]
        stage_channels = scaled if stage_channels is None else stage_channels
        known = [2**i for i in range(len(stage_channels))]
        if absent := [stride for stride in strides if stride not in known]:
            raise ValueError(f"backbone=darknet19: stride {absent[0]}: it has maps of {known}")
        stages = []
        channels = 3
        for counts in stage_channels[: known.index(strides[-1]) + 1]:
            blocks = []
            for i, count in enumerate(counts):
                blocks.append(switches.darknet_block(channels, count, 1 if i % 2 else 3))
                channels = count
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.pool = switches.darknet_pool(2)
        self.strides = tuple(strides)
        self.channels = tuple(stage_channels[known.index(stride)][-1] for stride in strides)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> (B, 512, H / 16, W / 16) for the passthrough, and (B, 1024, H / 32, W / 32)"""
        x = self.stages[0](images)
        maps = [x]
        for stage in self.stages[1:]:
            x = stage(self.pool(x))
            maps.append(x)
        return tuple(maps[stride.bit_length() - 1] for stride in self.strides)


class TinyDarknet(nn.Module):
    """The seven convolutions of Tiny-YOLOv2 below its last two (cfg/yolov2-tiny.cfg, layers 0 to 12).

    Darknet pools by 2 five times and once with stride 1. `stride=16` leaves out the last pool of stride 2:
    with stride 32 a small input (160 px has 5 x 5 cells) does not learn.
    """

    pixel_mean = DARKNET_MEAN
    pixel_std = DARKNET_STD

    def __init__(
        self,
        width: float = 1.0,
        stride: int = 32,
        *,
        finer: Sequence[int] = (),
        switches: LayerSwitches = PAPER,
    ):
        """width multiplies every channel count; stride is 32 (Darknet) or 16. finer: strides of further maps,
        rising. ValueError for a stride that it does not have.
        """
        super().__init__()
        if stride not in (16, 32):
            raise ValueError(f"stride={stride}: Tiny-YOLOv2 has stride 32, or 16 for small inputs")
        known = [2**i for i in range(stride.bit_length() - 1)]
        if absent := [other for other in finer if other not in known]:
            raise ValueError(f"backbone=tiny_darknet: stride {absent[0]}: it has maps of {[*known, stride]}")
        counts = [scale_channels(count, width) for count in TINY_CHANNELS]
        pairs = zip([3, *counts], counts, strict=False)
        self.convs = nn.ModuleList(switches.darknet_block(*pair, 3) for pair in pairs)
        halving = [switches.darknet_pool(2) for _ in range(4)]
        fifth = switches.darknet_pool(2) if stride == 32 else nn.Identity()
        self.pools = nn.ModuleList([*halving, fifth, switches.darknet_pool(1)])
        self.strides = (*finer, stride)
        self.channels = (*(counts[known.index(other)] for other in finer), counts[-1])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> maps of the finer strides, and (B, 1024, H / stride, W / stride)"""
        x = self.convs[0](images)
        maps = [x]
        for pool, conv in zip(self.pools, self.convs[1:], strict=True):
            x = conv(pool(x))
            maps.append(x)
        return (*(maps[stride.bit_length() - 1] for stride in self.strides[:-1]), x)


@builder("model")
def darknet19(
    *,
    num_classes: int = 1000,
    loss: CrossEntropyLoss | None = None,
    width: float = 1.0,
    stage_channels: Sequence[Sequence[int]] | None = None,
) -> Classifier:
    """Darknet-19 as trained on ImageNet: cfg/darknet19.cfg, whose pixels are from 0 to 1.

    A 1x1 convolution gives the classes of each place (layer 23), global average pooling those of the image
    (layer 24). All convolutions but that one are those of YOLOv2's backbone. width, stage_channels: see
    Darknet19. ValueError for no stage, or one without a convolution.
    """
    check_classes(num_classes)
    stages = DARKNET19_STAGES if stage_channels is None else stage_channels
    if not stages or not all(stages):
        raise ValueError(
            f"stage_channels={stage_channels}: list the channels of each stage, as in [[16], [32, 16, 32]]"
        )
    backbone = Darknet19(width, strides=(2 ** (len(stages) - 1),), stage_channels=stage_channels)
    head = nn.Conv2d(backbone.channels[-1], num_classes, 1)
    init_darknet(head)
    return Classifier(
        backbone=backbone,
        head=head,
        loss=loss,
        pixel_mean=DARKNET_MEAN,
        pixel_std=DARKNET_STD,
    )
