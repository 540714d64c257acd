"""Parameter groups, and the rate against Darknet's own get_current_rate formula written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detectors.config import ScheduleConfig
from detectors.layers import ConvBNLeaky, L2Norm
from detectors.optim import adamw, parameter_groups, rate_factor, set_rate, sgd


def small_network() -> nn.Module:
    return nn.Sequential(ConvBNLeaky(3, 8, 3), L2Norm(8), nn.Conv2d(8, 4, 1))


def names_of(group: dict, module: nn.Module) -> set[str]:
    return {name for name, p in module.named_parameters() if any(p is q for q in group["params"])}


def test_only_convolution_weights_decay_as_in_darknet():
    module = small_network()
    weights, biases, scales = parameter_groups(module, weight_decay=5e-4)
    assert (weights["weight_decay"], biases["weight_decay"], scales["weight_decay"]) == (5e-4, 0, 0)
    assert all(p.ndim == 4 for p in weights["params"])
    assert len(weights["params"]) == 2
    assert {name.rpartition(".")[2] for name in names_of(biases, module)} == {"bias"}
    everything = [p for group in (weights, biases, scales) for p in group["params"]]
    assert len(everything) == len(list(module.parameters()))


def test_caffes_rule():
    optimizer = sgd(small_network(), rate=0.1, bias_rate_factor=2, decay_scales=True)
    weights, biases, scales = optimizer.param_groups
    assert (weights["weight_decay"], biases["weight_decay"], scales["weight_decay"]) == (5e-4, 0, 5e-4)
    set_rate(optimizer, 0.01)
    assert (weights["lr"], biases["lr"], scales["lr"]) == (0.01, 0.02, 0.01)


def test_sgd_equals_darknets_update():
    """update_convolutional_layer: u -= decay w (weights only); w += rate u; u *= momentum. Three steps by hand."""
    module = nn.Conv2d(1, 1, 1)
    weight, bias = module.weight.item(), module.bias.item()
    optimizer = sgd(module, rate=0.1, momentum=0.9, weight_decay=0.01)
    u_weight = u_bias = 0.0
    for gradient in (0.5, -0.2, 0.3):
        module.weight.grad, module.bias.grad = torch.full((1, 1, 1, 1), gradient), torch.full((1,), gradient)
        optimizer.step()
        u_weight, u_bias = u_weight - gradient - 0.01 * weight, u_bias - gradient
        weight, bias = weight + 0.1 * u_weight, bias + 0.1 * u_bias
        u_weight, u_bias = 0.9 * u_weight, 0.9 * u_bias
    assert_close(torch.tensor([module.weight.item(), module.bias.item()]), torch.tensor([weight, bias]))


def test_frozen_parameters_and_empty_groups_are_left_out():
    module = nn.Conv2d(1, 1, 1, bias=False)
    assert len(adamw(module, rate=1e-3).param_groups) == 1
    module.weight.requires_grad_(False)
    assert parameter_groups(module, weight_decay=0.1) == []


def test_burn_in_and_steps_equal_darknet():
    schedule = ScheduleConfig(name="step", warmup_steps=1000, warmup_power=4, milestones=[40000, 60000], factors=[0.1, 0.1])
    for update, expected in ((1, 1e-12), (500, 0.0625), (999, 0.999**4), (1000, 1), (39999, 1), (40000, 0.1), (60000, 0.01), (80200, 0.01)):
        assert rate_factor(schedule, update, 80200) == pytest.approx(expected, rel=1e-9)


def test_cosine_falls_from_one_to_its_final_fraction():
    schedule = ScheduleConfig(name="cosine", warmup_steps=10, warmup_power=1, final_fraction=0.1)
    assert rate_factor(schedule, 5, 100) == 0.5
    assert rate_factor(schedule, 10, 100) == 1
    assert rate_factor(schedule, 55, 100) == pytest.approx(0.55)
    assert rate_factor(schedule, 100, 100) == pytest.approx(0.1)
    assert rate_factor(ScheduleConfig(name="constant"), 7, 100) == 1
