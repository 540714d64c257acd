"""The reduced VGG-16 of SSD: fully connected layers 6 and 7 as convolutions, one of them dilated (from
DeepLab).

Layers carry Caffe's names (conv1_1 ... conv5_3, fc6, fc7), which is how published weights are matched.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from detectors.layers import ConvReLU, scale_channels
from detectors.models.pixels import CAFFE_STD, PIXEL_MEAN

VGG16_CONVS = (2, 2, 3, 3, 3)
VGG16_CHANNELS = (64, 128, 256, 512, 512)


class ReducedVGG(nn.Module):
    """Returns conv4's last map (stride 8) and fc7 (stride 16).

    By default VGG-16; `convs`, `channels`, `fc_channels` and `fc_dilation` make smaller siblings of the same
    shape.

    `channels` and `strides` of the instance describe the two maps that it returns.
    """

    pixel_mean = PIXEL_MEAN
    pixel_std = CAFFE_STD

    def __init__(
        self,
        *,
        convs: Sequence[int] = VGG16_CONVS,
        channels: Sequence[int] = VGG16_CHANNELS,
        fc_channels: int = 1024,
        fc_dilation: int = 6,
        width: float = 1.0,
        batch_norm: bool = False,
    ):
        """convs, channels: of stages 1 to 5. width: multiplies all channels. batch_norm: see ConvReLU."""
        super().__init__()
        self.stages = nn.ModuleDict()
        before = 3
        for number, (count, wide) in enumerate(zip(convs, channels, strict=True), 1):
            stage = nn.Sequential()
            for i in range(1, count + 1):
                stage.add_module(
                    f"conv{number}_{i}",
                    ConvReLU(before, scale_channels(wide, width), 3, padding=1, batch_norm=batch_norm),
                )
                before = scale_channels(wide, width)
            self.stages[f"stage{number}"] = stage
        fc = scale_channels(fc_channels, width)
        self.fc6 = ConvReLU(before, fc, 3, padding=fc_dilation, dilation=fc_dilation, batch_norm=batch_norm)
        self.fc7 = ConvReLU(fc, fc, 1, batch_norm=batch_norm)
        self.channels = (scale_channels(channels[3], width), fc)
        self.strides = (8, 16)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> (B, 512, ceil(H / 8), ...) and (B, 1024, ceil(H / 16), ...).

        Pools 1 to 4 halve and round up as in Caffe, which for 300 px matters at pool3 (75 -> 38); pool5 keeps
        the size.
        """
        stage1, stage2, stage3, stage4, stage5 = self.stages.values()
        x = images
        for stage in (stage1, stage2, stage3):
            x = F.max_pool2d(stage(x), 2, ceil_mode=True)
        conv4 = stage4(x)
        x = stage5(F.max_pool2d(conv4, 2, ceil_mode=True))
        return conv4, self.fc7(self.fc6(F.max_pool2d(x, 3, stride=1, padding=1)))
