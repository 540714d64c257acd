"""The multibox kernels against MultiBoxLoss's reference and the recordings of Caffe: terms and gradients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from detectors.coders import SSDBoxCoder, YoloBoxCoder
from detectors.commands.verify import ssd_recordings
from detectors.kernels import matching_kernel, multibox_kernel
from detectors.losses import multibox_loss
from detectors.losses.multibox_loss import MultiBoxLoss
from detectors.matching import MultiBoxMatcher
from detectors.structures import IGNORED, AnchorGrid, EncodedTargets, HeadOutputs, Targets
from detectors.targets import TargetEncoder
from tests import oracles
from tests.test_losses import assert_same_but_for_ties, check_gradients

FIXTURES = Path(__file__).parents[1] / "fixtures"
QUICK_CASES = ("loss_mini_clean_1box", "loss_mini_empty", "loss_mini_few_negatives", "loss_mini_ties")
SSD_CASES = [
    pytest.param(path.stem, marks=[] if path.stem in QUICK_CASES else pytest.mark.slow)
    for path in sorted((FIXTURES / "ssd").glob("loss_*.npz"))
]
TERMS = {"rtol": 2e-6, "atol": 1e-6}
GRADIENTS = {"rtol": 2e-5, "atol": 1e-7}
SIZE = (96, 96)


@pytest.fixture(autouse=True)
def few_programs(monkeypatch):
    """The time that the interpreter takes depends on their number."""
    if not torch.cuda.is_available():
        monkeypatch.setattr(multibox_kernel, "LOGITS_OF_PROGRAM", 16384)


def ssd_outputs(seed: int, batch: int, anchors: int, columns: int) -> HeadOutputs:
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.randn(batch, anchors, 4, generator=generator)
    return HeadOutputs(offsets, 2 * torch.randn(batch, anchors, columns, generator=generator))


def encode(targets: Targets, grid: AnchorGrid) -> EncodedTargets:
    return TargetEncoder(MultiBoxMatcher(), SSDBoxCoder())(targets, grid)


def random_case(seed: int, *, batch: int = 3, columns: int = 4) -> tuple[HeadOutputs, EncodedTargets]:
    """columns: class logits of an anchor. Some images may have no boxes."""
    grid = oracles.small_ssd_grid(SIZE)
    generator = torch.Generator().manual_seed(seed)
    targets = oracles.random_targets(generator, batch=batch, most=6, classes=columns - 1, size=SIZE)
    return ssd_outputs(seed, batch, grid.num_anchors, columns), encode(targets, grid)


def moved(encoded: EncodedTargets, device: torch.device) -> EncodedTargets:
    return EncodedTargets(
        encoded.matched.to(device),
        encoded.assigned.to(device),
        encoded.targets.to(device),
        encoded.grid.to(device),
        SSDBoxCoder(encoded.coder.variances.tolist()).to(device),
    )


def differentiated(loss: MultiBoxLoss, outputs: HeadOutputs, encoded: EncodedTargets) -> list[Tensor]:
    """Box term, class term, and the gradients of 2 * box - 3 * class by offsets and logits; on the CPU."""
    leaves = [x.detach().requires_grad_() for x in (outputs.offsets, outputs.class_logits)]
    terms = loss(HeadOutputs(*leaves), encoded, encoded.grid)
    gradients = torch.autograd.grad(2 * terms["box"] - 3 * terms["class"], leaves)
    return [x.detach().cpu() for x in (terms["box"], terms["class"], *gradients)]


@pytest.fixture
def computed(device, kernels):
    """`differentiated` by the reference, in float32 on the CPU, and by the kernel."""

    def compute(
        outputs: HeadOutputs, encoded: EncodedTargets, **settings
    ) -> tuple[list[Tensor], list[Tensor]]:
        loss = MultiBoxLoss(**settings)
        kernels("reference")
        in_float32 = HeadOutputs(outputs.offsets.float(), outputs.class_logits.float())
        expected = differentiated(loss, in_float32, encoded)
        kernels("triton")
        return expected, differentiated(loss, outputs.to(device), moved(encoded, device))

    return compute


@pytest.fixture
def computed_alike(computed):
    """Both must be equal, but for rounding."""

    def compute(outputs: HeadOutputs, encoded: EncodedTargets, **settings) -> list[Tensor]:
        expected, ours = computed(outputs, encoded, **settings)
        assert_close(ours[:2], expected[:2], **TERMS)
        assert_close(ours[2:], expected[2:], **GRADIENTS)
        return expected

    return compute


@pytest.mark.parametrize(("seed", "normalizer"), [(0, "batch"), (1, "images"), (2, "floor")])
def test_equals_the_reference(computed_alike, seed, normalizer):
    computed_alike(*random_case(seed), normalizer=normalizer, box_scale=1.5)


def test_equals_naive_loops(device, kernels):
    """Matching, encoding and loss, written from the formulae."""
    kernels("triton")
    outputs, encoded = random_case(3)
    targets, grid, coder = encoded.targets.to(device), encoded.grid.to(device), SSDBoxCoder().to(device)
    terms = MultiBoxLoss()(outputs.to(device), TargetEncoder(MultiBoxMatcher(), coder)(targets, grid), grid)
    naive = oracles.multibox_loss(outputs, encoded.targets, encoded.grid, [0.1, 0.1, 0.2, 0.2])
    for name, value in naive.items():
        assert_close(terms[name].item(), value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SSD_CASES)
def test_equals_caffe(device, kernels, name):
    """Matching, terms and gradients, all by the kernels."""
    case = np.load(FIXTURES / f"ssd/{name}.npz")
    kernels("triton")
    grid = ssd_recordings.recorded_grid(case, FIXTURES / "ssd").to(device)
    targets = ssd_recordings.recorded_targets(case).to(device)
    offsets, logits = (x.to(device).requires_grad_() for x in ssd_recordings.predictions(case))
    encoded = TargetEncoder(MultiBoxMatcher(), SSDBoxCoder().to(device))(targets, grid)
    assert_same_but_for_ties(case, encoded.matched.cpu())
    terms = MultiBoxLoss()(HeadOutputs(offsets, logits), encoded, grid)
    sum(terms.values()).backward()
    image, anchor = case["caffe_pos"].reshape(-1, 2).astype(int).T
    if not (encoded.matched.cpu() >= 0)[image, anchor].all():  # a tie fell the other way
        assert_close(terms["class"].item(), float(case["caffe_loss_conf"]), rtol=2e-2, atol=0)
        return
    assert_close(terms["box"].item(), float(case["caffe_loss_loc"]), rtol=1e-5, atol=1e-6)
    assert_close(terms["class"].item(), float(case["caffe_loss_conf"]), rtol=1e-5, atol=1e-6)
    check_gradients(case, "caffe", offsets.grad.cpu(), logits.grad.cpu())


@pytest.mark.parametrize("columns", [2, 81, pytest.param(3000, marks=pytest.mark.slow)])
def test_any_number_of_classes(computed_alike, columns):
    computed_alike(*random_case(4, batch=1, columns=columns))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20, 32))
def test_equals_the_reference_on_many_batches(computed_alike, seed):
    ratio, normalizer = (0.5, 1.5, 3.0)[seed % 3], ("batch", "images", "floor")[seed % 2]
    outputs, encoded = random_case(seed, columns=(2, 6, 40)[seed % 3])
    computed_alike(outputs, encoded, negatives_per_positive=ratio, normalizer=normalizer, box_scale=0.5)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 100.0])
def test_the_number_of_mined_negatives(computed_alike, ratio):
    """Fractions round up; there are not more than negatives."""
    computed_alike(*random_case(5), negatives_per_positive=ratio)


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)])
def test_half_precision(computed, dtype):
    """The terms are those of the same numbers in float32; only the gradients are rounded."""
    outputs, encoded = random_case(6, columns=21)
    outputs = HeadOutputs(outputs.offsets.to(dtype), outputs.class_logits.to(dtype))
    expected, ours = computed(outputs, encoded)
    assert ours[0].dtype == torch.float32 and ours[2].dtype == ours[3].dtype == dtype
    assert_close(ours[:2], expected[:2], **TERMS)
    for gradient, reference in zip(ours[2:], expected[2:], strict=True):
        assert_close(gradient.float(), reference, rtol=1.01 * torch.finfo(dtype).eps, atol=1e-6)


def test_views_with_other_strides(computed_alike):
    """As a head may return them: slices of one tensor, or with anchors as the last axis."""
    outputs, encoded = random_case(7)
    raw = torch.cat([outputs.offsets, outputs.class_logits], -1)
    computed_alike(HeadOutputs(raw[..., :4], raw[..., 4:]), encoded)
    last = raw.transpose(1, 2).contiguous().transpose(1, 2)
    expanded = last[:1, :, 4:].expand(3, -1, -1)
    computed_alike(HeadOutputs(last[..., :4], expanded), encoded)


def test_ignored_anchors_are_left_out(computed_alike):
    outputs, encoded = random_case(8)
    matched = encoded.matched.clone()
    matched[:, ::3] = IGNORED
    computed_alike(outputs, replace(encoded, matched=matched), negatives_per_positive=100.0)


@pytest.mark.parametrize(
    ("images", "normalizer"),
    [
        ([[], []], "batch"),
        ([[], [[10.0, 10, 40, 40]]], "images"),
        ([[], [[10.0, 10, 40, 40]]], "floor"),
        ([], "batch"),
        ([], "images"),
    ],
)
def test_images_and_batches_without_boxes(computed_alike, images, normalizer):
    grid = oracles.small_ssd_grid(SIZE)
    targets = oracles.pad_targets(images or [[[10.0, 10, 40, 40]]])
    if not images:
        targets = Targets(targets.boxes[:0], targets.labels[:0], targets.valid[:0])
    outputs = ssd_outputs(0, len(images), grid.num_anchors, 4)
    computed_alike(outputs, encode(targets, grid), normalizer=normalizer)


@pytest.mark.parametrize("held", [multibox_kernel.KEYS_HELD, 32])
def test_equal_errors_are_mined_in_the_order_of_their_anchors(computed, monkeypatch, held):
    """The reference leaves open which of them; the terms are the same. held: keys in registers."""
    monkeypatch.setattr(multibox_kernel, "KEYS_HELD", held)
    monkeypatch.setattr(multibox_kernel, "PARTS_AT_A_TIME", 64)
    outputs, encoded = random_case(9)
    kinds = torch.randint(0, 3, encoded.matched.shape, generator=torch.Generator().manual_seed(9))
    logits = outputs.class_logits[0, :3][kinds]
    expected, ours = computed(HeadOutputs(outputs.offsets, logits), encoded)
    assert_close(ours[:2], expected[:2], **TERMS)
    assert_close(ours[2], expected[2], **GRADIENTS)
    error = -logits.log_softmax(-1)[..., 0]
    cut = 0
    for image in range(3):
        negatives = (encoded.matched[image] < 0).nonzero()[:, 0].tolist()
        count = 3 * (encoded.matched[image] >= 0).sum().item()
        hardest = sorted(negatives, key=lambda a: (-error[image, a].item(), a))
        limit = error[image, hardest[count - 1]] if count else torch.inf
        cut += count and error[image, hardest[count]] == limit
        rows = ours[3][image].abs().sum(-1).nonzero()[:, 0].tolist()
        assert sorted(hardest[:count] + encoded.positive[image].nonzero()[:, 0].tolist()) == rows
    assert cut


def test_more_anchors_than_keys_in_registers(computed_alike, monkeypatch):
    monkeypatch.setattr(multibox_kernel, "KEYS_HELD", 32)
    monkeypatch.setattr(multibox_kernel, "PARTS_AT_A_TIME", 16)
    computed_alike(*random_case(1, batch=2))


@pytest.mark.parametrize(
    ("value", "kind", "ratio"),
    [
        (float("nan"), "background", 3.0),
        (float("inf"), "background", 3.0),
        (float("-inf"), "background", 3.0),
        (float("nan"), "positive", 3.0),
        (float("-inf"), "background", 0.0),
    ],
)
def test_numbers_that_are_not_finite(computed, value, kind, ratio):
    """They reach the term that they belong to, and no other, as in the reference."""
    outputs, encoded = random_case(10, batch=1)
    image, anchor = (encoded.positive == (kind == "positive")).nonzero()[1]
    for part, name in enumerate(("offsets", "class_logits")):
        broken = getattr(outputs, name).clone()
        broken[image, anchor, 0] = value
        expected, ours = computed(replace(outputs, **{name: broken}), encoded, negatives_per_positive=ratio)
        assert [x.isfinite().item() for x in ours[:2]] == [x.isfinite().item() for x in expected[:2]]
        assert_close(ours[1 - part], expected[1 - part], **TERMS)


def test_all_logits_nan(computed):
    outputs, encoded = random_case(11)
    expected, ours = computed(HeadOutputs(outputs.offsets, outputs.class_logits * torch.nan), encoded)
    assert ours[1].isnan() and expected[1].isnan()
    assert_close(ours[0], expected[0], **TERMS)


@pytest.mark.parametrize("normalizer", ["batch", pytest.param("floor", marks=pytest.mark.slow)])
def test_positives_counted_over_processes(device, kernels, normalizer):
    """In training, n is the mean of all processes."""
    outputs, encoded = random_case(12)
    loss = MultiBoxLoss(normalizer=normalizer)
    loss.average = lambda count: 0.7 * count
    kernels("reference")
    expected = [differentiated(loss.train(mode), outputs, encoded) for mode in (True, False)]
    kernels("triton")
    inputs = (outputs.to(device), moved(encoded, device))
    ours = [differentiated(loss.train(mode), *inputs) for mode in (True, False)]
    for left, right in zip(ours, expected, strict=True):
        assert_close(left, right, rtol=2e-5, atol=1e-6)


def test_a_gradient_of_one_term_only(device, kernels):
    outputs, encoded = random_case(13)
    outputs = outputs.to(device)
    for kernel in ("reference", "triton"):
        kernels(kernel)
        offsets, logits = (x.detach().requires_grad_() for x in (outputs.offsets, outputs.class_logits))
        terms = MultiBoxLoss()(HeadOutputs(offsets, logits), moved(encoded, device), encoded.grid)
        terms["class"].backward()
        assert offsets.grad is None or not offsets.grad.any()
        assert logits.grad.any()


def test_what_the_kernel_does_not_do(kernels, monkeypatch):
    """The reference runs then."""
    kernels("triton")
    monkeypatch.setattr(multibox_kernel, "multibox", None)
    outputs, encoded = random_case(0)
    assert MultiBoxLoss().unsupported() is None
    assert MultiBoxLoss(recount_positives=True).unsupported() == "recount_positives=true"
    MultiBoxLoss(recount_positives=True)(outputs, encoded, encoded.grid)
    double = HeadOutputs(outputs.offsets.double(), outputs.class_logits)
    MultiBoxLoss()(double, encoded, encoded.grid)
    assert multibox_loss._unsupported_inputs(double, encoded) == "offsets of torch.float64"
    assert multibox_loss._unsupported_inputs(outputs, replace(encoded, coder=YoloBoxCoder())) == (
        "offsets of YoloBoxCoder"
    )
    targets = replace(encoded.targets, boxes=encoded.targets.boxes.double())
    assert multibox_loss._unsupported_inputs(outputs, replace(encoded, targets=targets)) == (
        "boxes of torch.float64"
    )
    monkeypatch.setattr(multibox_loss, "KERNEL_OUTPUTS", 3)
    assert multibox_loss._unsupported_inputs(outputs, encoded) == "4 class logits; it holds 3"


def operation_arguments(device: torch.device) -> tuple:
    outputs, encoded = random_case(0, batch=1)
    encoded, outputs = moved(encoded, device), outputs.to(device)
    leaves = [x.requires_grad_() for x in (outputs.offsets, outputs.class_logits)]
    targets, grid = encoded.targets, encoded.grid.boxes_cxcywh
    tensors = (*leaves, encoded.matched, targets.boxes, targets.labels, grid, encoded.coder.variances)
    return (*tensors, None, 3.0, 1.0, "batch")


def test_the_operations_keep_torchs_rules(device):
    arguments = operation_arguments(device)
    torch.library.opcheck(multibox_kernel.multibox, arguments)
    _, _, *state = multibox_kernel.multibox(*arguments)
    one = torch.ones((), device=device)
    tensors = [x.detach() for x in arguments[:7]]
    torch.library.opcheck(multibox_kernel.multibox_gradients, (one, one, *tensors, *state, 1.0))


def test_a_compiled_step_gives_the_same(device, kernels):
    kernels("triton")
    torch.compiler.reset()
    outputs, encoded = random_case(1)
    encoded, outputs = moved(encoded, device), outputs.to(device)
    encoder = TargetEncoder(MultiBoxMatcher(), encoded.coder)

    def step(offsets: Tensor, logits: Tensor, targets: Targets, grid: AnchorGrid) -> Tensor:
        terms = MultiBoxLoss()(HeadOutputs(offsets, logits), encoder(targets, grid), grid)
        return terms["box"] + 2 * terms["class"]

    gradients = []
    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        leaves = [x.detach().requires_grad_() for x in (outputs.offsets, outputs.class_logits)]
        function(*leaves, encoded.targets, encoded.grid).backward()
        gradients.append([x.grad for x in leaves])
    assert_close(gradients[1], gradients[0], rtol=0, atol=0)


class Recorder:
    """Stands for a kernel and counts its launches."""

    def __init__(self, launches: list[str], name: str):
        self.launches = launches
        self.name = name

    def __getitem__(self, grid):
        return lambda *args, **kwargs: self.launches.append(self.name)


def test_six_launches(monkeypatch, kernels):
    """Matching, loss and gradient of a batch: no other operation computes."""
    launches: list[str] = []
    for module in (matching_kernel, multibox_kernel):
        for name in ("_overlaps", "_bipartite", "_rows", "_mine", "_terms", "_gradients"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, Recorder(launches, name))
    outputs, encoded = random_case(0)
    kernels("triton")
    leaves = [x.requires_grad_() for x in (outputs.offsets, outputs.class_logits)]
    encoder, loss = TargetEncoder(MultiBoxMatcher(), SSDBoxCoder()), MultiBoxLoss()
    with torch.profiler.profile() as profile:
        terms = loss(HeadOutputs(*leaves), encoder(encoded.targets, encoded.grid), encoded.grid)
        one = torch.ones(())
        multibox_gradients = torch.autograd.grad(list(terms.values()), leaves, [one, one])
    assert [x.shape for x in multibox_gradients] == [x.shape for x in leaves]
    assert launches == ["_overlaps", "_bipartite", "_rows", "_mine", "_terms", "_gradients"]
    operations = {event.key for event in profile.key_averages() if event.key.startswith("aten::")}
    assert operations <= {"aten::empty", "aten::new_empty", "aten::detach", "aten::ones", "aten::fill_"}


@pytest.mark.gpu
def test_a_cuda_graph_captures_the_step(device):
    """And nothing waits for the device."""
    arguments = operation_arguments(device)

    def step() -> tuple[Tensor, ...]:
        box, classes, *_ = multibox_kernel.multibox(*arguments)
        return torch.autograd.grad(box + classes, arguments[:2])

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda.set_sync_debug_mode("error")
        expected = step()
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for tensor in captured:
        tensor.fill_(torch.nan)
    graph.replay()
    assert_close(captured, expected)
