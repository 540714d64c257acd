"""trainer.freeze: which parameters it takes, and that they and their statistics do not change."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detectors.commands import train as script
from detectors.layers import ConvBNLeaky
from detectors.training import checkpoint as ckpt
from detectors.training import engine
from detectors.training.freezing import freeze, train_mode
from tests.training.test_engine import cache, interrupt_after, make_run, one_thread  # noqa: F401 - fixtures
from tests.training.test_saving import assert_same_run, finished, resume


def network() -> nn.ModuleDict:
    return nn.ModuleDict(
        {"body": ConvBNLeaky(3, 4, 3), "bodywork": nn.Conv2d(4, 4, 1), "head": nn.Conv2d(4, 2, 1)}
    )


@pytest.mark.parametrize(
    ("patterns", "frozen"),
    [
        ([], []),
        (["body"], ["body.conv.weight", "body.norm.weight", "body.norm.bias"]),
        (
            ["body*"],
            ["body.conv.weight", "body.norm.weight", "body.norm.bias", "bodywork.weight", "bodywork.bias"],
        ),
        (["*.bias"], ["body.norm.bias", "bodywork.bias", "head.bias"]),
        (["body.norm", "head.bias"], ["body.norm.weight", "body.norm.bias", "head.bias"]),
        (["b*.weight"], ["body.conv.weight", "body.norm.weight", "bodywork.weight"]),
    ],
)
def test_a_pattern_is_a_whole_name(patterns, frozen):
    module = network()
    freeze(module, patterns)
    assert [name for name, parameter in module.named_parameters() if not parameter.requires_grad] == frozen


@pytest.mark.parametrize(
    ("patterns", "problem"),
    [
        (["bdy"], "trainer.freeze: 'bdy' matches no parameter of the network; did you mean body?"),
        (
            ["body", "body.nrm"],
            "trainer.freeze: 'body.nrm' matches no parameter of the network; did you mean body.norm?",
        ),
        (["xyz"], "trainer.freeze: 'xyz' matches no parameter of the network"),
        (["*"], "trainer.freeze=['*']: no parameter is left to train; freeze fewer"),
    ],
)
def test_patterns_that_cannot_be_meant(patterns, problem):
    with pytest.raises(ValueError) as error:
        freeze(network(), patterns)
    assert str(error.value) == problem


def test_statistics_stay_where_all_parameters_of_a_layer_are_frozen():
    """Half a layer keeps learning its statistics; so does all with freeze_statistics=False."""
    for patterns, fixed, training in (
        (["body"], True, False),
        (["body"], False, True),
        (["*bias"], True, True),
        ([], True, True),
    ):
        module = network().eval()
        freeze(module, patterns)
        train_mode(module, freeze_statistics=fixed)
        assert module["body"].norm.training is training
        assert module["head"].training


FROZEN = ("trainer.freeze=[backbone]",)


def test_a_frozen_backbone_does_not_change(cache, tmp_path, caplog):  # noqa: F811
    run = make_run(tmp_path, cache, *FROZEN, "trainer.ema_decay=0.5")
    total = sum(parameter.numel() for parameter in run.task.module.parameters())
    head = sum(
        p.numel() for name, p in run.task.module.named_parameters() if not name.startswith("backbone.")
    )
    assert f"yolov2_160: {total:,} parameters, of which {head:,} train, " in caplog.text
    before = {name: tensor.clone() for name, tensor in run.task.module.state_dict().items()}
    engine.train(run)
    after = ckpt.load_checkpoint(tmp_path / ckpt.LAST)
    changed = {
        name.partition(".")[0] for name, tensor in before.items() if not tensor.equal(after.model[name])
    }
    assert changed == {"neck", "head"}
    assert {name.partition(".")[0] for name in before if not before[name].equal(after.ema[name])} == {
        "neck",
        "head",
    }
    assert all(p.grad is None for p in run.task.module.backbone.parameters())
    assert sum(p.numel() for group in run.optimizer.param_groups for p in group["params"]) == head
    assert run.task.summary()["parameters"] == total


def test_statistics_follow_the_images_where_one_wants_it(cache, tmp_path):  # noqa: F811
    run = make_run(tmp_path, cache, *FROZEN, "trainer.freeze_statistics=false", "trainer.steps=2")
    before = {name: tensor.clone() for name, tensor in run.task.module.backbone.state_dict().items()}
    engine.train(run)
    changed = {
        name.rpartition(".")[2]
        for name, tensor in run.task.module.backbone.state_dict().items()
        if not tensor.equal(before[name])
    }
    assert changed == {"running_mean", "running_var", "num_batches_tracked"}


def test_a_resume_with_frozen_parameters_is_exact(cache, tmp_path):  # noqa: F811
    whole = finished(tmp_path / "whole", cache, *FROZEN)
    run = make_run(tmp_path / "parts", cache, *FROZEN)
    interrupt_after(run, 3)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 3"):
        engine.train(run)
    run.tracker.close()
    resume(tmp_path / "parts")
    assert_same_run(tmp_path / "parts", whole)
    stored = ckpt.load_checkpoint(whole / ckpt.LAST)
    what = f"trainer.freeze=[]: the run of {stored.path} has trainer.freeze=['backbone'], and a resume cannot"
    with pytest.raises(ValueError, match=f"^{re.escape(what)}"):
        script.resumed_config(stored, ["trainer.freeze=[]"])


@pytest.mark.slow
@pytest.mark.parametrize("compiled", ["false", "true"])
def test_frozen_numbers_stay_with_all_that_touches_weights(compiled, cache, tmp_path):  # noqa: F811
    """Bit for bit, in the weights and in their average: accumulation, decay, compilation, a stop."""
    together = (
        "trainer.ema_decay=0.9",
        "trainer.accumulate=2",
        "trainer.batch_size=2",
        "init.randomize=last",
    )
    overrides = ("trainer.freeze=[backbone,neck]", f"trainer.compile={compiled}", *together)
    run = make_run(tmp_path, cache, *overrides)
    before = {name: tensor.clone() for name, tensor in run.task.module.state_dict().items()}
    interrupt_after(run, 3 * 2)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 3"):
        engine.train(run)
    run.tracker.close()
    resume(tmp_path)
    stored = ckpt.load_checkpoint(tmp_path / ckpt.LAST)
    assert stored.step == 6
    for state in (stored.model, stored.ema):
        changed = {name for name, tensor in before.items() if not tensor.equal(state[name])}
        assert changed == {"head.conv.weight", "head.conv.bias"}


def test_a_frozen_network_in_training_equals_its_evaluation():
    """Its normalisation is by running statistics in both modes."""
    torch.manual_seed(0)
    module = ConvBNLeaky(3, 4, 3)
    freeze(nn.ModuleDict({"body": module, "head": nn.Conv2d(1, 1, 1)}), ["body"])
    images = torch.randn(2, 3, 8, 8)
    expected = module.eval()(images)
    train_mode(module, freeze_statistics=True)
    assert_close(module(images), expected, rtol=0, atol=0)
