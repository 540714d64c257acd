"""Optimisers with the originals' parameter groups, and the learning rate as a pure function of the step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from inspect import signature
from math import cos, inf, pi, prod
from typing import Any

import torch
from torch import Tensor, nn

from detectors.config.schema import CurveConfig, ScheduleConfig
from detectors.data.suggestions import did_you_mean
from detectors.structures import builder
from detectors.training.name_patterns import matching_names

UNUSABLE = {  # in torch.optim, and why a detector cannot be trained with it
    "LBFGS": "it computes the loss several times in a step",
    "SparseAdam": "it takes sparse gradients only",
    "Muon": "it takes matrices only, which the weights of a convolution are not",
}
# Keywords of torch.optim's classes that are no `options`: they have a setting here, or would not train.
NO_OPTIONS = ("params", "lr", "weight_decay", "maximize", "differentiable", "capturable")


@builder("optimizer")
def sgd(
    module: nn.Module,
    *,
    rate: float,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    bias_rate_factor: float = 1.0,
    decay_scales: bool = False,
    rate_in_momentum: bool = False,
    rates: dict[str, float] | None = None,
) -> torch.optim.SGD:
    """Darknet's update (update_convolutional_layer): weight decay on convolution weights only, plain
    momentum.

    Caffe's SSD has bias_rate_factor=2: biases learn twice as fast, without decay; decay_scales=True: L2Norm's
    scale decays; rate_in_momentum=True: v = momentum * v + rate * gradient, w -= v, so that earlier gradients
    keep the rate of their own step after the rate drops. rates: see parameter_groups.
    """
    groups = parameter_groups(
        module,
        weight_decay=weight_decay,
        bias_rate_factor=bias_rate_factor,
        decay_scales=decay_scales,
        rates=rates,
    )
    for group in groups:
        group["rate_in_momentum"] = rate_in_momentum
    return torch.optim.SGD(groups, lr=rate, momentum=momentum)


@builder("optimizer")
def adamw(
    module: nn.Module,
    *,
    rate: float,
    weight_decay: float = 0.02,
    betas: tuple[float, float] = (0.9, 0.999),
    rates: dict[str, float] | None = None,
) -> torch.optim.AdamW:
    """AdamW with decay on convolution weights only. It trains small networks from scratch in fewer steps.

    It is in neither paper. weight_decay=0 is Adam, which the Keras course uses. rates: see parameter_groups.
    """
    groups = parameter_groups(module, weight_decay=weight_decay, rates=rates)
    return torch.optim.AdamW(groups, lr=rate, betas=tuple(betas))


@builder("optimizer")
def torch_optimizer(
    module: nn.Module,
    *,
    name: str,
    rate: float,
    weight_decay: float = 0.0,
    bias_rate_factor: float = 1.0,
    decay_scales: bool = False,
    options: dict[str, Any] | None = None,
    rates: dict[str, float] | None = None,
) -> torch.optim.Optimizer:
    """torch.optim's `name`, such as Adam, NAdam, RMSprop. options: its other keywords, such as betas.

    bias_rate_factor, decay_scales, rates: as of sgd. ValueError for a name or a keyword that it does not
    have.
    """
    kind = _torch_class(name)
    known = [key for key in signature(kind).parameters if key not in NO_OPTIONS]
    options = {} if options is None else options
    if not isinstance(options, dict):
        raise ValueError(f"options={options!r}: must be a group of keywords, such as {{eps: 1.0e-8}}")
    for key in options:
        if key not in known:
            hint = did_you_mean(key, known, listed=True)
            raise ValueError(f"options.{key}={options[key]!r}: {name} has no such option{hint}")
    if weight_decay and "weight_decay" not in signature(kind).parameters:
        raise ValueError(f"weight_decay={weight_decay}: {name} has none; set optimizer.weight_decay=0")
    groups = parameter_groups(
        module,
        weight_decay=weight_decay,
        bias_rate_factor=bias_rate_factor,
        decay_scales=decay_scales,
        rates=rates,
    )
    keywords = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    try:
        return kind(groups, lr=rate, **keywords)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"options={options}: {name} refuses them ({error})") from error


def _torch_class(name: str) -> type[torch.optim.Optimizer]:
    kinds = {
        key: value
        for key, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and key != "Optimizer"
    }
    if name in UNUSABLE:
        raise ValueError(f"name={name!r}: {UNUSABLE[name]}; choose another one")
    if name not in kinds:
        usable = sorted(kinds.keys() - UNUSABLE.keys())
        raise ValueError(
            f"name={name!r}: torch.optim has no such optimiser{did_you_mean(name, usable, listed=True)}"
        )
    return kinds[name]


def parameter_groups(
    module: nn.Module,
    *,
    weight_decay: float,
    bias_rate_factor: float = 1.0,
    decay_scales: bool = False,
    rates: Mapping[str, float] | None = None,
) -> list[dict]:
    """Three groups: convolution weights (decay), biases (no decay), scales of BatchNorm and L2Norm
    (decay_scales). With `rates`, three for each pattern, too.

    Each has a `rate_factor`, by which the loop multiplies the schedule's rate. Frozen parameters and empty
    groups are left out. rates: pattern of names, as of trainer.freeze -> factor; of several patterns that
    match a parameter, the last one counts. ValueError: see rates_by_name.
    """
    rates = rates or {}
    pattern_of = rates_by_name(module, rates)
    members: dict[tuple[str, str | None], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            kind = "biases" if name.endswith("bias") else "weights" if parameter.ndim > 1 else "scales"
            members.setdefault((kind, pattern_of.get(name)), []).append(parameter)
    kinds = {
        "weights": (weight_decay, 1.0),
        "biases": (0.0, bias_rate_factor),
        "scales": (weight_decay if decay_scales else 0.0, 1.0),
    }
    return [
        {
            "name": kind if pattern is None else f"{kind}/{pattern}",
            "params": members[kind, pattern],
            "weight_decay": decay,
            "rate_factor": factor if pattern is None else factor * rates[pattern],
        }
        for kind, (decay, factor) in kinds.items()
        for pattern in (None, *rates)
        if (kind, pattern) in members
    ]


def rates_by_name(module: nn.Module, rates: Mapping[str, float]) -> dict[str, str]:
    """Parameter -> the pattern of `rates` that counts for it.

    ValueError for a pattern that matches nothing, or frozen parameters alone, and for a factor that is no
    number above 0.
    """
    if not isinstance(rates, Mapping):
        raise ValueError(f"rates={rates!r}: must be factors by pattern, such as {{backbone: 0.1}}")
    trained = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    pattern_of = {}
    for pattern, factor in rates.items():
        if type(factor) not in (int, float) or not 0 < factor < inf:
            fix = "must be a number above 0; trainer.freeze keeps parameters as they are"
            raise ValueError(f"rates: {pattern}={factor!r}: {fix}")
        names = matching_names(list(trained), pattern, "rates")
        if not any(trained[name] for name in names):
            raise ValueError(
                f"rates: {pattern!r} matches frozen parameters alone; leave it out, or freeze fewer"
            )
        pattern_of |= dict.fromkeys(names, pattern)
    return pattern_of


def group_rate_lines(optimizer: torch.optim.Optimizer) -> Iterator[str]:
    """A line for each group: its factor and how many numbers it has."""
    for group in optimizer.param_groups:
        count = sum(parameter.numel() for parameter in group["params"])
        yield f"rate of {group['name']}: {group['rate_factor']:g} x the schedule's, {count:,} parameters"


def rate_factor(schedule: ScheduleConfig, update: int, updates: int) -> float:
    """The fraction of the full rate at step `update` of `updates`; the first step is 1, as in Darknet.

    Warm-up is Darknet's burn_in, (update / warmup_steps) ** warmup_power while update < warmup_steps; nothing
    else acts during it. Equals get_current_rate of Darknet's network.c (tests/training/test_optim.py) but for
    steps=-1, see docs/yolov2.md. A phase multiplies the fraction at which the one before it ended.
    """
    warmup = schedule.warmup_steps
    if update < warmup:
        return (update / warmup) ** schedule.warmup_power
    fraction = 1.0
    begin = 0
    for phase in schedule.phases[:-1]:
        if update <= phase.until:
            return fraction * _curve(phase, update, begin, phase.until, warmup)
        fraction *= _curve(phase, phase.until, begin, phase.until, warmup)
        begin = phase.until
    last = schedule.phases[-1] if schedule.phases else schedule
    return fraction * _curve(last, update, begin, updates, warmup)


def _curve(curve: CurveConfig, update: int, begin: int, end: int, warmup: int) -> float:
    """The fraction at step `update` of a curve that follows step `begin` and ends with step `end`."""
    if curve.name == "step":
        return prod(
            factor
            for milestone, factor in zip(curve.milestones, curve.factors, strict=True)
            if update >= milestone
        )
    if curve.name == "cosine":
        begin = max(begin, warmup)
        done = (update - begin) / max(1, end - begin)
        return curve.final_fraction + (1 - curve.final_fraction) * (1 + cos(pi * done)) / 2
    if curve.name == "poly":
        return (1 - (update - begin) / (end - begin)) ** curve.power
    return 1.0


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Gives every group the rate times its rate_factor; with rate_in_momentum, its momentum keeps the old
    rate.

    PyTorch multiplies the whole momentum by the current rate. Divided by the change of the rate, it is
    Caffe's v.
    """
    for group in optimizer.param_groups:
        before = group["lr"]
        group["lr"] = rate * group["rate_factor"]
        if group.get("rate_in_momentum") and group["lr"] not in (0, before):
            for parameter in group["params"]:
                if (momentum := optimizer.state.get(parameter, {}).get("momentum_buffer")) is not None:
                    momentum.mul_(before / group["lr"])


def lay_out_state(optimizer: torch.optim.Optimizer) -> None:
    """Lays out momenta and squares as their parameters are: a resume may change trainer.memory_format."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
