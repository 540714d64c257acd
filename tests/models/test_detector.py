"""The detector's own part: pixels, cached anchors, precision, frames, FLOPs."""

from __future__ import annotations

import copy
import io
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from detectors.models.detector import Detector
from detectors.models.ssd import ssd160
from detectors.models.yolov2 import yolov2_tiny
from detectors.structures import HeadOutputs, ImageInfo, Targets

SIZE = (64, 96)


@pytest.fixture
def detector() -> Detector:
    torch.manual_seed(0)
    return yolov2_tiny(num_classes=3, width=0.125, anchors=[[1.0, 1.0], [2.0, 1.0]]).eval()


def images(batch: int = 2, size: tuple[int, int] = SIZE) -> torch.Tensor:
    return torch.randint(
        0, 256, (batch, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def targets() -> Targets:
    boxes = torch.tensor([[[10.0, 10, 40, 30], [50, 20, 90, 60]], [[0, 0, 0, 0], [0, 0, 0, 0]]])
    return Targets(boxes, torch.tensor([[0, 2], [0, 0]]), torch.tensor([[True, True], [False, False]]))


def variant(**changes) -> Detector:
    """A detector whose network returns its input, for looking at pixels."""
    like = yolov2_tiny(num_classes=1, width=0.125)
    parts = {"backbone": torch.nn.Identity(), "neck": torch.nn.Identity(), "head": torch.nn.Identity()}
    parts |= {name: getattr(like, name) for name in ("anchors", "encoder", "loss", "postprocess")}
    return Detector(**parts, **{"pixel_mean": (123, 117, 104), "pixel_std": (58, 57, 56), **changes})


def test_pixels_are_normalised_per_channel():
    x = images()
    mean, std = torch.tensor([123.0, 117, 104]).view(3, 1, 1), torch.tensor([58.0, 57, 56]).view(3, 1, 1)
    assert_close(variant()(x), (x.float() - mean) / std)
    assert_close(variant()(x.float()), variant()(x))


def test_bgr_flips_the_normalised_channels():
    x = images()
    assert_close(variant(channel_order="bgr")(x), variant()(x)[:, [2, 1, 0]])


def test_darknets_pixels_lie_between_0_and_1(detector):
    x = images()
    assert_close(detector.pixel_mean + x / detector.pixel_std, x / 255)
    assert not detector.pixel_mean.any()


@pytest.mark.parametrize(
    "changes", [{"channel_order": "gbr"}, {"pixel_mean": (1.0,)}, {"pixel_std": (1.0, 1.0)}]
)
def test_wrong_pixel_settings_are_refused(changes):
    with pytest.raises(ValueError, match="gbr|three numbers"):
        variant(**changes)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (1, 64, 64, 3)])
def test_images_of_another_shape_are_refused(shape, detector):
    with pytest.raises(ValueError, match=r"takes \(B, 3, H, W\)"):
        detector(torch.zeros(shape))


def test_anchors_are_made_once_per_size(detector):
    first = detector.grid(SIZE)
    assert detector.grid(torch.Size(SIZE)) is first
    assert detector.grid((64, 64)).size == (64, 64)
    assert detector.grid(SIZE) is first


def test_neither_anchors_nor_pixels_are_saved(detector):
    detector(images())
    parts = {name.split(".")[0] for name in detector.state_dict()}
    assert parts == {"backbone", "neck", "head"}


def test_copies_and_pickles_leave_the_anchors_behind(detector):
    outputs = detector(images())
    twin = copy.deepcopy(detector)
    buffer = io.BytesIO()
    torch.save(detector, buffer)
    buffer.seek(0)
    for other in (twin, torch.load(buffer, weights_only=False)):
        assert not other._grids
        assert_close(other(images()).offsets, outputs.offsets)
    assert detector._grids


def test_anchors_of_another_device_are_made_anew(detector):
    first = detector.grid(SIZE)
    moved = detector.to("meta").grid(SIZE)
    assert (first.stride.device.type, moved.stride.device.type) == ("cpu", "meta")


def test_anchors_made_in_inference_mode_can_be_trained_with(detector):
    with torch.inference_mode():
        detector(images())
    offsets = detector(images()).offsets
    detector.encoder.coder.decode(
        offsets, detector.grid(SIZE)
    ).sum().backward()  # refuses to keep tensors made in inference mode


@pytest.mark.parametrize("make", [yolov2_tiny, ssd160])
def test_losses_and_statistics(make):
    torch.manual_seed(0)
    detector = make(num_classes=3, width=0.125)
    size = (160, 160)
    outputs = detector(images(2, size))
    grid = detector.grid(size)
    encoded = detector.encoder(targets(), grid, outputs)
    sum(detector.loss(outputs, encoded, grid).values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())
    statistics = detector.encoder.statistics(outputs, encoded, grid)
    assert statistics["positives_per_image"] >= 1
    statistics |= detector.loss.statistics(outputs, encoded, grid)
    assert not any(value.requires_grad for value in statistics.values())


def test_outputs_are_float32_under_autocast(detector):
    expected = detector(images())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = detector(images())
    grid = detector.grid(SIZE)
    losses = detector.loss(outputs, detector.encoder(targets(), grid, outputs), grid)
    assert {outputs.offsets.dtype, outputs.class_logits.dtype, outputs.objectness.dtype} == {torch.float32}
    assert {value.dtype for value in losses.values()} == {torch.float32}
    assert_close(outputs.class_logits, expected.class_logits, atol=0.05, rtol=0.05)


def test_outputs_of_the_network_do_not_depend_on_the_memory_layout(detector):
    expected = detector(images())
    assert detector.backbone.convs[1].conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert_close(
        detector.to(memory_format=torch.contiguous_format)(images().contiguous()).class_logits,
        expected.class_logits,
    )


def test_detections_are_in_the_frame_of_the_original(detector):
    """One sure box: cell row 1, column 2 of stride 32, anchor 1 (64 x 32 px), centre in the middle of the
    cell, of class 2.
    """
    count = detector.grid(SIZE).num_anchors
    offsets = torch.tensor([0.5, 0.5, 0.0, 0.0]).repeat(2, count, 1)
    objectness, logits = torch.full((2, count), -20.0), torch.zeros(2, count, 3)
    sure = (1 * 3 + 2) * 2 + 1
    objectness[1, sure], logits[1, sure, 2] = 20, 20
    infos = [ImageInfo(i, str(i), "", (100, 200), scale_xy=(0.5, 0.5), shift_xy=(0.0, 8.0)) for i in range(2)]
    found = detector.detections(HeadOutputs(offsets, logits, objectness), infos, SIZE)
    assert found.image.tolist() == [1]
    assert found.labels.tolist() == [2]
    # In the input: (48, 32, 112, 64). In the original: ((x - 0) / .5, (y - 8) / .5), cut to 200 x 100.
    assert_close(found.boxes, torch.tensor([[96.0, 48.0, 200.0, 100.0]]))


def test_flops_count_two_per_multiply_add_and_leave_the_detector_alone(detector):
    detector.train()
    before = copy.deepcopy(detector.state_dict())
    # Tiny-YOLOv2 x 1/8 on 64 x 96: channels 8, 8, 8, 16, 32, 64, 128 | 128, then 2 * (5 + 3) outputs by a 1x1
    # convolution.
    by_hand, channels, cells = 0, [3, 8, 8, 8, 16, 32, 64, 128, 128], 64 * 96
    for i, (before_it, after) in enumerate(pairwise(channels)):
        by_hand += 2 * 9 * before_it * after * (cells // 4 ** min(i, 5))
    by_hand += 2 * 128 * 16 * (cells // 4**5)
    assert detector.flops(SIZE) == by_hand
    assert detector.training
    assert_close(detector.state_dict(), before)
    with pytest.raises(ValueError, match="stride"):
        detector.flops((65, 65))


def test_parameter_count_leaves_out_what_is_frozen(detector):
    everything = sum(p.numel() for p in detector.parameters())
    assert detector.parameter_count == everything
    detector.head.requires_grad_(False)
    assert detector.parameter_count == everything - 128 * 16 - 16
