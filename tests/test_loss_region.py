"""The options of RegionLoss one by one, and loss=region_2016. The default options are in test_losses.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from detectors.anchors import YoloAnchors
from detectors.coders import YoloBoxCoder
from detectors.commands.verify import region_layer
from detectors.commands.verify.presets import preset_loss
from detectors.losses import RegionLoss
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
    """Darknet's recorded gradient of a positive anchor's box, divided by its 2 - w h; all other gradients as
    recorded.
    """
    raw, outputs, encoded, grid = region_setup(name)
    case = REGION[name]
    names = ("coord_scale", "object_scale", "noobject_scale", "class_scale")
    loss = preset_loss("region_2016", ignore_iou=case["thresh"], **{key: case[key] for key in names})
    loss.images_seen += case["seen"] - case["batch"]
    (case["batch"] * sum(loss(outputs, encoded, grid).values())).backward()
    wh = (encoded.boxes[..., 2:] - encoded.boxes[..., :2]) / torch.tensor(
        [grid.size[1], grid.size[0]]
    )  # relative
    factor = torch.where(encoded.positive, 2 - wh.prod(-1), 1)  # (B, A)
    entries = 5 + case["classes"]
    delta = (
        torch.from_numpy(case["delta_in"])
        .unflatten(1, (-1, entries))
        .permute(0, 3, 4, 1, 2)
        .flatten(1, 3)
        .clone()
    )
    delta[..., :4] /= factor[..., None]
    found = raw.grad.unflatten(1, (-1, entries)).permute(0, 3, 4, 1, 2).flatten(1, 3)
    assert factor.max() > 1.5
    assert_close(-found, delta, atol=3e-5, rtol=1e-5)


def test_each_option_changes_its_own_terms():
    """Every setting in which the course's preset differs from Darknet's, alone: which terms it moves."""
    _, outputs, encoded, grid = region_setup("batch4_mixed")
    limit = (
        RegionLoss()._box_iou(outputs, encoded, grid).max().item()
    )  # an IoU that some prediction has exactly
    plain = {
        name: value.item() for name, value in RegionLoss(ignore_iou=limit)(outputs, encoded, grid).items()
    }
    moved = {
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
    for name, (value, expected) in moved.items():
        terms = RegionLoss(**{"ignore_iou": limit, name: value})(outputs, encoded, grid)
        changed = {
            key
            for key, term in terms.items()
            if abs(term.item() - plain[key]) > 1e-6 * max(abs(plain[key]), 1e-3)
        }
        assert changed == expected, name


def ignoring(**settings) -> list[bool]:
    """Which of four predictions, one in each cell, are pushed down: truths cover one exactly, one by 30 / 34
    and one by half.
    """
    grid = YoloAnchors([(1.0, 1.0)], 32)((64, 64))
    targets = oracles.pad_targets([[[0.0, 0, 32, 32], [34, 0, 66, 32], [0, 32, 32, 48]]])
    encoded = TargetEncoder(ResponsibleCellMatcher(), YoloBoxCoder())(targets, grid)
    matched = torch.full_like(encoded.matched, -1)  # nobody's, so that only ignoring decides
    encoded = type(encoded)(
        matched, encoded.assigned, encoded.boxes, encoded.offsets, encoded.labels, targets
    )
    objectness = torch.zeros(1, 4, requires_grad=True)
    offsets = torch.tensor([0.5, 0.5, 0.0, 0.0]).expand(1, 4, 4)
    RegionLoss(**settings)(HeadOutputs(offsets, torch.zeros(1, 4, 3), objectness), encoded, grid)[
        "noobject"
    ].backward()
    return (objectness.grad[0] != 0).tolist()


def test_who_is_ignored():
    assert ignoring() == [False, False, True, True]
    assert ignoring(ignore_iou=0.5) == [False, False, True, True]  # exactly half is not above
    assert ignoring(ignore_iou=0.5, ignore_at_limit=True) == [False, False, False, True]
    assert ignoring(ignore_truths=2) == [True, False, True, True]  # the first truth is forgotten
    assert ignoring(ignore_truths=0) == [True] * 4


def test_the_class_of_a_shared_anchor():
    """Three truths in one anchor: the last owns the box, and its class or the lowest is learnt."""
    grid = YoloAnchors([(1.0, 1.0)], 32)((32, 32))
    targets = oracles.pad_targets([[[0.0, 0, 30, 30], [1, 1, 30, 30], [2, 2, 30, 30]]])
    targets.labels[:] = torch.tensor([2, 0, 1])
    encoded = TargetEncoder(ResponsibleCellMatcher(), YoloBoxCoder())(targets, grid)
    logits = torch.tensor([[[0.1, 0.7, -0.4]]])
    outputs = HeadOutputs(encoded.offsets, logits, torch.zeros(1, 1))
    for shared, label in (("last", 1), ("lowest", 0)):
        weights = [2.0, 3.0, 5.0]
        found = RegionLoss(shared_class=shared, class_weights=weights)(outputs, encoded, grid)["class"]
        assert_close(found, -weights[label] * logits[0, 0].log_softmax(0)[label])


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
def test_nonsense_is_refused(settings, text):
    with pytest.raises(ValueError) as error:
        RegionLoss(**settings)
    assert text in str(error.value)


def test_class_weights_of_another_number_of_classes():
    _, outputs, encoded, grid = region_setup("voc13_many")
    with pytest.raises(ValueError, match="class_weights has 3 numbers, and the detector 20 classes"):
        RegionLoss(class_weights=[1.0, 2.0, 3.0])(outputs, encoded, grid)
