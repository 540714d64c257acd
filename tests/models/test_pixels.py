"""What backbones expect of pixels, against torchvision's own presets and literals of Darknet and Caffe."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close
from torchvision import models

from detectors.models.pixels import backbone_pixels
from detectors.models.ssd import ssd160
from detectors.models.yolov2 import yolov2_tiny
from tests.test_configs import checked


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "vgg16", "densenet121", "efficientnet_b0"])
def test_pixels_are_those_of_torchvisions_weights(name):
    """A grey image of level x, through the preset that belongs to torchvision's weights."""
    preset = models.get_model_weights(name).DEFAULT.transforms()
    image = torch.full((3, 300, 300), 200, dtype=torch.uint8)
    mean, std = (torch.tensor(backbone_pixels(name, kind)) for kind in ("mean", "std"))
    assert_close(preset(image)[:, 0, 0], (200 - mean) / std, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "mean", "std"),
    [
        ("darknet19", [0, 0, 0], [255, 255, 255]),  # Darknet: levels divided by 255
        ("tiny_darknet", [0, 0, 0], [255, 255, 255]),
        ("reduced_vgg16", [123, 117, 104], [1, 1, 1]),  # mean_value of ssd_pascal.py, in RGB
    ],
)
def test_pixels_of_the_papers_backbones(backbone, mean, std):
    assert (backbone_pixels(backbone, "mean"), backbone_pixels(backbone, "std")) == (mean, std)


def test_a_model_of_timm_is_asked_itself():
    assert backbone_pixels("timm/resnet18", "mean") is None


@pytest.mark.parametrize("model", ["ssd160", "yolov2_tiny"])
def test_the_configuration_follows_the_backbone_unless_it_is_set(model):
    overrides = [f"model={model}", "model.backbone=resnet18", "model.width=1"]
    assert checked(*overrides).model["pixel_mean"] == [123.675, 116.28, 103.53]
    assert checked(*overrides, "model.pixel_mean=[1,2,3]").model["pixel_mean"] == [1, 2, 3]


def test_a_detector_follows_its_backbone_unless_told():
    for build in (ssd160, yolov2_tiny):
        detector = build(num_classes=1, backbone="mobilenet_v3_small", width=0.25)
        assert_close(detector.pixel_std.flatten(), torch.tensor([58.395, 57.12, 57.375]))
        detector = build(num_classes=1, width=0.25, pixel_mean=(1, 2, 3), pixel_std=(4, 5, 6))
        assert detector.pixel_mean.flatten().tolist() == [1, 2, 3]
        assert detector.pixel_std.flatten().tolist() == [4, 5, 6]
