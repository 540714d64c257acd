"""IoU, focal and smoothed terms of both losses against formulas in plain Python and torchvision."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close
from torchvision.ops import sigmoid_focal_loss

from detectors.anchors import YoloAnchors
from detectors.coders import SSDBoxCoder, YoloBoxCoder
from detectors.losses.ablations import iou_error, softmax_focal_error
from detectors.losses.multibox_loss import MultiBoxLoss
from detectors.losses.region_loss import RegionLoss
from detectors.matching import MultiBoxMatcher, ResponsibleCellMatcher
from detectors.structures import HeadOutputs
from detectors.targets import TargetEncoder
from tests import oracles

SIZE = (96, 96)
CLASSES = 3


def iou_oracle(kind: str, a: list[float], b: list[float]) -> float:
    """1 - GIoU = 1 - IoU + empty / hull; 1 - CIoU = 1 - IoU + d^2 / c^2 + alpha v (1911.08287, eq. 10)."""
    iou = oracles.iou(a, b)
    hull = [min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])]
    width, height = hull[2] - hull[0], hull[3] - hull[1]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    union = sum(areas) / (1 + iou)
    if kind == "giou":
        return 1 - iou + (width * height - union) / (width * height)
    distance = sum(((a[i] + a[i + 2] - b[i] - b[i + 2]) / 2) ** 2 for i in (0, 1))
    angles = [math.atan((box[2] - box[0]) / (box[3] - box[1])) for box in (a, b)]
    v = 4 / math.pi**2 * (angles[1] - angles[0]) ** 2
    return 1 - iou + distance / (width**2 + height**2) + v * v / (1 - iou + v)


@pytest.mark.parametrize("kind", ["giou", "ciou"])
def test_iou_errors(kind):
    generator = torch.Generator().manual_seed(0)
    low, wh = (
        torch.rand(2, 40, 2, generator=generator, dtype=torch.float64),
        0.1 + torch.rand(2, 40, 2, generator=generator, dtype=torch.float64),
    )
    boxes, others = torch.cat([low, low + wh], -1)
    expected = [iou_oracle(kind, a, b) for a, b in zip(boxes.tolist(), others.tolist(), strict=True)]
    assert_close(iou_error(kind, boxes, others), torch.tensor(expected, dtype=torch.float64))


def test_focal_of_one_class_is_the_sigmoids():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 2, generator=generator) * 3
    columns = torch.randint(0, 2, (50,), generator=generator)
    expected = sigmoid_focal_loss(logits[:, 1] - logits[:, 0], columns.float(), 0.3, 1.5)
    assert_close(softmax_focal_error(logits, columns, alpha=0.3, gamma=1.5), expected)


def region_case():
    generator = torch.Generator().manual_seed(3)
    grid = YoloAnchors([(1.0, 1.0), (2.0, 1.5)], 32)(SIZE)
    shape = (2, grid.num_anchors)
    raw = torch.randn(*shape, 4, generator=generator, dtype=torch.float64)
    offsets = torch.cat([raw[..., :2].sigmoid(), raw[..., 2:] / 2], -1)
    logits = torch.randn(*shape, CLASSES, generator=generator, dtype=torch.float64)
    objectness = torch.randn(*shape, generator=generator, dtype=torch.float64)
    targets = oracles.random_targets(generator, batch=2, most=4, classes=CLASSES, size=SIZE)
    targets = replace(targets, boxes=targets.boxes.double())
    outputs = HeadOutputs(offsets.requires_grad_(), logits, objectness)
    encoded = TargetEncoder(ResponsibleCellMatcher(), YoloBoxCoder())(targets, grid, outputs)
    return outputs, encoded, grid


def ssd_case():
    generator = torch.Generator().manual_seed(4)
    grid = oracles.small_ssd_grid(SIZE)
    shape = (2, grid.num_anchors)
    offsets = torch.randn(*shape, 4, generator=generator)
    logits = torch.randn(*shape, CLASSES + 1, generator=generator)
    targets = oracles.random_targets(generator, batch=2, most=4, classes=CLASSES, size=SIZE)
    outputs = HeadOutputs(offsets.requires_grad_(), logits)
    encoded = TargetEncoder(MultiBoxMatcher(), SSDBoxCoder())(targets, grid, outputs)
    return outputs, encoded, grid


def owners(encoded) -> list[tuple[int, int, int]]:
    """Image, anchor, row of its box."""
    return [(b, a, int(encoded.matched[b, a])) for b, a in (encoded.matched >= 0).nonzero().tolist()]


def smoothed(logits: torch.Tensor, label: int, epsilon: float) -> float:
    log_p = logits.log_softmax(-1).tolist()
    return -(1 - epsilon) * log_p[label] - epsilon * sum(log_p) / len(log_p)


@pytest.mark.parametrize("kind", ["giou", "ciou"])
def test_region_box_term(kind):
    outputs, encoded, grid = region_case()
    term = RegionLoss(box_error=kind, coord_scale=2.0)(outputs, encoded, grid)["box"]
    boxes = YoloBoxCoder().decode(outputs.offsets, grid)
    total = 0.0
    for b, a, m in owners(encoded):
        truth = encoded.targets.boxes[b, m].tolist()
        area = (truth[2] - truth[0]) * (truth[3] - truth[1]) / (SIZE[0] * SIZE[1])
        total += 2.0 * (2 - area) * iou_oracle(kind, boxes[b, a].tolist(), truth)
    assert_close(term.item(), total / 2)
    term.backward()
    assert outputs.offsets.grad.isfinite().all() and outputs.offsets.grad.any()


def test_region_focal_terms():
    outputs, encoded, grid = region_case()
    loss = RegionLoss(focal_gamma=1.5, focal_alpha=0.3, objectness_target="one", ignore_iou=0.5)
    terms = loss(outputs, encoded, grid)
    own = {(b, a) for b, a, _ in owners(encoded)}
    boxes = YoloBoxCoder().decode(outputs.offsets, grid)
    sums = {True: 0.0, False: 0.0}
    for b in range(2):
        truths = encoded.targets.boxes[b][encoded.targets.valid[b]].tolist()
        for a in range(grid.num_anchors):
            positive = (b, a) in own
            ious = [oracles.iou(boxes[b, a].tolist(), truth) for truth in truths]
            if not positive and max(ious, default=0) > 0.5:
                continue
            focal = sigmoid_focal_loss(
                outputs.objectness[b, a], torch.tensor(float(positive), dtype=torch.float64), 0.3, 1.5
            )
            sums[positive] += focal.item()
    assert_close(terms["object"].item(), 5 * sums[True] / 2)
    assert_close(terms["noobject"].item(), sums[False] / 2)


def test_region_label_smoothing():
    outputs, encoded, grid = region_case()
    term = RegionLoss(label_smoothing=0.2)(outputs, encoded, grid)["class"]
    labels = encoded.targets.labels
    total = sum(smoothed(outputs.class_logits[b, a], int(labels[b, m]), 0.2) for b, a, m in owners(encoded))
    assert_close(term.item(), total / 2)


@pytest.mark.parametrize("kind", ["giou", "ciou"])
def test_multibox_box_term(kind):
    outputs, encoded, grid = ssd_case()
    term = MultiBoxLoss(box_error=kind, box_scale=3.0)(outputs, encoded, grid)["box"]
    boxes = SSDBoxCoder().decode(outputs.offsets, grid)
    pairs = [(boxes[b, a].tolist(), encoded.targets.boxes[b, m].tolist()) for b, a, m in owners(encoded)]
    expected = 3 * sum(iou_oracle(kind, box, truth) for box, truth in pairs) / len(pairs)
    assert_close(term.item(), expected, rtol=1e-5, atol=1e-5)
    term.backward()
    assert outputs.offsets.grad.isfinite().all() and outputs.offsets.grad.any()


def test_multibox_focal_term():
    outputs, encoded, grid = ssd_case()
    term = MultiBoxLoss(focal_gamma=2.0, focal_alpha=0.25)(outputs, encoded, grid)["class"]
    p = outputs.class_logits.softmax(-1)
    total = 0.0
    for b in range(2):
        for a in range(grid.num_anchors):
            m = int(encoded.matched[b, a])
            column = int(encoded.targets.labels[b, m]) + 1 if m >= 0 else 0
            q = p[b, a, column].item()
            total -= (0.25 if m >= 0 else 0.75) * (1 - q) ** 2 * math.log(q)
    assert_close(term.item(), total / len(owners(encoded)), rtol=1e-5, atol=1e-5)


def test_multibox_label_smoothing_keeps_the_order_of_mining():
    outputs, encoded, grid = ssd_case()
    term = MultiBoxLoss(label_smoothing=0.2)(outputs, encoded, grid)["class"]
    log_p = outputs.class_logits.log_softmax(-1)
    total = 0.0
    for b in range(2):
        own = [(a, int(encoded.targets.labels[b, m])) for image, a, m in owners(encoded) if image == b]
        negatives = [a for a in range(grid.num_anchors) if encoded.matched[b, a] == -1]
        hardest = sorted(negatives, key=lambda a, b=b: log_p[b, a, 0].item())[: 3 * len(own)]
        total += sum(smoothed(outputs.class_logits[b, a], label + 1, 0.2) for a, label in own)
        total += sum(smoothed(outputs.class_logits[b, a], 0, 0.2) for a in hardest)
    assert_close(term.item(), total / len(owners(encoded)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("loss", "keywords", "message"),
    [
        (RegionLoss, {"box_error": "diou"}, "box_error='diou': choose"),
        (MultiBoxLoss, {"box_error": "log"}, "box_error='log': choose"),
        (RegionLoss, {"focal_gamma": 2.0}, "focal_gamma=2.0: .*objectness_target=one"),
        (
            RegionLoss,
            {"label_smoothing": 0.1, "class_activation": "logistic"},
            "label_smoothing=0.1: it belongs",
        ),
        (MultiBoxLoss, {"focal_gamma": 2.0, "label_smoothing": 0.1}, "focal_gamma=2.0: .*label_smoothing=0"),
        (MultiBoxLoss, {"focal_gamma": -1.0}, "focal_gamma=-1.0: 0 or more"),
        (MultiBoxLoss, {"focal_alpha": 1.0}, "focal_alpha=1.0: must be between 0 and 1"),
        (RegionLoss, {"label_smoothing": 1.0}, "label_smoothing=1.0: must be 0 or more and less than 1"),
    ],
)
def test_what_cannot_be_is_named(loss, keywords, message):
    with pytest.raises(ValueError, match=message):
        loss(**keywords)


@pytest.mark.parametrize(
    ("loss", "keywords", "reason"),
    [
        (RegionLoss, {"box_error": "giou"}, "box_error='giou'"),
        (RegionLoss, {"label_smoothing": 0.1}, "label_smoothing=0.1"),
        (RegionLoss, {"focal_gamma": 2.0, "objectness_target": "one"}, "focal_gamma=2.0"),
        (MultiBoxLoss, {"box_error": "ciou"}, "box_error='ciou'"),
        (MultiBoxLoss, {"label_smoothing": 0.1}, "label_smoothing=0.1"),
        (MultiBoxLoss, {"focal_gamma": 2.0}, "focal_gamma=2.0"),
    ],
)
def test_kernels_leave_them_to_the_reference(loss, keywords, reason):
    assert loss(**keywords).unsupported() == reason
    assert loss().unsupported() is None
