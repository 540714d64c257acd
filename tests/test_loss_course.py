"""loss=region_keras against what the Keras course computed; loss=region against Darknet on the same cases."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from detectors.anchors import YoloAnchors
from detectors.boxes import xyxy_to_cxcywh
from detectors.coders import YoloBoxCoder
from detectors.commands.verify import keras_course
from detectors.commands.verify.presets import preset_loss
from detectors.losses.region_loss import RegionLoss
from detectors.matching import ResponsibleCellMatcher
from detectors.structures import HeadOutputs
from detectors.targets import TargetEncoder
from tests import oracles, recorded

FIXTURES = Path(__file__).parent / "fixtures"
COURSE = recorded.course_cases(FIXTURES)
# The recordings of frontend.py hold less.
NOTEBOOK = [name for name, case in COURSE.items() if case["about"]["source"] == "notebook"]
SIGMOID = (0, 1, 4)  # x, y and objectness, which the network outputs before the sigmoid


def course_loss(case: dict, **changes) -> RegionLoss:
    """The preset with a recording's settings, in float64."""
    return keras_course.course_loss(case, case["about"]["source"] == "frontend", **changes)


def course_setup(case: dict):
    """Raw predictions with a gradient, and the arguments of the loss; all in float64."""
    raw = torch.from_numpy(case["y_pred"]).double().requires_grad_()
    outputs = keras_course.course_outputs(raw)
    grid = keras_course.grid_of(case)
    encoded = TargetEncoder(ResponsibleCellMatcher(), YoloBoxCoder())(keras_course.targets_of(case), grid)
    return raw, outputs, encoded, grid


def centres_only(outputs: HeadOutputs, encoded) -> HeadOutputs:
    """The same outputs, except that the sizes are the targets', so that only centres have an error."""
    offsets = torch.cat([outputs.offsets[..., :2], encoded.offsets[..., 2:]], -1)
    return HeadOutputs(offsets, outputs.class_logits, outputs.objectness)


def assert_near(actual: torch.Tensor, expected) -> None:
    """Within 1e-9, absolute and relative."""
    expected = torch.as_tensor(expected, dtype=torch.float64)
    assert_close(actual.detach(), expected, atol=1e-9, rtol=1e-9)


def test_no_recording_of_the_course_is_missing():
    assert len(COURSE) == 15
    assert sum(case["about"]["steps"] for case in COURSE.values()) == 18


@pytest.mark.parametrize("name", COURSE)
def test_matching_equals_the_course(name):
    """The y_true of its batch generator: which anchors have a box, and which box."""
    case = COURSE[name]
    _, _, encoded, grid = course_setup(case)
    (level,) = grid.levels
    image, row, column, shape = case["y_true_index_bhwa"].T.astype(int)
    anchor = (row * level.columns + column) * level.per_location + shape
    assert set(zip(image, anchor, strict=True)) == {tuple(x) for x in encoded.positive.nonzero().tolist()}
    boxes_cells = xyxy_to_cxcywh(encoded.boxes[image, anchor]) / level.stride
    assert_near(boxes_cells, case["y_true_values"][:, :4])


@pytest.mark.parametrize("name", COURSE)
def test_region_keras_equals_the_course(name):
    """Loss, its four parts, gradient and normalisers, step by step through the warm-up.

    During the warm-up, frontend.py adds 10 to the loss it reports.
    """
    case = COURSE[name]
    raw, outputs, encoded, grid = course_setup(case)
    loss = course_loss(case)
    batch_loss = course_loss(case, normalizer="batch")
    for step in range(1, case["about"]["steps"] + 1):
        terms = loss(outputs, encoded, grid)
        batch_terms = batch_loss(outputs, encoded, grid)
        early = bool(loss.images_seen < loss.prior_images)
        total = sum(terms.values())
        added = 10 if early and case["about"]["source"] == "frontend" else 0
        assert_near(total + added, case[f"step{step}_loss"])
        (gradient,) = torch.autograd.grad(total, raw, retain_graph=True)
        assert_near(gradient, case[f"step{step}_grad"])

        centre = parts_without_counting(loss, centres_only(outputs, encoded), encoded, grid)["box"]
        parts = course_parts(terms)
        batch_parts = course_parts(batch_terms)
        assert_near(centre, case[f"step{step}_loss_xy"])
        assert_near(parts["box"] - centre, case[f"step{step}_loss_wh"])
        assert_near(parts["objectness"], case[f"step{step}_loss_conf"])
        assert_near(parts["class"], case[f"step{step}_loss_class"])
        for part, key in (("box", "coord"), ("objectness", "conf"), ("class", "class")):
            count = float(case[f"step{step}_nb_{key}_box"])
            assert_near(batch_parts[part] * len(raw), parts[part] * (count + 1e-6))


def course_parts(terms: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our five terms, summed to the course's three parts."""
    return {
        "box": terms["box"] + terms["prior"],
        "objectness": terms["object"] + terms["noobject"],
        "class": terms["class"],
    }


def parts_without_counting(loss: RegionLoss, outputs: HeadOutputs, encoded, grid) -> dict[str, torch.Tensor]:
    """The parts of the same step once more: in evaluation mode the loss does not count images."""
    loss.eval()
    parts = course_parts(loss(outputs, encoded, grid))
    loss.train()
    return parts


@pytest.mark.parametrize("name", NOTEBOOK)
def test_iou_gradient_is_an_option_of_its_own(name):
    case = COURSE[name]
    raw, outputs, encoded, grid = course_setup(case)
    loss = course_loss(case, iou_gradient=False)
    for step in range(1, case["about"]["steps"] + 1):
        (gradient,) = torch.autograd.grad(sum(loss(outputs, encoded, grid).values()), raw, retain_graph=True)
        assert_near(gradient, case[f"step{step}_grad_stopgrad_iou"])


@pytest.mark.parametrize("name", COURSE)
def test_ignored_predictions_equal_the_courses(name):
    """The gradient of the objectness terms alone, which depend on ignore_iou and ignore_truths."""
    case = COURSE[name]
    raw, outputs, encoded, grid = course_setup(case)
    terms = course_loss(case)(outputs, encoded, grid)
    (gradient,) = torch.autograd.grad(terms["object"] + terms["noobject"], raw)
    assert_near(gradient, case["grad_conf_only"])
    pushed = (gradient.flatten(1, 3)[..., 4] != 0) & ~encoded.positive
    assert_close(pushed, torch.from_numpy(case["conf_mask"] != 0).flatten(1) & ~encoded.positive)


@pytest.mark.parametrize("seen", [0, 20000])
@pytest.mark.parametrize("name", NOTEBOOK)
def test_region_equals_darknet_on_the_courses_cases(name, seen):
    """The same predictions and boxes through Darknet's layer, recorded beside the course's numbers."""
    case = COURSE[name]
    raw, outputs, encoded, grid = course_setup(case)
    loss = preset_loss("region", **dict(zip(keras_course.SCALE_NAMES, case["scales"].tolist(), strict=True)))
    loss.images_seen += seen - len(raw)
    (len(raw) * sum(loss(outputs, encoded, grid).values())).backward()
    delta = torch.from_numpy(case[f"darknet_delta_seen{seen}"]).double()
    slope = torch.ones_like(delta)
    slope[..., SIGMOID] = (raw.sigmoid() * (1 - raw.sigmoid()))[..., SIGMOID].detach()
    assert_close(raw.grad, -delta * slope, atol=1e-4, rtol=0)
    assert_close(delta.pow(2).sum().item(), float(case[f"darknet_cost_seen{seen}"]), rtol=1e-4, atol=0)


def test_the_recall_that_the_course_prints():
    """The share of positive anchors with IoU > .5 and objectness > .3.

    A box that lost its anchor does not count.
    """
    grid = YoloAnchors([(1.0, 1.0)], 32)((64, 64))
    targets = oracles.pad_targets([[[0.0, 0, 32, 32], [0, 0, 30, 30], [32, 0, 64, 32]], [[32.0, 32, 64, 64]]])
    encoded = TargetEncoder(ResponsibleCellMatcher(), YoloBoxCoder())(targets, grid)
    offsets = encoded.offsets.clone()
    offsets[1, 3, 2:] = -1  # IoU exp(-2)
    objectness = torch.full((2, 4), 3.0)
    outputs = HeadOutputs(offsets, torch.zeros(2, 4, 3), objectness)
    loss = preset_loss("region_keras")
    assert_close(loss.statistics(outputs, encoded, grid)["confident_recall"], torch.tensor(2 / 3))
    objectness[0, 1] = -1.0  # a sigmoid below .3
    numbers = loss.statistics(outputs, encoded, grid)
    assert_close(numbers["confident_recall"], torch.tensor(1 / 3))
    assert_close(numbers["recall"], torch.tensor(3 / 4))  # Darknet's counts all four boxes at any objectness
