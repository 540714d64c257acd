"""Darknet's training (train.json, train_*.npz): some optimiser steps of a small network; and its learning
rates (lr.json).

`step0_layerNN_*_updates` are the negative gradients of the first forward pass, summed over its images and
before any decay; `final_layerNN_*` are the parameters and running statistics after the last update. An update
follows `subdivisions` forward passes of `batch_per_forward` images each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detectors.coders import YoloBoxCoder
from detectors.commands.verify import darknet_nets, region_layer
from detectors.commands.verify.comparison import (
    EXACT,
    Comparison,
    Fixture,
    Tolerance,
    compare_numbers,
    known_difference,
    merge,
)
from detectors.commands.verify.recordings import Arrays, Folder, Settings
from detectors.commands.verify.streams import darknet_images
from detectors.config.schema import ScheduleConfig
from detectors.darknet.cfg import read_cfg
from detectors.darknet.network import DarknetNetwork
from detectors.darknet.region import activate, head_outputs, region_matcher
from detectors.darknet.sections import Cost, DarknetCfg, Net, Softmax
from detectors.targets import TargetEncoder
from detectors.training.optim import rate_factor, set_rate, sgd

UPDATES = Tolerance(of_largest=1e-4)
FINAL = Tolerance(absolute=2e-6)  # float32 sums
RATES = Tolerance(relative=1e-6)  # float32 and powf
ROUNDING = 6e-8  # of a float32 near 1
STEP_PARTS = {
    "biases": "bias",
    "scales": "weight",
    "rolling_mean": "running_mean",
    "rolling_variance": "running_var",
}  # of the batch norm
UNSIGNED = (
    "Darknet compares steps=-1 as an unsigned number and so never comes past it; "
    "here it is a step that has passed"
)


def steps(folder: Folder, name: Path) -> Iterator[Fixture]:
    """train.json and one npz for each of its cases"""
    for case, settings in folder.json(name).items():
        arrays = name.with_name(f"{name.stem}_{case}.npz")
        yield Fixture(f"{name.stem}/{case}", partial(_steps, folder, name, settings, arrays))


def rates(folder: Folder, name: Path) -> Iterator[Fixture]:
    """lr.json: batch number -> get_current_rate, of the cfg of that name"""
    for case, settings in folder.json(name).items():
        if not case.startswith("_"):
            yield Fixture(f"{name.stem}/{case}", partial(_rates, folder, name, case, settings))


def schedule_of(net: Net) -> ScheduleConfig:
    """The cfg's policy in our terms. ValueError for one that the YOLOv2 family does not use."""
    names = {"constant": "constant", "steps": "step", "poly": "poly"}
    if net.policy not in names:
        raise ValueError(f"policy={net.policy}: known are {', '.join(names)}")
    warmup = {"warmup_steps": net.burn_in, "warmup_power": net.power}
    return ScheduleConfig(
        names[net.policy], **warmup, milestones=list(net.steps), factors=list(net.scales), power=net.power
    )


def _rates(folder: Folder, name: Path, case: str, settings: Settings) -> Iterator[Comparison]:
    net = read_cfg(_cfg(folder, name, case, settings)).net
    at_once = net.batch // net.subdivisions  # Darknet's `batch` once it has read the cfg
    yield compare_numbers(
        "batch and subdivisions",
        [at_once, net.subdivisions],
        [settings["batch"], settings["subdivisions"]],
        EXACT,
    )
    recorded = {int(batch): rate for batch, rate in settings["lr"].items()}
    ours = {
        batch: net.learning_rate * rate_factor(schedule_of(net), batch, net.max_batches) for batch in recorded
    }
    if min(net.steps, default=0) >= 0:
        each = [
            compare_numbers(f"batch {n}", ours[n], rate, _rate_tolerance(net, n))
            for n, rate in recorded.items()
        ]
        yield merge(f"rates at {len(recorded)} batch numbers", each)
        return
    at = next(n for n, step in enumerate(net.steps) if step < 0)
    stuck = ScheduleConfig("step", net.burn_in, net.power, list(net.steps[:at]), list(net.scales[:at]))
    theirs = {batch: net.learning_rate * rate_factor(stuck, batch, net.max_batches) for batch in recorded}
    meant = ", ".join(
        f"{batch}: {ours[batch]:g}"
        for batch in recorded
        if not np.isclose(ours[batch], recorded[batch], rtol=1e-6)
    )
    comparison = compare_numbers(
        f"rates at {len(recorded)} batch numbers, with the slip",
        list(theirs.values()),
        list(recorded.values()),
        RATES,
    )
    yield known_difference(comparison, f"{UNSIGNED} ({meant})")


def _cfg(folder: Folder, name: Path, case: str, settings: Settings) -> Path:
    places = (
        [settings["cfg"]] if "cfg" in settings else [f"{place}/{case}.cfg" for place in ("cfg-full", "cfg")]
    )
    place = next((place for place in places if (folder.root / name.parent / place).is_file()), places[0])
    return folder.path(name.parent / place)


def _rate_tolerance(net: Net, batch: int) -> Tolerance:
    """poly takes 1 - batch / max_batches in float32, which has few digits left near the end."""
    if net.policy != "poly" or batch < net.burn_in or batch == net.max_batches:
        return RATES
    return Tolerance(relative=RATES.relative + net.power * ROUNDING / abs(1 - batch / net.max_batches))


def _steps(folder: Folder, name: Path, case: Settings, file: Path) -> Iterator[Comparison]:
    arrays = folder.arrays(file)
    config = darknet_nets.config_of(folder, name, case)
    if case["bn"] != "gpu":
        raise ValueError(
            f"bn={case['bn']!r}: Darknet's CPU build cannot train; its batch norm is not trained with here"
        )
    *checks, stream = darknet_nets.parameters_of(case, config)
    yield from checks
    batch = case["batch_per_forward"]
    subdivisions = case["subdivisions"]
    yield compare_numbers(
        "batch and subdivisions",
        [config.net.batch, config.net.subdivisions],
        [batch * subdivisions, subdivisions],
        EXACT,
    )
    net = darknet_nets.loaded_network(config, stream, seen=case["seen_start"]).train()
    run = _Run(net, config, case, arrays)
    for step, images in enumerate(torch.from_numpy(darknet_images(case["input_seed"], *case["input_shape"]))):
        yield from run.forward(step, images)
    yield compare_numbers("rates of the updates", run.rates, [case["lr"][n] for n in run.updated], RATES)
    yield compare_numbers("number of updates", len(run.updated), case["updates"], EXACT)
    arrays.skip("lr", "cost")  # the json has them, too
    yield from _final(net, arrays)


class _Run:
    """A training, one forward pass after another."""

    def __init__(self, net: DarknetNetwork, config: DarknetCfg, case: Settings, arrays: Arrays):
        self.net = net
        self.config = config
        self.case = case
        self.arrays = arrays
        self.optimizer = sgd(
            net, rate=config.net.learning_rate, momentum=config.net.momentum, weight_decay=config.net.decay
        )
        self.seen = case["seen_start"]
        self.updated: list[int] = []  # forward passes that ended in an update
        self.rates: list[float] = []

    def forward(self, step: int, images: Tensor) -> Iterator[Comparison]:
        """One forward and backward pass; an update after the last of a batch. images: (B, C, H, W)."""
        batch = len(images)
        subdivisions = self.case["subdivisions"]
        net = self.config.net
        self.seen += batch
        truth = self.arrays["truth"][step]
        look = self._region if self.config.region else self._classifier
        loss, cost, comparisons = look(step, images, truth)
        yield from comparisons
        yield compare_numbers(f"forward {step}: cost", cost, self.case["cost"][step], region_layer.COST)
        (loss / (batch * subdivisions)).backward()  # the update is by the mean over the whole batch
        if step == 0:
            yield from _updates(self.net, self.arrays, scale=-batch * subdivisions)
        if (step + 1) % subdivisions == 0:
            rate = net.learning_rate * rate_factor(
                schedule_of(net), self.seen // (batch * subdivisions), net.max_batches
            )
            set_rate(self.optimizer, rate)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.updated.append(step)
            self.rates.append(rate)
        yield compare_numbers(
            f"forward {step}: images seen", self.seen, self.arrays["seen_after"][step], EXACT
        )

    def _region(self, step: int, images: Tensor, truth: np.ndarray) -> tuple[Tensor, float, list[Comparison]]:
        """Sum of the loss over the images, Darknet's cost, and what the recording has besides."""
        settings = self.config.region
        raw = self.net.raw(images)
        outputs = head_outputs(raw, settings)
        cells = tuple(raw.shape[-2:])
        batch = len(images)
        grid = region_layer.cell_grid(settings, cells)
        targets = region_layer.region_targets(truth, cells)
        encoded = TargetEncoder(region_matcher(settings), YoloBoxCoder())(targets, grid, outputs)
        loss = region_layer.seen_loss(settings, seen=self.seen, batch=batch)
        total = batch * sum(loss(outputs, encoded, grid).values())
        delta = region_layer.region_delta(raw.detach(), settings, truth, seen=self.seen)
        comparisons = []
        if step == 0:
            comparisons.append(
                compare_numbers(
                    "forward 0: region output",
                    activate(raw, settings),
                    self.arrays["step0_region_output"],
                    darknet_nets.LAYERS,
                )
            )
            comparisons.append(
                compare_numbers(
                    "forward 0: region delta", delta, self.arrays["step0_region_delta"], region_layer.DELTAS
                )
            )
        statistics = loss.statistics(outputs, encoded, grid)
        printed = [float(number) for number in re.findall(r": +(-?nan|[\d.]+)", self.case["printed"][step])]
        ours = [float(statistics[key]) for key in region_layer.PRINTED]
        comparisons.append(
            compare_numbers(
                f"forward {step}: printed statistics", ours, printed, region_layer.REGION_STATISTICS
            )
        )
        return total, region_layer.darknet_cost(delta), comparisons

    def _classifier(
        self, step: int, images: Tensor, truth: np.ndarray
    ) -> tuple[Tensor, float, list[Comparison]]:
        """[softmax] holds the cross-entropy; a [cost] behind it adds its squared error, whose delta is the
        same, truth - p.
        """
        kinds = [type(layer.settings) for layer in self.config.layers]
        if Softmax not in kinds or kinds[kinds.index(Softmax) :] not in ([Softmax], [Softmax, Cost]):
            raise ValueError(
                f"{self.config.path}: a network is trained here that ends in [region], or in [softmax] "
                "or [softmax], [cost]"
            )
        logits = self.net.outputs(images)[kinds.index(Softmax) - 1].flatten(1)
        wanted = torch.from_numpy(truth)
        entropy = -(wanted * logits.log_softmax(1)).sum()
        if kinds[-1] is Softmax:
            return entropy, entropy.item(), []
        squares = (wanted - logits.softmax(1)).square().sum()
        return 2 * entropy, (entropy + squares).item() / 2, []


def _updates(net: DarknetNetwork, arrays: Arrays, *, scale: int) -> Iterator[Comparison]:
    """The first gradients, layer by layer. scale: what turns ours, a mean, into Darknet's negative sum."""
    compared = []
    for key in arrays:
        if match := re.fullmatch(r"step0_layer(\d+)_(bias|scale|weight)_updates", key):
            layer = net.layers[int(match[1])]
            inner = layer.conv if layer.norm is None or match[2] == "weight" else layer.norm
            gradient = inner.bias.grad if match[2] == "bias" else inner.weight.grad
            compared.append(
                compare_numbers(f"layer {match[1]} {match[2]}", scale * gradient, arrays[key], UPDATES)
            )
    yield merge(f"forward 0: updates of {len(compared)} tensors", compared)


def _final(net: DarknetNetwork, arrays: Arrays) -> Iterator[Comparison]:
    """Parameters and running statistics after the last update."""
    compared: dict[str, list[Comparison]] = {"parameters": [], "running statistics": []}
    for key in arrays:
        if match := re.fullmatch(r"final_layer(\d+)_(\w+)", key):
            layer = net.layers[int(match[1])]
            part = match[2]
            inner = layer.conv if part == "weights" or layer.norm is None else layer.norm
            ours = getattr(inner, {"weights": "weight"}.get(part) or STEP_PARTS[part])
            kind = "running statistics" if part.startswith("rolling") else "parameters"
            compared[kind].append(compare_numbers(f"layer {match[1]} {part}", ours, arrays[key], FINAL))
    for kind, several in compared.items():
        if several:
            yield merge(f"final {kind} of {len(several)} tensors", several)
