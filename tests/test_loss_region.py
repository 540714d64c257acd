"""The options of RegionLoss one by one, and loss=region_2016. The default options are in test_losses.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from detectors.anchors import YoloAnchors
from detectors.boxes import pairwise_iou
from detectors.coders import YoloBoxCoder
from detectors.commands.verify import region_layer
from detectors.commands.verify.presets import preset_loss
from detectors.losses.region_loss import RegionLoss
from detectors.matching import ResponsibleCellMatcher
from detectors.structures import HeadOutputs
from detectors.targets import TargetEncoder
from tests import oracles, recorded

FIXTURES = Path(__file__).parent / "fixtures"
REGION = recorded.region_cases(FIXTURES)


def region_setup(name: str):
    case = REGION[name]
    size = (case["H"] * 32, case["W"] * 32)
    grid = YoloAnchors(np.asarray(case["anchors"]).reshape(-1, 2).tolist(), 32)(size)
    raw = torch.from_numpy(case["input"]).requires_grad_()
    outputs = region_layer.region_outputs(raw, case)
    encoded = TargetEncoder(ResponsibleCellMatcher(), YoloBoxCoder())(
        region_layer.region_targets(case["truth"], size), grid
    )
    return raw, outputs, encoded, grid


@pytest.mark.parametrize("name", ["voc13_many", "batch4_mixed"])
def test_region_2016_is_darknets_without_the_weight_of_small_boxes(name):
    """Darknet's recorded gradients, those of a positive anchor's box divided by its 2 - w h."""
    raw, outputs, encoded, grid = region_setup(name)
    case = REGION[name]
    names = ("coord_scale", "object_scale", "noobject_scale", "class_scale")
    loss = preset_loss("region_2016", ignore_iou=case["thresh"], **{key: case[key] for key in names})
    loss.images_seen += case["seen"] - case["batch"]
    (case["batch"] * sum(loss(outputs, encoded, grid).values())).backward()
    size_wh = torch.tensor([grid.size[1], grid.size[0]])
    wh = (encoded.boxes[..., 2:] - encoded.boxes[..., :2]) / size_wh  # (B, A, 2), relative to the input
    factor = torch.where(encoded.positive, 2 - wh.prod(-1), 1)  # (B, A)
    delta = by_anchor(torch.from_numpy(case["delta_in"]), case["classes"]).clone()
    delta[..., :4] /= factor[..., None]
    assert factor.max() > 1.5
    assert_close(-by_anchor(raw.grad, case["classes"]), delta, atol=3e-5, rtol=1e-5)


def by_anchor(channels: torch.Tensor, classes: int) -> torch.Tensor:
    """(B, K * (5 + C), H, W), a region layer's layout -> (B, A, 5 + C)."""
    return channels.unflatten(1, (-1, 5 + classes)).permute(0, 3, 4, 1, 2).flatten(1, 3)


def test_each_option_changes_its_own_terms():
    """Settings changed one by one, among them those in which the course differs: the terms that change."""
    _, outputs, encoded, grid = region_setup("batch4_mixed")
    highest_iou = (
        pairwise_iou(encoded.targets.boxes, YoloBoxCoder().decode(outputs.offsets, grid)).max().item()
    )
    default = RegionLoss(ignore_iou=highest_iou)(outputs, encoded, grid)
    cases = {
        "box_error": ("cells", {"box", "prior"}),
        "weigh_small_boxes": (False, {"box"}),
        "normalizer": ("anchors", {"box", "prior", "object", "noobject", "class"}),
        "iou_gradient": (True, set()),
        "prior_scale": (1.0, {"prior"}),
        "prior_images": (0, {"prior"}),
        "prior_boxes": ("all", {"box"}),
        "class_weights": ([0.5] * outputs.class_logits.shape[-1], {"class"}),
        "coord_scale": (2.0, {"box"}),
        "class_scale": (2.0, {"class"}),
        "object_scale": (2.0, {"object"}),
        "noobject_scale": (2.0, {"noobject"}),
        "objectness_target": ("one", {"object"}),
    }
    for name, (value, expected) in cases.items():
        terms = RegionLoss(**{"ignore_iou": highest_iou, name: value})(outputs, encoded, grid)
        assert {key for key in terms if differs(terms[key].item(), default[key].item())} == expected, name


def differs(value: float, reference: float) -> bool:
    return abs(value - reference) > 1e-6 * max(abs(reference), 1e-3)


OPTIONS = {
    "defaults": {},
    "scales": {"coord_scale": 2.0, "object_scale": 3.0, "noobject_scale": 0.5, "class_scale": 0.3},
    "cells": {"box_error": "cells"},
    "equal": {"weigh_small_boxes": False},
    "anchors": {"normalizer": "anchors"},
    "one": {"objectness_target": "one"},
    "iou_gradient": {"iou_gradient": True},
    "ignore": {"ignore_iou": 0.2, "ignore_at_limit": True},
    "last_truths": {"ignore_iou": 0.2, "ignore_truths": 2},
    "all": {"prior_boxes": "all"},
    "logistic": {"class_activation": "logistic"},
    "lowest": {"shared_class": "lowest", "class_weights": [0.5, 1.0, 2.0]},
}
OPTIONS["mixed"] = {name: value for options in OPTIONS.values() for name, value in options.items()}


def crowded(dtype: torch.dtype = torch.float32):
    """Outputs, targets and a grid of 27 anchors. Up to 12 boxes an image: some share an anchor."""
    generator = torch.Generator().manual_seed(4)
    grid = YoloAnchors([(0.8, 0.8), (1.0, 2.0), (2.5, 1.2)], 32)((96, 96))
    targets = oracles.random_targets(generator, batch=3, most=12, classes=3, size=(96, 96))
    offsets = torch.randn(3, 27, 4, generator=generator) / 3
    offsets[..., :2] = offsets[..., :2].sigmoid()
    others = torch.randn(3, 27, 4, generator=generator)
    outputs = HeadOutputs(*(x.to(dtype) for x in (offsets, others[..., :3], others[..., 3])))
    return outputs, replace(targets, boxes=targets.boxes.to(dtype)), grid


@pytest.mark.parametrize("early", [True, False], ids=["with prior", "later"])
@pytest.mark.parametrize("name", OPTIONS)
def test_each_option_equals_naive_loops(name, early):
    outputs, targets, grid = crowded()
    encoded = TargetEncoder(ResponsibleCellMatcher(), YoloBoxCoder())(targets, grid)
    loss = RegionLoss(**OPTIONS[name])
    loss.images_seen += 0 if early else loss.prior_images
    options = {key: value for key, value in OPTIONS[name].items() if key != "iou_gradient"}  # no number's
    naive = oracles.region_loss(outputs, targets, grid, prior_scale=0.01 * early, **options)
    terms = {key: term.item() for key, term in loss(outputs, encoded, grid).items()}
    assert (encoded.assigned >= 0).sum() > encoded.positive.sum()  # some boxes lost their anchor
    assert_close(terms, naive, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["mixed", "iou_gradient", "anchors", "logistic"])
def test_the_gradient_equals_differences(name):
    """iou_gradient: otherwise the IoU of the objectness target counts as a constant."""
    outputs, targets, grid = crowded(torch.float64)
    grid = replace(grid, **{key: getattr(grid, key).double() for key in ("boxes_cxcywh", "stride", "cell")})
    encoded = TargetEncoder(ResponsibleCellMatcher(), YoloBoxCoder())(targets, grid)
    loss = RegionLoss(**{**OPTIONS[name], "iou_gradient": True}).eval()

    def total(*tensors: torch.Tensor) -> torch.Tensor:
        return sum(loss(HeadOutputs(*tensors), encoded, grid).values())

    leaves = [x.requires_grad_() for x in (outputs.offsets, outputs.class_logits, outputs.objectness)]
    assert torch.autograd.gradcheck(total, leaves, fast_mode=True)


# Four predictions, one in each cell. Their IoUs with the boxes are 1 in the first cell, 30 / 34 in the second
# and 1/2 in the third.
FOUR_CELLS = YoloAnchors([(1.0, 1.0)], 32)((64, 64))
THREE_BOXES = oracles.pad_targets([[[0.0, 0, 32, 32], [34, 0, 66, 32], [0, 32, 32, 48]]])
FOUR_OFFSETS = torch.tensor([0.5, 0.5, 0.0, 0.0]).expand(1, 4, 4)


def pushed_down(**settings) -> list[bool]:
    """Which of the four predictions have a gradient that lowers their objectness."""
    grid = FOUR_CELLS
    encoded = TargetEncoder(ResponsibleCellMatcher(), YoloBoxCoder())(THREE_BOXES, grid)
    encoded = replace(encoded, matched=torch.full_like(encoded.matched, -1))  # only ignoring decides
    objectness = torch.zeros(1, 4, requires_grad=True)
    terms = RegionLoss(**settings)(HeadOutputs(FOUR_OFFSETS, torch.zeros(1, 4, 3), objectness), encoded, grid)
    terms["noobject"].backward()
    return (objectness.grad[0] != 0).tolist()


def test_which_predictions_are_ignored():
    assert pushed_down() == [False, False, True, True]
    assert pushed_down(ignore_iou=0.5) == [False, False, True, True]  # exactly half is not above
    assert pushed_down(ignore_iou=0.5, ignore_at_limit=True) == [False, False, False, True]
    assert pushed_down(ignore_truths=3) == [False, False, True, True]  # all three, also on the first anchor
    assert pushed_down(ignore_truths=2) == [True, False, True, True]  # the first box does not count
    assert pushed_down(ignore_truths=0) == [True] * 4


def test_an_iou_of_exactly_half_is_not_recalled():
    """iou > .5, as in Darknet and in the course."""
    encoded = TargetEncoder(ResponsibleCellMatcher(), YoloBoxCoder())(THREE_BOXES, FOUR_CELLS)
    outputs = HeadOutputs(FOUR_OFFSETS, torch.zeros(1, 4, 3), torch.full((1, 4), 5.0))
    statistics = RegionLoss().statistics(outputs, encoded, FOUR_CELLS)
    assert_close(statistics["recall"], torch.tensor(2 / 3))
    assert_close(statistics["confident_recall"], torch.tensor(2 / 3))


def test_the_class_of_a_shared_anchor():
    """Three boxes in one anchor: the last owns it, and the anchor learns its class or the lowest."""
    grid = YoloAnchors([(1.0, 1.0)], 32)((32, 32))
    targets = oracles.pad_targets([[[0.0, 0, 30, 30], [1, 1, 30, 30], [2, 2, 30, 30]]])
    targets.labels[:] = torch.tensor([2, 0, 1])
    encoded = TargetEncoder(ResponsibleCellMatcher(), YoloBoxCoder())(targets, grid)
    logits = torch.tensor([[[0.1, 0.7, -0.4]]])
    outputs = HeadOutputs(encoded.offsets, logits, torch.zeros(1, 1))
    weights = [2.0, 3.0, 5.0]
    for shared_class, label in (("last", 1), ("lowest", 0)):
        terms = RegionLoss(shared_class=shared_class, class_weights=weights)(outputs, encoded, grid)
        assert_close(terms["class"], -weights[label] * logits[0, 0].log_softmax(0)[label])


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"normalizer": "truths"}, "normalizer='truths': choose 'batch' (Darknet) or 'anchors' (the course)"),
        ({"box_error": "size"}, "box_error='size': choose 'log'"),
        ({"prior_boxes": "none"}, "prior_boxes='none': choose 'unassigned'"),
        ({"shared_class": "first"}, "shared_class='first': choose 'last'"),
        ({"class_weights": []}, "class_weights=[]: one number for each class"),
        ({"class_weights": [1.0, -1.0]}, "class_weights=[1.0, -1.0]: one number for each class"),
        ({"ignore_truths": -1}, "ignore_truths=-1: must be 0 or more"),
    ],
)
def test_bad_settings_are_refused(settings, text):
    with pytest.raises(ValueError) as error:
        RegionLoss(**settings)
    assert text in str(error.value)


def test_class_weights_for_another_number_of_classes_are_refused():
    _, outputs, encoded, grid = region_setup("voc13_many")
    with pytest.raises(ValueError, match="class_weights has 3 numbers, and the detector 20 classes"):
        RegionLoss(class_weights=[1.0, 2.0, 3.0])(outputs, encoded, grid)
