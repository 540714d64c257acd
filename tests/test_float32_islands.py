"""What stays in float32 whatever the precision of the network: under autocast, the dtype and every bit."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from detectors.boxes import area, paired_iou, pairwise_iou, shape_iou
from detectors.layers import L2Norm, darknet_reorg
from detectors.losses.multibox_loss import MultiBoxLoss
from detectors.losses.region_loss import RegionLoss
from detectors.models.ssd import ssd160
from detectors.models.yolov2 import yolov2
from detectors.structures import HeadOutputs
from detectors.training.detection import TrainStep
from detectors.training.precision import network_precision
from tests import oracles

CPU = torch.device("cpu")
BUILDERS = {
    "yolov2": lambda: yolov2(num_classes=3, width=0.05),
    "ssd": lambda: ssd160(num_classes=3, width=0.05, batch_norm=True),
}
pytestmark = pytest.mark.parametrize("precision", ["bfloat16", "float16"])


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def assert_float32(function, precision: str) -> None:
    """All tensors that a function returns, under autocast and without it."""
    expected = function()
    with network_precision(precision, CPU):
        given = function()
    for one, other in zip(given, expected, strict=True):
        assert one.dtype == torch.float32
        assert_close(one, other, rtol=0, atol=0)


def parts(family: str):
    """A detector, its outputs for two images, ground truth, the encoded targets and the anchors."""
    torch.manual_seed(0)
    detector = BUILDERS[family]()
    images = torch.randint(0, 256, (2, 3, 160, 160), generator=generator(), dtype=torch.uint8)
    targets = oracles.random_targets(generator(), batch=2, most=5, classes=3, size=(160, 160))
    grid = detector.grid((160, 160))
    outputs = HeadOutputs(*(v if v is None else v.detach() for v in vars(detector(images)).values()))
    return detector, outputs, targets, detector.encoder(targets, grid, outputs), grid


@pytest.mark.parametrize("family", BUILDERS)
def test_offsets_exp_and_log(family, precision):
    detector, outputs, _, encoded, grid = parts(family)
    coder = detector.encoder.coder
    assert_float32(
        lambda: [coder.encode(encoded.boxes, grid), coder.decode(outputs.offsets, grid)], precision
    )


def test_iou(precision):
    corners = torch.rand(2, 6, 4, generator=generator())
    boxes = torch.cat([corners[..., :2], corners[..., :2] + corners[..., 2:]], -1) * 400
    functions = (
        lambda: paired_iou(boxes[0], boxes[1]),
        lambda: pairwise_iou(boxes[0], boxes[1]),
        lambda: shape_iou(boxes[0, :, 2:], boxes[1, :, 2:]),
        lambda: area(boxes),
    )
    assert_float32(lambda: [function() for function in functions], precision)


@pytest.mark.parametrize("family", BUILDERS)
def test_targets(family, precision):
    detector, outputs, targets, encoded, grid = parts(family)
    with network_precision(precision, CPU):
        given = detector.encoder(targets, grid, outputs)
    assert {given.offsets.dtype, given.boxes.dtype} == {torch.float32}
    for name in ("matched", "assigned", "labels", "boxes", "offsets"):
        assert_close(getattr(given, name), getattr(encoded, name), rtol=0, atol=0)


LOSSES = {
    "yolov2": [
        RegionLoss(),
        RegionLoss(class_activation="logistic", normalizer="anchors", box_error="cells"),
    ],
    "ssd": [MultiBoxLoss(), MultiBoxLoss(normalizer="images", recount_positives=True)],
}


@pytest.mark.parametrize("family", BUILDERS)
def test_losses_and_statistics(family, precision):
    detector, outputs, _, encoded, grid = parts(family)
    for loss in LOSSES[family]:
        assert_float32(lambda loss=loss: list(loss.eval()(outputs, encoded, grid).values()), precision)
        assert_float32(lambda loss=loss: list(loss.statistics(outputs, encoded, grid).values()), precision)
    assert_float32(lambda: list(detector.encoder.statistics(outputs, encoded, grid).values()), precision)


@pytest.mark.parametrize("family", BUILDERS)
def test_scores_and_boxes_of_detections(family, precision):
    detector, outputs, _, _, grid = parts(family)

    def detections():
        found = detector.postprocess(outputs, grid)
        return [found.boxes, found.scores]

    assert_float32(detections, precision)


def test_l2norm(precision):
    """Of a map in the network's precision: as float32 gives it, rounded once at the end."""
    dtype = getattr(torch, precision)
    x = (torch.randn(2, 512, 3, 3, generator=generator()) * 100).to(dtype)
    norm = L2Norm(512)
    with network_precision(precision, CPU):
        y = norm(x)
    assert y.dtype == dtype
    assert_close(y, norm(x.float()).to(dtype), rtol=0, atol=0)
    assert y.isfinite().all()


def test_darknet_reorg_moves_numbers_only(precision):
    x = torch.randn(1, 8, 4, 4, generator=generator()).to(getattr(torch, precision))
    with network_precision(precision, CPU):
        assert_close(darknet_reorg(x), darknet_reorg(x.float()).to(x.dtype), rtol=0, atol=0)


@pytest.mark.parametrize("family", BUILDERS)
def test_a_training_step(family, precision):
    """The last convolution has the network's precision; what follows, sigmoid included, is float32."""
    detector, _, targets, _, grid = parts(family)
    raw = []
    head = detector.head
    convolution = head.conv if family == "yolov2" else head.offsets[0]
    convolution.register_forward_hook(lambda module, inputs, output: raw.append(output))
    images = torch.randint(0, 256, (2, 3, 160, 160), generator=generator(), dtype=torch.uint8)
    terms, outputs, encoded = TrainStep(detector.train(), precision)(images, targets, grid)
    assert raw[0].dtype == getattr(torch, precision)
    tensors = [*terms.values(), outputs.offsets, outputs.class_logits, encoded.offsets, encoded.boxes]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}
    entries = head.entries if family == "yolov2" else 4
    rows = raw[0].permute(0, 2, 3, 1).reshape(2, -1, entries).float()
    if family == "yolov2":
        rows = torch.cat([rows[..., :2].sigmoid(), rows[..., 2:4]], -1)
    assert_close(outputs.offsets[:, : rows.shape[1]], rows, rtol=0, atol=0)
