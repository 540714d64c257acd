"""Parameter groups, and the rate against Darknet's own get_current_rate formula written out."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detectors.config.build import build
from detectors.config.composing import composed
from detectors.config.schema import PhaseConfig, ScheduleConfig
from detectors.layers import ConvBNLeaky, L2Norm
from detectors.training.checkpoint_checks import checked_optimizer_state
from detectors.training.optim import (
    UNUSABLE,
    adamw,
    parameter_groups,
    rate_factor,
    set_rate,
    sgd,
    torch_optimizer,
)


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
    """update_convolutional_layer: u -= decay w (weights only); w += rate u; u *= momentum.

    Three steps by hand.
    """
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


def steps(*milestones: int, burn_in: int = 0, factors: tuple[float, ...] = (0.1, 0.1)) -> ScheduleConfig:
    return ScheduleConfig(
        name="step", warmup_steps=burn_in, warmup_power=4, milestones=list(milestones), factors=list(factors)
    )


def poly(burn_in: int = 0) -> ScheduleConfig:
    return ScheduleConfig(name="poly", warmup_steps=burn_in, warmup_power=4, power=4)


def test_burn_in_and_steps_equal_darknet():
    schedule = steps(40000, 60000, burn_in=1000)
    for update, expected in (
        (1, 1e-12),
        (500, 0.0625),
        (999, 0.999**4),
        (1000, 1),
        (39999, 1),
        (40000, 0.1),
        (60000, 0.01),
        (80200, 0.01),
    ):
        assert rate_factor(schedule, update, 80200) == pytest.approx(expected, rel=1e-9)


# cfg -> learning_rate, schedule and max_batches as the cfg has them.
DARKNET = {
    "yolov2-voc": (0.001, steps(40000, 60000, burn_in=1000), 80200),
    "yolov2": (0.001, steps(400000, 450000, burn_in=1000), 500200),
    "yolov2-tiny": (0.001, steps(400000, 450000, burn_in=1000), 500200),
    "yolov2-tiny-voc": (
        0.001,
        ScheduleConfig(name="constant"),
        40200,
    ),  # steps=-1 read as unsigned: it never leaves .001
    "darknet19": (0.1, poly(burn_in=1000), 800000),
    "darknet19_448": (0.001, poly(), 100000),
}


def test_rates_equal_those_that_darknet_recorded(fixtures):
    """get_current_rate of the C program for batch numbers around every corner.

    Its float32 shows in the last rates of poly: 1 - .999999.
    """
    recorded = {
        name: case["lr"]
        for name, case in json.loads((fixtures / "darknet/lr.json").read_text()).items()
        if name != "_note"
    }
    assert recorded.keys() == DARKNET.keys()
    for name, rates in recorded.items():
        full, schedule, updates = DARKNET[name]
        for update, expected in rates.items():
            assert full * rate_factor(schedule, int(update), updates) == pytest.approx(
                expected, rel=5e-7, abs=2e-25
            ), (name, update)
    assert sum(map(len, recorded.values())) == 49


def test_the_rates_that_yolov2_tiny_voc_cfg_means():
    """steps=-1,100,20000,30000 scales=.1,10,.1,.1 read as signed numbers, as Darknet did in 2016."""
    schedule = steps(-1, 100, 20000, 30000, factors=(0.1, 10, 0.1, 0.1))
    for update, expected in (
        (1, 1e-4),
        (99, 1e-4),
        (100, 1e-3),
        (19999, 1e-3),
        (20000, 1e-4),
        (29999, 1e-4),
        (30000, 1e-5),
        (40200, 1e-5),
    ):
        assert 0.001 * rate_factor(schedule, update, 40200) == pytest.approx(expected, rel=1e-9)


def caffes_update(weight: float, gradients: list[float], rates: list[float]) -> float:
    """SGDSolver::ComputeUpdateValue: history = momentum * history + rate * (gradient + decay * weight);
    weight -= history.
    """
    history = 0.0
    for gradient, rate in zip(gradients, rates, strict=True):
        history = 0.9 * history + rate * (gradient + 0.01 * weight)
        weight -= history
    return weight


@pytest.mark.parametrize("rate_in_momentum", [True, False])
def test_caffes_momentum_keeps_the_rate_of_its_day(rate_in_momentum):
    """With one rate, both updates are equal; after a drop only rate_in_momentum is Caffe's."""
    gradients, rates = [0.5, -0.2, 0.3, 0.1, 0.4], [0.1, 0.1, 0.01, 0.01, 0.02]
    module = nn.Conv2d(1, 1, 1)
    weight = module.weight.item()
    optimizer = sgd(
        module, rate=0.1, weight_decay=0.01, bias_rate_factor=2, rate_in_momentum=rate_in_momentum
    )
    for step, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        set_rate(optimizer, rate)
        module.weight.grad = torch.full((1, 1, 1, 1), gradient)
        optimizer.step()
        difference = abs(module.weight.item() - caffes_update(weight, gradients[:step], rates[:step]))
        assert (difference < 1e-6) == (rate_in_momentum or step < 3)


def test_the_momentums_rate_survives_a_resume():
    """What the drop multiplies the momentum by comes from the optimiser's own state."""
    results = []
    for resumed in (False, True):
        torch.manual_seed(0)
        module = nn.Conv2d(1, 1, 1)
        optimizer = sgd(module, rate=0.1, rate_in_momentum=True)
        for rate in (0.1, 0.01):
            if resumed and rate == 0.01:
                state = optimizer.state_dict()
                optimizer = sgd(module, rate=0.1, rate_in_momentum=True)
                optimizer.load_state_dict(state)
            set_rate(optimizer, rate)
            module.weight.grad, module.bias.grad = torch.ones(1, 1, 1, 1), torch.ones(1)
            optimizer.step()
        results.append(module.weight.item())
    assert results[0] == results[1]


def test_adamw_without_decay_is_adam():
    """The Keras course's optimiser needs no builder of its own."""
    ours, adam = small_network(), small_network()
    adam.load_state_dict(ours.state_dict())
    optimizers = adamw(ours, rate=5e-5, weight_decay=0.0), torch.optim.Adam(adam.parameters(), lr=5e-5)
    for seed in range(3):
        torch.manual_seed(seed)
        gradients = [torch.randn_like(p) for p in ours.parameters()]
        for module, optimizer in zip((ours, adam), optimizers, strict=True):
            for parameter, gradient in zip(module.parameters(), gradients, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
    assert_close(ours.state_dict(), adam.state_dict(), rtol=0, atol=0)


def test_cosine_falls_from_one_to_its_final_fraction():
    schedule = ScheduleConfig(name="cosine", warmup_steps=10, warmup_power=1, final_fraction=0.1)
    assert rate_factor(schedule, 5, 100) == 0.5
    assert rate_factor(schedule, 10, 100) == 1
    assert rate_factor(schedule, 55, 100) == pytest.approx(0.55)
    assert rate_factor(schedule, 100, 100) == pytest.approx(0.1)
    assert rate_factor(ScheduleConfig(name="constant"), 7, 100) == 1


ACCEPTED = {  # of torch 2.11
    *("ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW"),
    *("Adamax", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD"),
}


def test_every_class_of_torch_is_accepted_or_refused():
    classes = {name for name, value in vars(torch.optim).items() if isinstance(value, type)} - {"Optimizer"}
    assert classes == {*ACCEPTED, *UNUSABLE}


@pytest.mark.parametrize("name", sorted(ACCEPTED))
def test_any_optimiser_resumes_bit_for_bit(name):
    """Two steps, its state as a checkpoint holds it, and a third one."""
    module = small_network()
    optimizer = torch_optimizer(module, name=name, rate=0.01)
    gradients(optimizer, 0, 1)
    weights, state = copy.deepcopy(module.state_dict()), copy.deepcopy(optimizer.state_dict())
    gradients(optimizer, 2)

    twin = small_network()
    twin.load_state_dict(weights)
    resumed = torch_optimizer(twin, name=name, rate=0.01)
    resumed.load_state_dict(checked_optimizer_state(resumed, state, "x"))
    gradients(resumed, 2)
    assert_close(twin.state_dict(), module.state_dict(), rtol=0, atol=0)
    assert_close(resumed.state_dict()["state"], optimizer.state_dict()["state"], rtol=0, atol=0)
    assert any(not tensor.equal(weights[key]) for key, tensor in twin.state_dict().items())


def gradients(optimizer: torch.optim.Optimizer, *seeds: int) -> None:
    """A step for each seed, with the gradients that it gives."""
    for seed in seeds:
        torch.manual_seed(seed)
        set_rate(optimizer, 0.01 / (1 + seed))
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.randn_like(parameter)
        optimizer.step()


def test_a_factored_state_of_another_shape_is_named():
    """Adafactor keeps a row and a column of a matrix."""
    optimizer = torch_optimizer(small_network(), name="Adafactor", rate=0.01)
    gradients(optimizer, 0)
    state = copy.deepcopy(optimizer.state_dict())
    state["state"][0]["row_var"] = state["state"][0]["col_var"]
    with pytest.raises(
        ValueError, match=r"^x: optimizer: state\[0\]: row_var is torch.float32 \(8, 3, 1, 3\), "
    ):
        checked_optimizer_state(optimizer, state, "x")


def test_the_groups_are_those_of_the_other_optimisers():
    module = small_network()
    optimizer = torch_optimizer(
        module, name="RAdam", rate=0.1, weight_decay=0.2, bias_rate_factor=2, options={"betas": [0.5, 0.6]}
    )
    weights, biases, scales = optimizer.param_groups
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.2, 0, 0]
    assert [group["rate_factor"] for group in optimizer.param_groups] == [1, 2, 1]
    assert weights["betas"] == biases["betas"] == scales["betas"] == (0.5, 0.6)


NAMES = "ASGD, Adadelta, Adafactor, Adagrad, Adam, AdamW, Adamax, NAdam, RAdam, RMSprop, Rprop, SGD"


@pytest.mark.parametrize(
    ("keywords", "problem"),
    [
        ({"name": "NAdma"}, "name='NAdma': torch.optim has no such optimiser; did you mean NAdam?"),
        ({"name": "x"}, f"name='x': torch.optim has no such optimiser; there are: {NAMES}"),
        (
            {"name": "LBFGS"},
            "name='LBFGS': it computes the loss several times in a step; choose another one",
        ),
        ({"name": "SparseAdam"}, "name='SparseAdam': it takes sparse gradients only; choose another one"),
        (
            {"name": "Muon"},
            "name='Muon': it takes matrices only, which the weights of a convolution are not; "
            "choose another one",
        ),
        (
            {"name": "Adam", "options": {"beta": 1}},
            "options.beta=1: Adam has no such option; did you mean betas?",
        ),
        (
            {"name": "Adagrad", "options": {"maximize": True}},
            "options.maximize=True: Adagrad has no such option; "
            "there are: lr_decay, initial_accumulator_value, eps, foreach, fused",
        ),
        (
            {"name": "Adam", "options": 3},
            "options=3: must be a group of keywords, such as {eps: 1.0e-8}",
        ),
        (
            {"name": "Rprop", "weight_decay": 0.1},
            "weight_decay=0.1: Rprop has none; set optimizer.weight_decay=0",
        ),
        ({"name": "Adam", "options": {"eps": -1.0}}, "Invalid epsilon value: -1.0"),
        (
            {"name": "Adam", "options": {"eps": "x"}},
            "options={'eps': 'x'}: Adam refuses them "
            "('<=' not supported between instances of 'float' and 'str')",
        ),
    ],
)
def test_what_torch_does_not_have_is_refused(keywords, problem):
    with pytest.raises(ValueError) as error:
        torch_optimizer(small_network(), rate=0.1, **keywords)
    assert str(error.value) == problem


def test_the_courses_optimisers():
    """Keras' Adam and RMSprop, as the notebook makes them."""
    for name, kind in (("adam", torch.optim.Adam), ("rmsprop", torch.optim.RMSprop)):
        assert type(build(composed([f"optimizer={name}"])["optimizer"], small_network())) is kind


def test_phases_join_without_a_jump():
    """Each multiplies the fraction at which the one before it ended; the warm-up is the schedule's."""
    schedule = ScheduleConfig(
        name="phases",
        warmup_steps=10,
        phases=[
            PhaseConfig("constant", until=100),
            PhaseConfig("cosine", until=200, final_fraction=0.5),
            PhaseConfig("step", milestones=[210, 220], factors=[0.1, 2.0], until=300),
            PhaseConfig("poly", power=2.0),
        ],
    )
    for update, expected in (
        (5, 0.5),
        (10, 1),
        (100, 1),
        (150, 0.75),
        (200, 0.5),
        (209, 0.5),
        (210, 0.05),
        (220, 0.1),
        (300, 0.1),
        (350, 0.025),
        (400, 0),
    ):
        assert rate_factor(schedule, update, 400) == pytest.approx(expected), update


@pytest.mark.parametrize("name", ["constant", "step", "cosine", "poly"])
def test_one_phase_is_the_schedule_itself(name):
    settings = {"milestones": [30, 60], "factors": [0.3, 0.2], "final_fraction": 0.1, "power": 3.0}
    alone = ScheduleConfig(name, **settings, warmup_steps=7, warmup_power=2.0)
    phase = ScheduleConfig("phases", warmup_steps=7, warmup_power=2.0, phases=[PhaseConfig(name, **settings)])
    assert [rate_factor(phase, step, 90) for step in range(1, 91)] == [
        rate_factor(alone, step, 90) for step in range(1, 91)
    ]


def test_options_are_given_on_the_command_line():
    node = composed(["optimizer=torch", "optimizer.name=RMSprop", "optimizer.options={alpha: 0.5}"])[
        "optimizer"
    ]
    assert {group["alpha"] for group in build(node, small_network()).param_groups} == {0.5}
    node = composed(["optimizer=adam", "+optimizer.options.amsgrad=true"])["optimizer"]
    assert {group["amsgrad"] for group in build(node, small_network()).param_groups} == {True}
