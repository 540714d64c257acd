"""loss=region_keras against what the Keras course computed, number by number; and loss=region against Darknet
on the same cases.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from detectors.anchors import YoloAnchors
from detectors.coders import YoloBoxCoder
from detectors.commands.verify import keras_course
from detectors.commands.verify.presets import preset_loss
from detectors.losses import RegionLoss
from detectors.matching import ResponsibleCellMatcher
from detectors.structures import HeadOutputs
from detectors.targets import TargetEncoder
from tests import oracles, recorded

FIXTURES = Path(__file__).parent / "fixtures"
COURSE = recorded.course_cases(FIXTURES)
NOTEBOOK = [
    name for name, case in COURSE.items() if case["about"]["source"] == "notebook"
]  # frontend.py recorded less
SIGMOID = (0, 1, 4)  # x, y and objectness, which the network gives before the sigmoid


def course_loss(case: dict, **changes) -> RegionLoss:
    """The preset with a recording's settings, in float64.

    The course counts batches: the notebook's last one of the warm-up is W - 1, that of frontend.py is W.
    """
    scales = dict(
        zip(
            ("object_scale", "noobject_scale", "class_scale", "coord_scale"),
            case["scales"].tolist(),
            strict=True,
        )
    )
    batches = int(case["warm_up_batches"]) + (case["about"]["source"] == "frontend")
    settings = {
        "class_weights": case["class_weights"].tolist(),
        "ignore_truths": int(case["true_box_buffer"]),
        "prior_images": batches * len(case["y_pred"]),
    }
    return preset_loss("region_keras", **scales, **settings, **changes).double()


def course_setup(case: dict):
    """Raw predictions that want a gradient, and what the loss takes; all in float64."""
    raw = torch.from_numpy(case["y_pred"]).double().requires_grad_()
    outputs, grid = keras_course.course_outputs(raw), keras_course.grid_of(case)
    encoded = TargetEncoder(ResponsibleCellMatcher(), YoloBoxCoder())(keras_course.targets_of(case), grid)
    return raw, outputs, encoded, grid


def centres_only(outputs: HeadOutputs, encoded) -> HeadOutputs:
    """Outputs whose sizes are right."""
    return HeadOutputs(
        torch.cat([outputs.offsets[..., :2], encoded.offsets[..., 2:]], -1),
        outputs.class_logits,
        outputs.objectness,
    )


def near(found: torch.Tensor, expected) -> None:
    """Within 1e-9, absolute and relative."""
    expected = torch.as_tensor(expected, dtype=torch.float64)
    assert_close(found.detach(), expected, atol=1e-9, rtol=1e-9)


def test_all_recordings_of_the_course_are_there():
    assert len(COURSE) == 15
    assert sum(case["about"]["steps"] for case in COURSE.values()) == 18


@pytest.mark.parametrize("name", COURSE)
def test_matching_equals_the_course(name):
    """Its batch generator's y_true: which anchors have a truth, and the lowest of their classes."""
    case = COURSE[name]
    _, _, encoded, grid = course_setup(case)
    (level,) = grid.levels
    image, row, column, anchor = case["y_true_index_bhwa"].T.astype(int)
    place = (row * level.columns + column) * level.per_location + anchor
    assert set(zip(image, place, strict=True)) == {tuple(x) for x in encoded.positive.nonzero().tolist()}
    wanted = torch.from_numpy(case["y_true_values"])
    boxes_cells = (
        torch.cat(
            [
                encoded.boxes[..., :2] + encoded.boxes[..., 2:],
                2 * (encoded.boxes[..., 2:] - encoded.boxes[..., :2]),
            ],
            -1,
        )
        / 2
    )
    near(boxes_cells[image, place] / level.stride, wanted[:, :4])


@pytest.mark.parametrize("name", COURSE)
def test_region_keras_equals_the_course(name):
    """Loss, its four parts, gradient and normalisers, step by step through the warm-up.

    There, frontend.py adds 10 to the number.
    """
    case = COURSE[name]
    raw, outputs, encoded, grid = course_setup(case)
    loss, plain = course_loss(case), course_loss(case, normalizer="batch")
    for step in range(1, case["about"]["steps"] + 1):
        terms, sums = loss(outputs, encoded, grid), plain(outputs, encoded, grid)
        early = bool(loss.images_seen < loss.prior_images)
        total = sum(terms.values())
        near(total + 10 * (early and case["about"]["source"] == "frontend"), case[f"step{step}_loss"])
        (gradient,) = torch.autograd.grad(total, raw, retain_graph=True)
        near(gradient, case[f"step{step}_grad"])

        centre = parts_of(loss, centres_only(outputs, encoded), encoded, grid)["box"]
        parts, totals = gathered(terms), gathered(sums)
        near(centre, case[f"step{step}_loss_xy"])
        near(parts["box"] - centre, case[f"step{step}_loss_wh"])
        near(parts["objectness"], case[f"step{step}_loss_conf"])
        near(parts["class"], case[f"step{step}_loss_class"])
        for part, key in (("box", "coord"), ("objectness", "conf"), ("class", "class")):
            count = float(case[f"step{step}_nb_{key}_box"])
            near(totals[part] * len(raw), parts[part] * (count + 1e-6))


def gathered(terms: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our five terms as the course's kinds."""
    return {
        "box": terms["box"] + terms["prior"],
        "objectness": terms["object"] + terms["noobject"],
        "class": terms["class"],
    }


def parts_of(loss: RegionLoss, outputs: HeadOutputs, encoded, grid) -> dict[str, torch.Tensor]:
    """The same step once more: in evaluation mode nothing is counted."""
    loss.eval()
    parts = gathered(loss(outputs, encoded, grid))
    loss.train()
    return parts


@pytest.mark.parametrize("name", NOTEBOOK)
def test_iou_gradient_is_an_option_of_its_own(name):
    case = COURSE[name]
    raw, outputs, encoded, grid = course_setup(case)
    loss = course_loss(case, iou_gradient=False)
    for step in range(1, case["about"]["steps"] + 1):
        (gradient,) = torch.autograd.grad(sum(loss(outputs, encoded, grid).values()), raw, retain_graph=True)
        near(gradient, case[f"step{step}_grad_stopgrad_iou"])


@pytest.mark.parametrize("name", COURSE)
def test_ignored_predictions_equal_the_courses(name):
    """The gradient of the objectness terms alone, which are those that ignoring and the buffer of truths
    decide.
    """
    case = COURSE[name]
    raw, outputs, encoded, grid = course_setup(case)
    terms = course_loss(case)(outputs, encoded, grid)
    (gradient,) = torch.autograd.grad(terms["object"] + terms["noobject"], raw)
    near(gradient, case["grad_conf_only"])
    pushed = (gradient.flatten(1, 3)[..., 4] != 0) & ~encoded.positive
    assert_close(pushed, torch.from_numpy(case["conf_mask"] != 0).flatten(1) & ~encoded.positive)


@pytest.mark.parametrize("seen", [0, 20000])
@pytest.mark.parametrize("name", NOTEBOOK)
def test_region_equals_darknet_on_the_courses_cases(name, seen):
    """The same predictions and truths through Darknet's layer, recorded beside the course's numbers."""
    case = COURSE[name]
    raw, outputs, encoded, grid = course_setup(case)
    names = ("object_scale", "noobject_scale", "class_scale", "coord_scale")
    loss = preset_loss("region", **dict(zip(names, case["scales"].tolist(), strict=True)))
    loss.images_seen += seen - len(raw)
    (len(raw) * sum(loss(outputs, encoded, grid).values())).backward()
    delta = torch.from_numpy(case[f"darknet_delta_seen{seen}"]).double()
    slope = torch.ones_like(delta)
    slope[..., SIGMOID] = (raw.sigmoid() * (1 - raw.sigmoid()))[..., SIGMOID].detach()
    assert_close(raw.grad, -delta * slope, atol=1e-4, rtol=0)
    assert_close(
        delta.pow(2).sum(), torch.tensor(float(case[f"darknet_cost_seen{seen}"])).double(), rtol=1e-4, atol=0
    )


def test_the_recall_that_the_course_prints():
    """Of the positive anchors, those with IoU > .5 and objectness > .3; a truth that lost its anchor does not
    count.
    """
    grid = YoloAnchors([(1.0, 1.0)], 32)((64, 64))
    targets = oracles.pad_targets([[[0.0, 0, 32, 32], [0, 0, 30, 30], [32, 0, 64, 32]], [[32.0, 32, 64, 64]]])
    encoded = TargetEncoder(ResponsibleCellMatcher(), YoloBoxCoder())(targets, grid)
    offsets = encoded.offsets.clone()
    offsets[1, 3, 2:] = -1  # IoU exp(-2)
    objectness = torch.full((2, 4), 3.0)
    numbers = preset_loss("region_keras").statistics(
        HeadOutputs(offsets, torch.zeros(2, 4, 3), objectness), encoded, grid
    )
    assert_close(numbers["confident_recall"], torch.tensor(2 / 3))
    objectness[0, 1] = -1.0  # below .3
    numbers = preset_loss("region_keras").statistics(
        HeadOutputs(offsets, torch.zeros(2, 4, 3), objectness), encoded, grid
    )
    assert_close(numbers["confident_recall"], torch.tensor(1 / 3))
    assert_close(
        numbers["recall"], torch.tensor(3 / 4)
    )  # Darknet's: all four truths, whatever their objectness
