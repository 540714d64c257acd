"""The reduced VGG-16 of SSD: fully connected layers 6 and 7 as convolutions, one of them dilated (from
DeepLab).

Layers carry Caffe's names (conv1_1 ... conv5_3, fc6, fc7), which is how published weights are matched.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from detectors.layers import scale_channels
from detectors.models.pixels import CAFFE_STD, PIXEL_MEAN
from detectors.models.switches import PAPER, LayerSwitches, LpPool

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
        switches: LayerSwitches = PAPER,
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
                    switches.caffe_block(
                        before, scale_channels(wide, width), 3, padding=1, batch_norm=batch_norm
                    ),
                )
                before = scale_channels(wide, width)
            self.stages[f"stage{number}"] = stage
        fc = scale_channels(fc_channels, width)
        dilated = {"dilation": switches.dilation or fc_dilation, "padding": switches.dilation or fc_dilation}
        self.fc6 = switches.caffe_block(before, fc, 3, batch_norm=batch_norm, **dilated)
        self.fc7 = switches.caffe_block(fc, fc, 1, batch_norm=batch_norm)
        power = switches.pooling_power
        self.halve = nn.MaxPool2d(2, ceil_mode=True) if power is None else LpPool(power, 2, 2)
        self.keep = nn.MaxPool2d(3, 1, padding=1) if power is None else LpPool(power, 3, 1, padding=1)
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
            x = self.halve(stage(x))
        conv4 = stage4(x)
        x = stage5(self.halve(conv4))
        return conv4, self.fc7(self.fc6(self.keep(x)))
