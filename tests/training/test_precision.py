"""bfloat16 and float16: the loss scale, steps that it leaves out, resumes, and the run's own evaluation."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detectors import load
from detectors.training import checkpoint as ckpt
from detectors.training import engine
from detectors.training.checkpoint_checks import GO_ON
from detectors.training.optim import adamw, sgd
from detectors.training.precision import LossScaler, suited
from tests.training.test_engine import cache, interrupt_after, make_run, one_thread  # noqa: F401 - fixtures
from tests.training.test_resume import resume
from tests.training.test_saving import assert_same_run, curves, finished

CPU = torch.device("cpu")
OPTIMIZERS = {
    "sgd": lambda module: sgd(module, rate=0.1),
    "adamw": lambda module: adamw(module, rate=0.1),
    "without fused kernels": lambda module: torch.optim.RMSprop(module.parameters(), lr=0.1, momentum=0.9),
}
CLIP = "trainer.clip_grad_norm=0.5"
NARROW = ("model.width=0.05", "trainer.precision=float16")


def take(scaler: LossScaler, optimizer: torch.optim.Optimizer, module: nn.Module, factor: float) -> None:
    """A step whose gradient is `factor` before scaling."""
    optimizer.zero_grad()
    scaler.scale(sum((p * factor).sum() for p in module.parameters())).backward()
    scaler.unscale()
    scaler.step()


def state_of(module: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    tensors = list(module.parameters())
    for state in optimizer.state.values():
        tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
    return [tensor.detach().clone() for tensor in tensors]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_with_an_overflow_changes_nothing(name):
    """The first one, too, when fused SGD has no momentum yet. The later steps are those of a plain run."""
    module, plain = nn.Linear(300, 2), nn.Linear(300, 2)
    plain.load_state_dict(module.state_dict())
    torch.full((300, 2), 7e8)  # what a momentum without values would find in its memory
    optimizer = suited(OPTIMIZERS[name](module), "float16", CPU)
    reference = OPTIMIZERS[name](plain)
    scaler = LossScaler(optimizer, "float16", CPU)
    for factor in (1e38, 1.0, 1e38, 2.0):
        before = state_of(module, optimizer)
        take(scaler, optimizer, module, factor)
        if factor == 1e38:
            assert_close(state_of(module, optimizer)[:2], before[:2], rtol=0, atol=0)
        else:
            take(LossScaler(reference, "float32", CPU), reference, plain, factor)
        assert_close(module.state_dict(), plain.state_dict(), rtol=1e-6, atol=1e-6)
    assert_close(state_of(module, optimizer), state_of(plain, reference), rtol=1e-6, atol=1e-6)
    assert scaler.numbers(scaler.tensors()) == {"loss_scale": 2.0**14, "overflows": 2}


def test_a_fused_optimiser_keeps_its_groups():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    plain = sgd(module, rate=0.1, bias_rate_factor=2.0, rate_in_momentum=True)
    assert suited(plain, "bfloat16", CPU) is plain
    fused = suited(plain, "float16", CPU)
    same = [{**group, "fused": True} for group in plain.param_groups]
    assert fused.param_groups == same
    assert type(fused) is torch.optim.SGD


@pytest.mark.parametrize(
    ("optimizer", "precision", "device", "fused"),
    [
        (torch.optim.AdamW, "float32", "cuda", True),
        (torch.optim.SGD, "bfloat16", "cuda", True),
        (torch.optim.AdamW, "float32", "cpu", None),
        (torch.optim.Adagrad, "float16", "cuda", None),  # PyTorch has that on CPUs alone
        (torch.optim.Adagrad, "float16", "cpu", True),
        (partial(torch.optim.Adam, foreach=True), "float32", "cuda", None),
        (partial(torch.optim.Adam, fused=False), "float32", "cuda", False),
        (torch.optim.RMSprop, "float32", "cuda", None),
    ],
)
def test_steps_are_fused_on_a_gpu_unless_the_user_says_otherwise(optimizer, precision, device, fused):
    """The parameters are on the CPU, which has the same kernels."""
    module = nn.Linear(2, 1)
    made = suited(optimizer(module.parameters(), lr=0.1), precision, torch.device(device))
    assert made.param_groups[0].get("fused") is fused
    assert made.defaults.get("fused") is fused
    module(torch.ones(1, 2)).sum().backward()
    made.step()


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_fused_step_is_the_plain_one(name):
    """Three steps; momenta and squares, too."""
    plain, other = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
    other.load_state_dict(plain.state_dict())
    reference = OPTIMIZERS[name](plain)
    fused = suited(OPTIMIZERS[name](other), "float32", torch.device("cuda"))
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for parameter, twin in zip(plain.parameters(), other.parameters(), strict=True):
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            twin.grad = parameter.grad.clone()
        reference.step()
        fused.step()
    assert_close(state_of(other, fused), state_of(plain, reference), rtol=1e-5, atol=1e-6)


def test_gradients_that_are_never_finite_end_the_run():
    """Every step would be left out in silence."""
    module = nn.Linear(2, 1)
    optimizer = suited(sgd(module, rate=0.1), "float16", CPU)
    scaler = LossScaler(optimizer, "float16", CPU)
    scaler.restore({"scale": 2.0**-10, "growth_tracker": 0, "overflows": 5})
    take(scaler, optimizer, module, 1.0)
    assert scaler.numbers(scaler.tensors()) == {"loss_scale": 2.0**-10, "overflows": 5}
    take(scaler, optimizer, module, float("nan"))
    message = (
        "the loss scale has fallen to 0.000488281, because gradients are not finite at any scale. Try "
        "trainer.precision=bfloat16 or a lower optimizer.rate; the last checkpoint is from before"
    )
    with pytest.raises(FloatingPointError, match=f"^{re.escape(message)}$"):
        scaler.numbers(scaler.tensors())


def test_gradients_are_clipped_after_they_are_unscaled(cache, tmp_path):  # noqa: F811
    """The norm that is logged and limited is that of the float32 run, but for rounding."""
    norms = []
    for precision in ("float32", "float16"):
        settings = (
            "trainer.steps=1",
            "schedule.warmup_steps=0",
            "trainer.log_every=1",
            "trainer.clip_grad_norm=0.5",
            "optimizer=sgd",
        )
        run = make_run(
            tmp_path / precision, cache, NARROW[0], f"trainer.precision={precision}", *settings, CLIP
        )
        run.scaler.restore({"scale": 256.0, "growth_tracker": 0, "overflows": 0})
        engine.train(run)
        run.tracker.close()
        norms.append(curves(tmp_path / precision)["train/grad_norm"][0][1])
        clipped = torch.cat([p.grad.flatten() for p in run.task.module.parameters()]).norm()
        assert_close(clipped, torch.tensor(0.5), rtol=1e-4, atol=0)
    assert norms[0] > 1
    assert norms[1] == pytest.approx(norms[0], rel=0.05)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_float16_run_resumes_bit_for_bit(optimizer, cache, tmp_path):  # noqa: F811
    """Stopped among the first steps, of which some overflow: weights, momentum, scale and curves."""
    settings = (*NARROW, f"optimizer={optimizer}", "optimizer.rate=0.0001", "trainer.save_every=2")
    whole = finished(tmp_path / "whole", cache, *settings)
    run = make_run(tmp_path / "parts", cache, *settings)
    interrupt_after(run, 2)
    with pytest.raises(KeyboardInterrupt):
        engine.train(run)
    run.tracker.close()
    assert ckpt.load_checkpoint(tmp_path / "parts" / ckpt.LAST).scaler["overflows"] > 0
    resume(tmp_path / "parts")
    assert_same_run(tmp_path / "parts", whole)
    stored = [ckpt.load_checkpoint(folder / ckpt.LAST).scaler for folder in (tmp_path / "parts", whole)]
    assert stored[0] == stored[1]
    (_, first), (_, last) = curves(whole)["train/overflows"]
    assert 0 < first <= last == stored[1]["overflows"]
    assert curves(whole)["train/loss_scale"][1][1] == stored[1]["scale"] == 2.0 ** (16 - last)


@pytest.mark.parametrize(("before", "after"), [("float32", "float16"), ("float16", "bfloat16")])
def test_a_resume_may_change_the_precision(before, after, cache, tmp_path):  # noqa: F811
    """The optimiser's `fused` is the new run's; float16's scale starts anew."""
    run = make_run(tmp_path, cache, NARROW[0], f"trainer.precision={before}", "trainer.steps=2")
    engine.train(run)
    run.tracker.close()
    stored = ckpt.load_checkpoint(tmp_path / ckpt.LAST)
    assert (stored.scaler != {}) == (before == "float16")
    resume(tmp_path, f"trainer.precision={after}", "trainer.steps=3")
    stored = ckpt.load_checkpoint(tmp_path / ckpt.LAST)
    assert {bool(group["fused"]) for group in stored.optimizer["param_groups"]} == {after == "float16"}
    assert (stored.scaler != {}) == (after == "float16")


DAMAGED = (
    (3, "scaler is 3, must be a dict"),
    ({"scale": 1.0}, "scaler: growth_tracker is missing"),
    ({"scale": 0.0, "growth_tracker": 0, "overflows": 0}, "scaler: scale is 0.0, must be above 0"),
    ({"scale": "1", "growth_tracker": 0, "overflows": 0}, 'scaler: scale is "1", must be a number'),
    (
        {"scale": 1.0, "growth_tracker": 2**31, "overflows": 0},
        "scaler: growth_tracker is 2147483648, must be 0 or more",
    ),
    ({"scale": 1.0, "growth_tracker": 0, "overflows": -1}, "scaler: overflows is -1, must be 0 or more"),
)


def test_a_damaged_scale_is_named(cache, tmp_path):  # noqa: F811
    """Checkpoints of before, and of other precisions, have none."""
    run = make_run(tmp_path, cache, NARROW[0], "trainer.steps=2")
    engine.train(run)
    path = tmp_path / ckpt.LAST
    content = ckpt.read_tensors(path)
    assert content.pop("scaler") == {}
    assert ckpt.from_content(path, content).scaler == {}
    for scaler, problem in DAMAGED:
        with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {problem}; {GO_ON}')}$"):
            ckpt.from_content(path, content | {"scaler": scaler})


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_run_is_evaluated_in_its_own_precision(precision, cache, tmp_path):  # noqa: F811
    """In training, by evaluate.py and by predict; a float32 run is not touched by it."""
    run = make_run(tmp_path, cache, NARROW[0], f"trainer.precision={precision}", "trainer.steps=2")
    engine.train(run)
    dtypes = set()

    def note(module, images, output):
        dtypes.add(output.dtype)

    def watch(module):
        convolution = next(part for part in module.backbone.modules() if isinstance(part, nn.Conv2d))
        convolution.register_forward_hook(note)

    watch(run.task.module)
    run.task.evaluate()
    assert dtypes == {getattr(torch, precision)}
    dtypes.clear()
    run.task.config = replace(run.config, trainer=replace(run.config.trainer, precision="float32"))
    run.task.evaluate()
    assert dtypes == {torch.float32}

    predictor = load(tmp_path)
    watch(predictor.module)
    dtypes.clear()
    predictor.predict(np.zeros((20, 20, 3), np.uint8))
    assert dtypes == {getattr(torch, precision)}
