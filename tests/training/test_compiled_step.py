"""trainer.compile: one graph without a break, one for all numbers of boxes, the same losses and gradients.

Quick tests use a backend that traces forward and backward pass and runs PyTorch's own operations. The slow
test uses Inductor, which needs a C++ compiler.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detectors.commands import train as script
from detectors.models.ssd import ssd160
from detectors.models.yolov2 import yolov2_tiny
from detectors.structures import Targets
from detectors.training import checkpoint as ckpt
from detectors.training import compilation, engine
from detectors.training.batch_size import made_up_batch
from detectors.training.compilation import GRAPH_COLUMNS, compile_step, with_variable_count
from detectors.training.detection import TrainStep
from tests import oracles
from tests.ranks import in_ranks
from tests.training import rank_tasks
from tests.training.test_engine import cache, make_run, one_thread  # noqa: F401 - fixtures
from tests.training.test_saving import assert_same_run, finished

CPU = torch.device("cpu")
BUILDERS = {
    "yolov2": lambda: yolov2_tiny(num_classes=3, width=0.05, stride=16),
    "ssd": lambda: ssd160(num_classes=3, width=0.05, batch_norm=True),
}
BOXES = (4, 0, 1, 7)  # in the image that has most


@pytest.fixture(autouse=True)
def fresh_graphs():
    limit = torch._dynamo.config.recompile_limit
    yield
    torch._dynamo.config.recompile_limit = limit
    torch.compiler.reset()


def new_step(family: str, precision: str) -> TrainStep:
    torch.manual_seed(0)
    return TrainStep(BUILDERS[family]().train(), precision)


def losses(step: TrainStep, side: int, *, compiled: bool) -> list[torch.Tensor]:
    """Of some batches, one after another; the gradients add up."""
    generator = torch.Generator().manual_seed(1)
    grid = step.detector.grid((side, side))
    totals = []
    for most in BOXES:
        images = torch.randint(0, 256, (2, 3, side, side), generator=generator, dtype=torch.uint8)
        targets = oracles.random_targets(generator, batch=2, most=most, classes=3, size=(side, side))
        terms, *_ = step(images, with_variable_count(targets) if compiled else targets, grid)
        total = sum(terms.values())
        if total.requires_grad:
            total.backward()
        totals.append(total.detach())
    return totals


def graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def assert_equal_steps(plain: TrainStep, compiled: TrainStep, **tolerance: float) -> None:
    gradients = [{name: p.grad for name, p in step.named_parameters()} for step in (compiled, plain)]
    assert_close(*gradients, **tolerance)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    for ours, theirs in zip(compiled.buffers(), plain.buffers(), strict=True):
        assert_close(ours, theirs, **tolerance)  # BatchNorm's statistics, images_seen


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", BUILDERS)
def test_the_step_is_one_graph_for_all_numbers_of_boxes(family, precision, monkeypatch):
    """Bit for bit what the step computes otherwise, also without any box."""
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager")
    plain, compiled = new_step(family, precision), new_step(family, precision)
    compile_step(compiled, CPU, sizes=1)
    torch._dynamo.utils.counters.clear()
    assert losses(compiled, 160, compiled=True) == losses(plain, 160, compiled=False)
    assert graphs() == 1
    assert_equal_steps(plain, compiled, rtol=0, atol=0)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", BUILDERS)
def test_a_new_detector_compiles_without_a_call_before(family, backend):
    """The anchors, the encoding and the loss are part of the graph."""
    torch.manual_seed(0)
    detector = BUILDERS[family]().train()

    def loss(images: torch.Tensor, targets: Targets) -> torch.Tensor:
        outputs = detector(images)
        grid = detector.grid(images.shape[-2:])
        return sum(detector.loss(outputs, detector.encoder(targets, grid, outputs), grid).values())

    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (2, 3, 160, 160), generator=generator, dtype=torch.uint8)
    targets = oracles.random_targets(generator, batch=2, most=5, classes=3, size=(160, 160))
    compiled = torch.compile(loss, fullgraph=True, backend=backend)(images, targets)
    assert_close(compiled, loss(images, targets), rtol=1e-4, atol=0)


def test_each_input_size_has_a_graph(monkeypatch):
    """More than PyTorch's limit of recompilations allows by default; a size that returns has its graph."""
    monkeypatch.setattr(compilation, "BACKEND", "eager")
    torch._dynamo.config.recompile_limit = 2
    compiled = new_step("yolov2", "float32")
    compile_step(compiled, CPU, sizes=3)
    torch._dynamo.utils.counters.clear()
    for side in (64, 96, 128, 64):
        losses(compiled, side, compiled=True)
    assert graphs() == 3


@pytest.mark.parametrize("model", ["ssd160", pytest.param("yolov2_160", marks=pytest.mark.slow)])
def test_a_compiled_run_equals_a_plain_one(model, cache, tmp_path, monkeypatch):  # noqa: F811
    """With this backend bit for bit: weights, optimiser and curves. Evaluations are not compiled."""
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager")
    settings = ("model.width=0.05", "trainer.accumulate=2", "trainer.batch_size=2", "trainer.steps=3")
    plain = make_run(tmp_path / "plain", cache, *settings, "trainer.eval_every=2", model=model)
    compiled = make_run(
        tmp_path / "compiled", cache, *settings, "trainer.eval_every=2", "trainer.compile=true", model=model
    )
    for run in (plain, compiled):
        engine.train(run)
        run.tracker.close()
    assert_same_run(tmp_path / "compiled", tmp_path / "plain")


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_cuda_graphs_are_asked_for(cuda_graphs, monkeypatch):
    asked = []

    def backend(graph, inputs, **options):
        asked.append(options.get("mode"))
        return graph

    monkeypatch.setattr(compilation, "BACKEND", backend)

    class Doubled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    compiled = Doubled()
    compile_step(compiled, CPU, sizes=1, cuda_graphs=cuda_graphs)
    compiled(torch.zeros(3, 2))
    assert asked[-1] == ("reduce-overhead" if cuda_graphs else None)


@pytest.mark.parametrize(
    ("boxes", "multiple", "columns"), [(0, 1, 2), (5, 1, 5), (0, 16, 16), (16, 16, 16), (17, 16, 32)]
)
def test_boxes_are_padded_with_rows_that_do_not_count(boxes, multiple, columns):
    targets = replace(made_up_batch(2, boxes, (32, 32)).targets, image_labels=torch.tensor([-1, 3]))
    padded = with_variable_count(targets, multiple)
    assert padded.image_labels is targets.image_labels
    for name in ("boxes", "labels", "valid"):
        before = getattr(targets, name)
        after = getattr(padded, name)
        assert after.shape[1] == columns
        assert after[:, :boxes].equal(before)
        assert not after[:, boxes:].any()


@pytest.mark.parametrize("family", BUILDERS)
def test_padding_changes_no_loss(family):
    """But for the order of sums."""
    plain, padded = new_step(family, "float32"), new_step(family, "float32")
    generator = torch.Generator().manual_seed(1)
    grid = plain.detector.grid((160, 160))
    images = torch.randint(0, 256, (2, 3, 160, 160), generator=generator, dtype=torch.uint8)
    targets = oracles.random_targets(generator, batch=2, most=5, classes=3, size=(160, 160))
    expected, *_ = plain(images, targets, grid)
    terms, *_ = padded(images, with_variable_count(targets, GRAPH_COLUMNS), grid)
    assert_close(terms, expected, rtol=1e-6, atol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("family", BUILDERS)
def test_cuda_graphs_compute_the_same(family):
    """Losses of batches with different numbers of boxes, twice, so that graphs are recorded and replayed."""
    device = torch.device("cuda")
    steps = [new_step(family, "float32").to(device) for _ in range(2)]
    compile_step(steps[1], device, sizes=1, cuda_graphs=True)
    generator = torch.Generator().manual_seed(1)
    grid = steps[0].detector.grid((160, 160))
    for most in BOXES * 3:
        images = torch.randint(0, 256, (2, 3, 160, 160), generator=generator, dtype=torch.uint8).to(device)
        targets = oracles.random_targets(generator, batch=2, most=most, classes=3, size=(160, 160)).to(device)
        losses = []
        for step, given in zip(steps, (targets, with_variable_count(targets, GRAPH_COLUMNS)), strict=True):
            step.zero_grad(set_to_none=True)
            loss = sum(step(images, given, grid)[0].values())
            loss.backward()
            losses.append(loss.item())
        assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_without_a_compiler_the_message_says_so(cache, tmp_path, monkeypatch):  # noqa: F811
    def broken(graph, inputs):
        raise RuntimeError("No working C++ compiler found\nin PATH")

    monkeypatch.setattr(compilation, "BACKEND", broken)
    run = make_run(tmp_path, cache, "model.width=0.05", "trainer.compile=true")
    message = (
        "trainer.compile=true: PyTorch cannot compile for cpu on this machine "
        "(No working C++ compiler found); install a C++ compiler such as g++, or set trainer.compile=false"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        engine.train(run)
    assert not (tmp_path / ckpt.LAST).exists()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", BUILDERS)
def test_inductor_computes_the_same(family, precision):
    """Measured on narrow networks, 160 pixels: losses differ by 5e-6 (float32) and .004 (bfloat16)."""
    plain, compiled = new_step(family, precision), new_step(family, precision)
    compile_step(compiled, CPU, sizes=1)
    torch._dynamo.utils.counters.clear()
    tolerance = {"float32": 1e-4, "bfloat16": 0.03}[precision]
    ours, theirs = losses(compiled, 160, compiled=True), losses(plain, 160, compiled=False)
    assert_close(ours, theirs, rtol=tolerance, atol=0)
    assert graphs() == 1
    ours, theirs = (torch.cat([p.grad.flatten() for p in s.parameters()]) for s in (compiled, plain))
    if precision == "float32":
        assert (ours - theirs).norm() < 0.05 * theirs.norm()


@pytest.mark.slow
def test_a_run_trains_with_inductor(cache, tmp_path):  # noqa: F811
    settings = ("model.width=0.05", "trainer.steps=3", "trainer.eval_every=0")
    finished(tmp_path / "plain", cache, *settings)
    run = make_run(tmp_path / "compiled", cache, *settings, "trainer.compile=true")
    script.engine.train(run)
    ours, theirs = (ckpt.load_checkpoint(tmp_path / name / ckpt.LAST) for name in ("compiled", "plain"))
    assert_close(ours.model, theirs.model, rtol=0.02, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["yolov2", "ssd"])
def test_two_processes_train_a_compiled_step(model, tmp_path):
    """The counts by which the loss divides are shared within the graph."""
    settings = (model, "model.width=0.05", "trainer.batch_size=2", "trainer.steps=2")
    plain, _ = in_ranks(rank_tasks.train, tmp_path, "plain", *settings)
    compiled, _ = in_ranks(rank_tasks.train_compiled, tmp_path, "compiled", *settings)
    assert plain["state"].keys() == compiled["state"].keys()
    for name, value in plain["state"].items():
        np.testing.assert_array_equal(compiled["state"][name], value)
