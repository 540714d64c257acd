"""RegionLoss against recordings of Darknet's region layer, MultiBoxLoss against Caffe's, number by number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from detectors.anchors import DefaultBoxes, YoloAnchors, ssd300_levels
from detectors.coders import SSDBoxCoder, YoloBoxCoder
from detectors.commands.verify import region_layer, ssd_recordings
from detectors.losses.multibox_loss import MultiBoxLoss
from detectors.losses.region_loss import RegionLoss
from detectors.matching import MultiBoxMatcher, ResponsibleCellMatcher
from detectors.structures import HeadOutputs, Targets
from detectors.targets import TargetEncoder
from tests import oracles, recorded

FIXTURES = Path(__file__).parent / "fixtures"
REGION = recorded.region_cases(FIXTURES)
SSD_CASES = sorted(path.stem for path in (FIXTURES / "ssd").glob("loss_*.npz"))
STRIDE = 32


def region_setup(case: dict) -> tuple[RegionLoss, TargetEncoder, YoloAnchors, tuple[int, int]]:
    loss = RegionLoss(
        coord_scale=case["coord_scale"],
        object_scale=case["object_scale"],
        noobject_scale=case["noobject_scale"],
        class_scale=case["class_scale"],
        ignore_iou=case["thresh"],
        objectness_target="iou" if case["rescore"] else "one",
        class_activation="softmax" if case["softmax"] else "logistic",
    )
    loss.images_seen += case["seen"] - case["batch"]  # the layer compares after the batch was counted
    encoder = TargetEncoder(
        ResponsibleCellMatcher(use_predicted_shapes=not case["bias_match"]), YoloBoxCoder()
    )
    anchors = np.asarray(case["anchors"]).reshape(-1, 2).tolist()
    return loss, encoder, YoloAnchors(anchors, STRIDE), (case["H"] * STRIDE, case["W"] * STRIDE)


@pytest.mark.parametrize("name", REGION)
def test_region_loss_equals_darknet(name):
    case = REGION[name]
    loss, encoder, anchors, size = region_setup(case)
    raw = torch.from_numpy(case["input"]).requires_grad_()
    outputs = region_layer.region_outputs(raw, case)
    grid = anchors(size)
    encoded = encoder(region_layer.region_targets(case["truth"], size), grid, outputs)
    terms = loss(outputs, encoded, grid)
    (case["batch"] * sum(terms.values())).backward()

    assert_close(-raw.grad, torch.from_numpy(case["delta_in"]), atol=3e-5, rtol=1e-5)
    names = ("truth_iou", "class_probability", "objectness", "no_objectness", "recall", "truths")
    numbers = loss.statistics(outputs, encoded, grid)
    stats = torch.stack([numbers[name] for name in names]).detach()
    assert_close(stats, torch.from_numpy(case["stats"]).float(), atol=2e-6, rtol=0, equal_nan=True)


@pytest.mark.parametrize("name", REGION)
def test_region_activation_equals_darknet(name):
    case = REGION[name]
    expected = region_layer.region_outputs(torch.logit(torch.from_numpy(case["output"]).double()), case)
    outputs = region_layer.region_outputs(torch.from_numpy(case["input"]), case)
    assert_close(outputs.offsets[..., :2], expected.offsets[..., :2].float(), atol=1e-5, rtol=0)
    activated = (
        torch.from_numpy(case["output"])
        .unflatten(1, (-1, 5 + case["classes"]))
        .permute(0, 3, 4, 1, 2)
        .flatten(1, 3)
    )
    assert_close(outputs.objectness.sigmoid(), activated[..., 4], atol=1e-5, rtol=0)
    classes = outputs.class_logits.softmax(-1) if case["softmax"] else outputs.class_logits.sigmoid()
    assert_close(classes, activated[..., 5:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["voc13_many", "batch4_mixed", "no_softmax"])
def test_region_loss_equals_naive_loops(name):
    """The terms, not only their gradient, against loops over cells and boxes written from the formula."""
    case = REGION[name]
    loss, encoder, anchors, size = region_setup(case)
    outputs = region_layer.region_outputs(torch.from_numpy(case["input"]), case)
    grid = anchors(size)
    targets = region_layer.region_targets(case["truth"], size)
    terms = loss(outputs, encoder(targets, grid), grid)
    naive = oracles.region_loss(
        outputs, targets, grid, class_activation="softmax" if case["softmax"] else "logistic"
    )
    assert_close(
        torch.stack([terms[key] for key in naive]), torch.tensor(list(naive.values())), rtol=2e-5, atol=1e-6
    )


def test_images_seen_counts_training_images_and_ends_the_prior_term():
    anchors = YoloAnchors([(1, 1)], STRIDE)
    grid = anchors((64, 64))
    encoder = TargetEncoder(ResponsibleCellMatcher(), YoloBoxCoder())
    outputs = HeadOutputs(torch.full((2, 4, 4), 0.3), torch.zeros(2, 4, 3), torch.zeros(2, 4))
    encoded = encoder(oracles.pad_targets([[], []]), grid)
    loss = RegionLoss(prior_images=5)
    steps = []
    for _ in range(3):
        has_prior = loss(outputs, encoded, grid)["prior"].item() > 0
        steps.append((has_prior, loss.images_seen.item()))
    assert steps == [(True, 2), (True, 4), (False, 6)]
    loss.eval()(outputs, encoded, grid)
    assert loss.images_seen.item() == 6
    assert "images_seen" not in loss.state_dict()  # a run stores it once, in its progress


def assert_same_but_for_ties(case, matched: torch.Tensor) -> None:
    """Positives equal Caffe's; a box with several best anchors (tie_sets) may have taken any of them."""
    caffe = {
        (int(image), int(anchor)): int(box)
        for (image, anchor), box in zip(case["caffe_pos"], case["caffe_pos_gt"], strict=True)
    }
    ours = {(b, a): int(matched[b, a]) for b, a in (matched >= 0).nonzero().tolist()}
    ties: dict[tuple[int, int], set[int]] = {}
    for image, box, anchor in case["tie_sets"].reshape(-1, 3).astype(int):
        ties.setdefault((image, box), set()).add(anchor)
    for (image, anchor), box in set(ours.items()) ^ set(caffe.items()):
        assert anchor in ties.get((image, box), ()), (
            f"image {image}: anchor {anchor} with box {box} is neither Caffe's nor a tie"
        )
    assert len(ours) == len(caffe)


@pytest.mark.parametrize("name", SSD_CASES)
def test_multibox_equals_caffe(name):
    case = np.load(FIXTURES / f"ssd/{name}.npz")
    grid = ssd_recordings.recorded_grid(case, FIXTURES / "ssd")
    offsets, logits = (x.requires_grad_() for x in ssd_recordings.predictions(case))
    encoded = TargetEncoder(MultiBoxMatcher(), SSDBoxCoder())(ssd_recordings.recorded_targets(case), grid)
    assert_same_but_for_ties(case, encoded.matched)
    terms = MultiBoxLoss()(HeadOutputs(offsets, logits), encoded, grid)
    sum(terms.values()).backward()

    image, anchor = case["caffe_pos"].reshape(-1, 2).astype(int).T
    same = (encoded.matched >= 0)[image, anchor].all()
    if not same:  # a tie fell the other way: its own offsets and row gradients differ, sums hardly do
        assert case["tie_sets"].size
        assert_close(terms["class"].item(), float(case["caffe_loss_conf"]), rtol=2e-2, atol=0)
        return
    expected_offsets = torch.from_numpy(case["caffe_pos_target"].reshape(-1, 4))
    assert_close(encoded.offsets[image, anchor], expected_offsets, atol=2e-4, rtol=1e-4)
    expected_labels = torch.from_numpy(case["caffe_pos_label"].astype(np.int64))
    assert_close(encoded.labels[image, anchor] + 1, expected_labels)
    assert_close(terms["box"].item(), float(case["caffe_loss_loc"]), rtol=1e-5, atol=1e-6)
    assert_close(terms["class"].item(), float(case["caffe_loss_conf"]), rtol=1e-5, atol=1e-6)
    check_gradients(case, "caffe", offsets.grad, logits.grad)


def check_gradients(case, program: str, offsets_grad: torch.Tensor, logits_grad: torch.Tensor) -> None:
    """program: the prefix of its numbers in the recording."""
    norms = torch.stack([offsets_grad.norm(), logits_grad.norm()])
    assert_close(norms, torch.from_numpy(case[f"{program}_grad_norms"]).float(), rtol=1e-4, atol=1e-6)
    image, anchor = case[f"{program}_pos"].reshape(-1, 2).astype(int).T
    expected = torch.from_numpy(case[f"{program}_grad_loc_pos"].reshape(-1, 4)).float()
    assert_close(offsets_grad[image, anchor], expected, atol=1e-5, rtol=1e-4)
    others = offsets_grad.clone()
    others[image, anchor] = 0
    assert not others.any()
    rows = {(b, a) for b, a in logits_grad.abs().sum(-1).nonzero().tolist()}
    recorded = np.concatenate([case[f"{program}_{kind}"].reshape(-1, 2) for kind in ("pos", "neg")])
    assert rows == {(b, a) for b, a in recorded.astype(int).tolist()}
    for kind in ("pos", "neg"):
        if f"{program}_grad_conf_{kind}" in case.files:
            image, anchor = case[f"{program}_{kind}"].reshape(-1, 2).astype(int).T
            expected = case[f"{program}_grad_conf_{kind}"].reshape(-1, logits_grad.shape[-1])
            assert_close(logits_grad[image, anchor], torch.from_numpy(expected).float(), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_multibox_equals_naive_loops(seed):
    generator = torch.Generator().manual_seed(seed)
    targets = oracles.random_targets(generator, batch=3, most=9, classes=4, size=(300, 300))
    grid = DefaultBoxes(ssd300_levels()[2:], (300, 300))((300, 300))
    outputs = HeadOutputs(
        torch.randn(3, grid.num_anchors, 4, generator=generator),
        2 * torch.randn(3, grid.num_anchors, 5, generator=generator),
    )
    encoded = TargetEncoder(MultiBoxMatcher(), SSDBoxCoder())(targets, grid)
    terms = MultiBoxLoss()(outputs, encoded, grid)
    naive = oracles.multibox_loss(outputs, targets, grid, SSDBoxCoder().variances.tolist())
    assert_close(
        torch.stack([terms[key] for key in naive]), torch.tensor(list(naive.values())), rtol=1e-5, atol=1e-6
    )


def awkward_targets() -> dict[str, Targets]:
    """Batches that occur in real data: see the names. The input is 96 x 96."""
    many = torch.rand(300, 2, generator=torch.Generator().manual_seed(0)) * 80
    boxes = {
        "one_image_empty": [[[10.0, 10, 40, 50]], []],
        "none": [[], []],
        "border": [[[0.0, 0, 96, 96], [64, 64, 96, 96]], [[95, 95, 96, 96.0]]],
        "one_pixel": [[[50.0, 50, 51, 51]], [[0.0, 0, 1, 1]]],
        "three_hundred": [torch.cat([many, many + 12], 1).tolist(), [[1.0, 2, 30, 40]]],
    }
    return {name: oracles.pad_targets(images) for name, images in boxes.items()}


@pytest.mark.parametrize("name", awkward_targets())
@pytest.mark.parametrize("family", ["yolov2", "ssd"])
def test_awkward_batches_are_finite_and_right(family, name):
    targets = awkward_targets()[name]
    generator = torch.Generator().manual_seed(1)
    if family == "yolov2":
        grid = YoloAnchors([(1.0, 1.0), (2.0, 3.0)], 16)((96, 96))
        loss = RegionLoss()
        encoder = TargetEncoder(ResponsibleCellMatcher(), YoloBoxCoder())
        raw = torch.randn(2, grid.num_anchors, 4 + 3, generator=generator).requires_grad_()
        offsets = torch.cat([raw[..., :2].sigmoid(), raw[..., 2:4]], -1)
        objectness = torch.randn(2, grid.num_anchors, generator=generator)
        outputs = HeadOutputs(offsets, raw[..., 4:], objectness)
        naive = oracles.region_loss(outputs, targets, grid, prior_scale=0.01)
    else:
        grid = oracles.small_ssd_grid((96, 96))
        loss = MultiBoxLoss()
        encoder = TargetEncoder(MultiBoxMatcher(), SSDBoxCoder())
        raw = torch.randn(2, grid.num_anchors, 4 + 1 + 3, generator=generator).requires_grad_()
        outputs = HeadOutputs(raw[..., :4], raw[..., 4:])
        naive = oracles.multibox_loss(outputs, targets, grid, SSDBoxCoder().variances.tolist())
    terms = loss(outputs, encoder(targets, grid, outputs), grid)
    sum(terms.values()).backward()
    assert raw.grad.isfinite().all()
    assert all(term.isfinite() for term in terms.values())
    assert_close(
        torch.stack([terms[key] for key in naive]).detach(),
        torch.tensor(list(naive.values())),
        rtol=1e-4,
        atol=1e-6,
    )


def test_a_box_without_area_matches_nothing():
    targets = oracles.pad_targets([[[10.0, 10, 10, 30], [20, 20, 60, 60]]])
    for grid, matcher in (
        (YoloAnchors([(1.0, 1.0)], 16)((96, 96)), ResponsibleCellMatcher()),
        (oracles.small_ssd_grid((96, 96)), MultiBoxMatcher()),
    ):
        matches = matcher(targets, grid)
        assert matches.assigned[0, 0].item() == -1
        assert matches.assigned[0, 1].item() >= 0
        assert not (matches.matched == 0).any()
