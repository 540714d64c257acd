"""optimizer.rates: factors of the rate by names, over the schedule and a resume."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detectors.commands import train as script
from detectors.layers import ConvBNLeaky
from detectors.training import checkpoint as ckpt
from detectors.training import engine
from detectors.training.freezing import freeze
from detectors.training.optim import adamw, parameter_groups, set_rate, sgd
from tests.training.test_engine import cache, interrupt_after, make_run, one_thread  # noqa: F401 - fixtures
from tests.training.test_saving import assert_same_run, finished, resume

RATES = "optimizer.rates={backbone: 0.1, head.*bias: 3}"


def network() -> nn.ModuleDict:
    return nn.ModuleDict(
        {"body": ConvBNLeaky(3, 4, 3), "neck": nn.Conv2d(4, 4, 1), "head": nn.Conv2d(4, 2, 1)}
    )


def rates_of(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Name of each parameter -> the rate of its group."""
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    return {name: rates[id(p)] for name, p in module.named_parameters()}


def test_a_factor_multiplies_the_rate_and_the_biases_own_factor():
    """The last pattern that matches counts; every parameter is in one group, with its kind's decay."""
    module = network()
    rates = {"body": 0.1, "*.weight": 0.5, "head": 2.0}
    optimizer = sgd(module, rate=1.0, weight_decay=0.3, bias_rate_factor=2, rates=rates)
    set_rate(optimizer, 10.0)
    assert rates_of(module, optimizer) == {
        "body.conv.weight": 5.0,
        "body.norm.weight": 5.0,
        "body.norm.bias": 2.0,
        "neck.weight": 5.0,
        "neck.bias": 20.0,
        "head.weight": 20.0,
        "head.bias": 40.0,
    }
    decay = {group["name"].partition("/")[0]: group["weight_decay"] for group in optimizer.param_groups}
    assert decay == {"weights": 0.3, "biases": 0.0, "scales": 0.0}


def test_without_factors_the_groups_are_those_of_before():
    """So that older checkpoints go on."""
    for rates in (None, {}):
        groups = parameter_groups(network(), weight_decay=0.1, rates=rates)
        assert [group["name"] for group in groups] == ["weights", "biases", "scales"]


def test_a_step_equals_that_of_an_optimiser_with_the_product():
    """AdamW with rate * factor for a part alone, as two optimisers would take it."""
    torch.manual_seed(0)
    module, twin = network(), network()
    twin.load_state_dict(module.state_dict())
    optimizer = adamw(module, rate=1.0, rates={"body": 0.25})
    parts = [
        adamw(twin["body"], rate=1.0),
        adamw(nn.ModuleList([twin["neck"], twin["head"]]), rate=1.0),
    ]
    for rate in (0.1, 0.02):
        for parameter, same in zip(module.parameters(), twin.parameters(), strict=True):
            parameter.grad = torch.randn_like(parameter)
            same.grad = parameter.grad.clone()
        set_rate(optimizer, rate)
        set_rate(parts[0], rate * 0.25)
        set_rate(parts[1], rate)
        for each in (optimizer, *parts):
            each.step()
    assert_close(module.state_dict(), twin.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("rates", "problem"),
    [
        ({"bdy": 0.1}, "rates: 'bdy' matches no parameter of the network; did you mean body?"),
        ({"body": 0}, "rates: body=0: must be a number above 0; trainer.freeze keeps parameters as they are"),
        ({"body": True}, "rates: body=True: must be a number above 0; trainer.freeze keeps parameters as"),
        ({"neck": 0.1}, "rates: 'neck' matches frozen parameters alone; leave it out, or freeze fewer"),
        ([0.1], "rates=[0.1]: must be factors by pattern, such as {backbone: 0.1}"),
    ],
)
def test_factors_that_cannot_be_meant(rates, problem):
    module = network()
    freeze(module, ["neck"])
    with pytest.raises(ValueError) as error:
        sgd(module, rate=0.1, rates=rates)
    assert str(error.value).startswith(problem)


def test_a_resume_with_factors_is_exact(cache, tmp_path, caplog):  # noqa: F811
    """And keeps them: they are stored with the run, and a changed factor is refused."""
    whole = finished(tmp_path / "whole", cache, RATES)
    assert "rate of weights/backbone: 0.1 x the schedule's, " in caplog.text
    assert "rate of biases/head.*bias: 3 x the schedule's, " in caplog.text
    run = make_run(tmp_path / "parts", cache, RATES)
    interrupt_after(run, 3)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 3"):
        engine.train(run)
    run.tracker.close()
    resume(tmp_path / "parts")
    assert_same_run(tmp_path / "parts", whole)
    stored = ckpt.load_checkpoint(whole / ckpt.LAST)
    assert stored.config["optimizer"]["rates"] == {"backbone": 0.1, "head.*bias": 3}
    with pytest.raises(ValueError, match="a resumed run keeps the configuration"):
        script.resumed_config(stored, ["optimizer.rates={backbone: 0.2}"])
