"""The region kernel against RegionLoss.reference: terms and gradients.

The tolerances allow for the order of sums and the last digits of exp and log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from detectors.anchors import YOLO_ANCHORS, YoloAnchors
from detectors.coders import YoloBoxCoder
from detectors.kernels import region_kernel
from detectors.losses.region_loss import RegionLoss
from detectors.matching import ResponsibleCellMatcher
from detectors.structures import AnchorGrid, EncodedTargets, HeadOutputs, Targets
from detectors.targets import TargetEncoder
from detectors.training import compilation
from tests import oracles
from tests.host_reads import NoHostReads
from tests.training import test_compiled_step as compiled_steps

TERMS = {"rtol": 2e-6, "atol": 1e-7}
GRADIENTS = {"rtol": 5e-6, "atol": 1e-7}
WEIGHTS = (1.0, 2.0, 0.5, 3.0, 0.25)  # upstream gradients: each term has its own
Case = tuple[HeadOutputs, EncodedTargets, AnchorGrid]


def encoded_targets(targets: Targets, grid: AnchorGrid, device: torch.device) -> Case:
    encoder = TargetEncoder(ResponsibleCellMatcher(), YoloBoxCoder())
    return encoder(targets.to(device), grid.to(device))


def random_case(
    device: torch.device, *, batch: int, size: tuple[int, int], classes: int, most: int, seed: int = 0
) -> Case:
    """Predictions near the anchors, some of which overlap a box by more than .6."""
    generator = torch.Generator().manual_seed(seed)
    grid = YoloAnchors(YOLO_ANCHORS["voc"], 32)(size)
    targets = oracles.random_targets(generator, batch=batch, most=most, classes=classes, size=size)
    encoded = encoded_targets(targets, grid, device)
    shape = (batch, grid.num_anchors)
    offsets = torch.randn(*shape, 4, generator=generator) * 0.3
    offsets[..., :2] = (4 * offsets[..., :2]).sigmoid()
    logits = 3 * torch.randn(*shape, classes, generator=generator)
    objectness = 2 * torch.randn(shape, generator=generator)
    return HeadOutputs(offsets, logits, objectness).to(device), encoded, grid.to(device)


def result(loss: RegionLoss, case: Case, weights: Sequence[float] = WEIGHTS) -> tuple[dict, list[Tensor]]:
    """Terms, and the gradients of their weighted sum with respect to each of the head's outputs."""
    outputs, encoded, grid = case
    leaves = [
        x.detach().requires_grad_() for x in (outputs.offsets, outputs.class_logits, outputs.objectness)
    ]
    terms = loss(HeadOutputs(*leaves), encoded, grid)
    sum(weight * term for weight, term in zip(weights, terms.values(), strict=True)).backward()
    zeros = [torch.zeros_like(x) if x.grad is None else x.grad for x in leaves]
    return {name: term.detach() for name, term in terms.items()}, zeros


def both_versions(case: Case, kernels, **settings) -> list[tuple[dict, list[Tensor]]]:
    """The results of the kernel and of the reference."""
    results = []
    for choice in ("triton", "reference"):
        kernels(choice)
        results.append(result(RegionLoss(**settings), case))
    return results


def assert_equal_versions(case: Case, kernels, **settings) -> dict[str, Tensor]:
    """The kernel's terms, which equal the reference's."""
    (terms, gradients), (expected, expected_gradients) = both_versions(case, kernels, **settings)
    assert list(terms) == list(expected)
    assert_close(terms, expected, **TERMS, equal_nan=True)
    assert_close(gradients, expected_gradients, **GRADIENTS, equal_nan=True)
    return terms


SMALL = {"batch": 2, "size": (96, 64), "classes": 3, "most": 5}
SETTINGS = {
    "darknet": {},
    "without the prior": {"prior_images": 2},  # the batch's own images end it
    "2016": {"weigh_small_boxes": False},
    "tiny, coco": {"objectness_target": "one"},
    "scales": {
        "coord_scale": 0.3,
        "object_scale": 0.7,
        "noobject_scale": 1.3,
        "class_scale": 1.7,
        "prior_scale": 0.2,
        "ignore_iou": 0.2,
    },
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_terms_and_gradients_equal_the_reference(device, kernels, settings):
    terms = assert_equal_versions(random_case(device, **SMALL), kernels, **settings)
    assert all(term > 0 for name, term in terms.items() if name != "prior")
    assert (terms["prior"] > 0) == ("prior_images" not in settings)


def test_the_switch_chooses_the_version(kernels, monkeypatch):
    case = random_case(torch.device("cpu"), **SMALL)
    monkeypatch.setattr(RegionLoss, "reference", lambda *_: pytest.fail("the reference runs"))
    kernels("triton")
    assert len(RegionLoss()(*case)) == 5
    monkeypatch.setattr(region_kernel, "region_terms", lambda *_, **settings: pytest.fail("the kernel runs"))
    with pytest.raises(pytest.fail.Exception, match="the kernel runs"):
        RegionLoss()(*case)
    for choice in ("auto", "reference"):
        kernels(choice)
        with pytest.raises(pytest.fail.Exception, match="the reference runs"):
            RegionLoss()(*case)


@pytest.mark.parametrize(("classes", "most"), [(1, 1), (37, 4), (3, 0)])
def test_numbers_of_classes_and_boxes(device, kernels, classes, most):
    """Of classes: one, and more than a program handles together, with a rest. Of boxes: none in the batch."""
    case = random_case(device, batch=2, size=(32, 64), classes=classes, most=most)
    assert_equal_versions(case, kernels)
    assert case[1].positive.any() == (most > 0)


def test_an_empty_batch_gives_zeros(device, kernels):
    case = random_case(device, **{**SMALL, "batch": 0})
    terms = assert_equal_versions(case, kernels)
    assert all(term == 0 for term in terms.values())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_generated_shapes(device, kernels, seed):
    """80 classes and 300 boxes among them."""
    generator = torch.Generator().manual_seed(100 + seed)

    def drawn(*choices: int) -> int:
        return choices[torch.randint(len(choices), (), generator=generator)]

    shape = {
        "batch": drawn(1, 3, 4),
        "size": (32 * drawn(1, 3, 7), 32 * drawn(2, 5)),
        "classes": drawn(1, 16, 17, 20, 80),
        "most": drawn(1, 16, 30, 300),
    }
    assert_equal_versions(random_case(device, **shape, seed=seed), kernels, ignore_iou=0.4)


def test_views_of_any_strides(device, kernels):
    """A channels_last head's outputs are views of one tensor, (B, A, K * (5 + C)); bit for bit the same."""
    outputs, encoded, grid = random_case(device, **SMALL)
    kernels("triton")
    expected = result(RegionLoss(), (outputs, encoded, grid))
    raw = torch.cat([outputs.offsets, outputs.objectness[..., None], outputs.class_logits], -1)
    for stored in (raw, raw.permute(2, 1, 0).contiguous().permute(2, 1, 0)):
        views = HeadOutputs(stored[..., :4], stored[..., 5:], stored[..., 4])
        assert not views.class_logits.is_contiguous()
        assert_close(result(RegionLoss(), (views, encoded, grid)), expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_computed_in_float32(device, kernels, dtype):
    outputs, encoded, grid = random_case(device, **SMALL)
    low = HeadOutputs(outputs.offsets.to(dtype), outputs.class_logits.to(dtype), outputs.objectness.to(dtype))
    kernels("triton")
    terms, gradients = result(RegionLoss(), (low, encoded, grid))
    same = HeadOutputs(low.offsets.float(), low.class_logits.float(), low.objectness.float())
    expected, expected_gradients = result(RegionLoss(), (same, encoded, grid))
    assert_close(terms, expected, rtol=0, atol=0)
    assert {gradient.dtype for gradient in gradients} == {dtype}
    assert_close(gradients, [gradient.to(dtype) for gradient in expected_gradients], rtol=0, atol=0)


FOUR_CELLS = YoloAnchors([(1.0, 1.0)], 32)((64, 64))


def exact_case(device: torch.device, boxes: list[list[float]]) -> Case:
    """Four predictions, each exactly its cell."""
    offsets = torch.tensor([0.5, 0.5, 0.0, 0.0], device=device).expand(1, 4, 4)
    outputs = HeadOutputs(offsets, torch.randn(1, 4, 3).to(device), torch.zeros(1, 4, device=device))
    grid = FOUR_CELLS.to(device)
    return outputs, encoded_targets(oracles.pad_targets([boxes]), grid, device), grid


def test_an_iou_of_exactly_ignore_iou_is_not_ignored(device, kernels):
    """IoUs 1, 30 / 34, 1 / 2 and 0; no prediction is positive, so that only ignoring decides."""
    outputs, encoded, grid = exact_case(device, [[0, 0, 32, 32], [34, 0, 66, 32], [0, 32, 32, 48]])
    encoded = replace(encoded, matched=torch.full_like(encoded.matched, -1))
    for ignore_iou, count in ((0.5, 2), (0.49, 1), (0.9, 3)):
        terms = assert_equal_versions((outputs, encoded, grid), kernels, ignore_iou=ignore_iou)
        assert_close(terms["noobject"].item(), count * 0.125)


def test_the_last_of_several_boxes_owns_an_anchor(device, kernels):
    outputs, encoded, grid = exact_case(
        device, [[0, 0, 32, 32], [1, 1, 30, 30], [2, 2, 28, 30], [2, 2, 2, 2]]
    )
    assert encoded.matched.tolist() == [[2, -1, -1, -1]]
    terms = assert_equal_versions((outputs, encoded, grid), kernels)
    error = -outputs.class_logits[0, 0].log_softmax(0)[2]
    assert_close(terms["class"], error, **TERMS)
    assert_close(terms["object"].item(), 2.5 * (0.5 - 26 * 28 / 32**2) ** 2)


def test_a_row_that_is_not_valid_is_no_box(device, kernels):
    """Wherever it stands, and whatever it holds."""
    outputs, encoded, grid = random_case(device, **SMALL)
    boxes, valid = encoded.targets.boxes.clone(), encoded.targets.valid.clone()
    boxes[:, 1] = torch.tensor([0.0, 0, 64, 96], device=device)  # all of the image
    valid[:, 1] = False
    encoded = encoded_targets(Targets(boxes, encoded.targets.labels, valid), grid, device)
    terms = assert_equal_versions((outputs, encoded, grid), kernels, ignore_iou=0.1)
    valid[:, 1] = True
    others = assert_equal_versions((outputs, encoded, grid), kernels, ignore_iou=0.1)
    assert terms["noobject"] > 1.1 * others["noobject"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", ["offsets", "class_logits", "objectness"])
@pytest.mark.filterwarnings("ignore:invalid value encountered")  # NumPy's, in the interpreter
def test_numbers_that_are_not_finite(device, kernels, place, value):
    """At a positive anchor and at another one: the same gradients as the reference's are not finite."""
    outputs, encoded, grid = random_case(device, **SMALL)
    image = (encoded.matched >= 0).any(1).nonzero()[0, 0].item()
    for positive in (True, False):
        anchor = ((encoded.matched[image] >= 0) == positive).nonzero()[-1, 0]
        changed = {name: getattr(outputs, name).clone() for name in ("offsets", "class_logits", "objectness")}
        row = changed[place][image, anchor]
        (row if row.ndim == 0 else row[-1]).fill_(value)
        case = (HeadOutputs(**changed), encoded, grid)
        (terms, gradients), (expected, expected_gradients) = both_versions(case, kernels)
        assert sum(terms.values()).isfinite() == sum(expected.values()).isfinite()
        for ours, theirs in zip(gradients, expected_gradients, strict=True):
            assert_close(ours.isfinite(), theirs.isfinite())
            assert_close(ours.nan_to_num(0, 0, 0), theirs.nan_to_num(0, 0, 0), **GRADIENTS)
        # Logits of an anchor without a box do not count, exp(-inf) is 0, and a sigmoid of infinity is 1 or 0.
        counts = {
            "offsets": value > 0 or value != value,
            "class_logits": positive and value != -float("inf"),
            "objectness": value != value,
        }
        assert not counts[place] or not all(term.isfinite() for term in terms.values())


def test_the_operation_passes_opcheck(device, kernels):
    outputs, encoded, grid = random_case(device, batch=1, size=(32, 32), classes=2, most=1)
    inputs = (outputs.offsets, outputs.objectness, outputs.class_logits)
    leaves = [x.detach().requires_grad_() for x in inputs]
    arguments = (
        *(encoded.matched, encoded.targets.labels, encoded.targets.boxes, encoded.targets.valid),
        *(grid.boxes_cxcywh, grid.stride, grid.cell, torch.zeros((), dtype=torch.int64, device=device)),
    )
    scales = ("coord_scale", "object_scale", "noobject_scale", "class_scale", "prior_scale", "ignore_iou")
    settings = dict.fromkeys(scales, 0.5) | {"prior_images": 9, "input_area": 6144.0}
    settings |= {"weigh_small_boxes": True, "rescore": True}
    torch.library.opcheck(region_kernel.region_forward, (*leaves, *arguments), settings)
    torch.library.opcheck(
        region_kernel.region_backward,
        (torch.ones(5, device=device), encoded.matched, *inputs),
    )


def test_one_graph_of_torch_compile(device, kernels):
    """The decision, the operation and its gradient; nothing waits for the device."""
    case = random_case(device, **SMALL)
    kernels("triton")
    expected = result(RegionLoss(), case)
    torch.compiler.reset()
    loss = RegionLoss()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert_close(result(compiled, case), expected, rtol=0, atol=0)
    assert loss.images_seen.item() == 2


@pytest.mark.slow
def test_a_compiled_training_step_has_one_graph(kernels, monkeypatch):
    """With any number of boxes; bit for bit the step that is not compiled."""
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager")
    kernels("triton")
    plain, compiled = (
        compiled_steps.new_step("yolov2", "float32"),
        compiled_steps.new_step("yolov2", "float32"),
    )
    torch.compiler.reset()
    compilation.compile_step(compiled, torch.device("cpu"), sizes=1)
    torch._dynamo.utils.counters.clear()
    totals = [compiled_steps.losses(step, 64, compiled=step is compiled) for step in (plain, compiled)]
    assert totals[0] == totals[1]
    assert compiled_steps.graphs() == 1
    compiled_steps.assert_equal_steps(plain, compiled, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"normalizer": "anchors"}, "normalizer='anchors'"),
        ({"box_error": "cells"}, "box_error='cells'"),
        ({"iou_gradient": True}, "iou_gradient=True"),
        ({"ignore_at_limit": True}, "ignore_at_limit=True"),
        ({"ignore_truths": 3}, "ignore_truths=3"),
        ({"prior_boxes": "all"}, "prior_boxes='all'"),
        ({"class_activation": "logistic"}, "class_activation='logistic'"),
        ({"shared_class": "lowest"}, "shared_class='lowest'"),
        ({"class_weights": [1.0, 2.0, 3.0]}, "class_weights"),
    ],
)
def test_other_settings_run_the_reference(kernels, settings, reason):
    case = random_case(torch.device("cpu"), **SMALL)
    loss = RegionLoss(**settings)
    assert loss.unsupported() == reason
    kernels("reference")
    expected = result(loss, case)
    kernels("triton")
    assert_close(result(RegionLoss(**settings), case), expected, rtol=0, atol=0)


def test_float64_runs_the_reference(kernels):
    """verify computes in float64."""
    outputs, encoded, grid = random_case(torch.device("cpu"), **SMALL)
    kernels("triton")
    double = HeadOutputs(outputs.offsets.double(), outputs.class_logits.double(), outputs.objectness.double())
    assert RegionLoss()(double, encoded, grid)["box"].dtype == torch.float64


def test_a_step_never_reads_the_device(kernels, monkeypatch):
    """But for the interpreter, which copies what a kernel reads."""
    from triton.runtime.interpreter import GridExecutor

    case = random_case(torch.device("cpu"), **SMALL)
    kernels("triton")
    watched = NoHostReads()
    monkeypatch.setattr(GridExecutor, "__call__", watched.allowed_in(GridExecutor.__call__))
    with watched:
        result(RegionLoss(), case)
    assert watched.operations > 10


@pytest.mark.gpu
def test_a_cuda_graph_repeats_a_step(kernels):
    """Nothing synchronises, and the number of images seen is read on the device."""
    outputs, encoded, grid = random_case(torch.device("cuda"), **SMALL)
    kernels("triton")
    loss = RegionLoss(prior_images=7)
    leaves = [x.requires_grad_() for x in (outputs.offsets, outputs.class_logits, outputs.objectness)]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        sum(loss(HeadOutputs(*leaves), encoded, grid).values()).backward()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        terms = loss(HeadOutputs(*leaves), encoded, grid)
        gradients = torch.autograd.grad(sum(terms.values()), leaves)
    for _ in range(3):
        graph.replay()
        expected = RegionLoss(prior_images=7)
        expected.images_seen += loss.images_seen - len(leaves[0])
        wanted = expected(HeadOutputs(*leaves), encoded, grid)
        assert_close(terms, wanted, rtol=0, atol=0)
        assert_close(gradients, torch.autograd.grad(sum(wanted.values()), leaves), rtol=0, atol=0)
    assert terms["prior"] == 0
