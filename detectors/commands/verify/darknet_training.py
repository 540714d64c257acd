"""Darknet's training: a few optimiser steps of a small network (train.json, train_*.npz).

`step0_layerNN_*_updates` are the negative gradients of the first forward pass, summed over its images, before
weight decay. `final_layerNN_*` are the parameters and running statistics after the last update. An update
follows `subdivisions` forward passes of `batch_per_forward` images each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from detectors.coders import YoloBoxCoder
from detectors.commands.verify import darknet_models, darknet_nets, region_layer
from detectors.commands.verify.comparison import (
    EXACT,
    Comparison,
    Fixture,
    Tolerance,
    compare_numbers,
    merge,
)
from detectors.commands.verify.darknet_rates import RATES, schedule_of
from detectors.commands.verify.recordings import Arrays, Folder, Settings
from detectors.commands.verify.streams import darknet_images
from detectors.darknet.network import DarknetNetwork
from detectors.darknet.region import activate, head_outputs, region_matcher
from detectors.darknet.sections import Convolutional, Cost, DarknetCfg, Softmax
from detectors.darknet.weights import Convolution, convolutions
from detectors.models.classifier import Classifier
from detectors.targets import TargetEncoder
from detectors.training.optim import rate_factor, set_rate, sgd

UPDATES = Tolerance(of_largest=1e-4)
FINAL = Tolerance(absolute=2e-6)  # float32 sums
STEP_PARTS = {  # Darknet's names -> those of a batch norm
    "biases": "bias",
    "scales": "weight",
    "rolling_mean": "running_mean",
    "rolling_variance": "running_var",
}


def steps(folder: Folder, name: Path) -> Iterator[Fixture]:
    """train.json, and one npz for each of its cases."""
    for case, settings in folder.json(name).items():
        arrays = name.with_name(f"{name.stem}_{case}.npz")
        yield Fixture(f"{name.stem}/{case}", partial(_steps, folder, name, settings, arrays))


def _steps(folder: Folder, name: Path, case: Settings, file: Path) -> Iterator[Comparison]:
    arrays = folder.arrays(file)
    config = darknet_nets.config_of(folder, name, case)
    if case["bn"] != "gpu":
        raise ValueError(
            f"bn={case['bn']!r}: only 'gpu' is supported, because Darknet's CPU build cannot train"
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
    network = darknet_nets.loaded_network(config, stream, seen=case["seen_start"]).train()
    run = _Run(network, config, case, arrays)
    for step, images in enumerate(torch.from_numpy(darknet_images(case["input_seed"], *case["input_shape"]))):
        yield from run.forward(step, images)
    yield compare_numbers("rates of the updates", run.rates, [case["lr"][n] for n in run.updates], RATES)
    yield compare_numbers("number of updates", len(run.updates), case["updates"], EXACT)
    arrays.skip("lr", "cost")  # the JSON has them too
    yield from _final(cfg_layers(network), arrays)
    before = darknet_nets.loaded_network(config, stream)
    if model := darknet_models.model_classifier(before):
        yield from _model_steps(model.train(), config, case, arrays)


def _model_steps(
    model: Classifier, config: DarknetCfg, case: Settings, arrays: Arrays
) -> Iterator[Comparison]:
    """The same steps by the builder darknet19 with our loss and optimiser; each forward pass is an update."""
    if case["subdivisions"] != 1:
        raise ValueError(f"subdivisions={case['subdivisions']}: a classifier's recording must have one")
    indices = [layer.index for layer in config.layers if isinstance(layer.settings, Convolutional)]
    layers = dict(zip(indices, convolutions(model), strict=True))
    optimizer = _optimizer(model, config)
    images = torch.from_numpy(darknet_images(case["input_seed"], *case["input_shape"]))
    name = "model=darknet19_classifier"
    costs = []
    for step, batch in enumerate(images):
        labels = torch.from_numpy(arrays["truth"][step]).argmax(1)
        loss = sum(model.loss(model(batch * 255), labels).values())
        costs.append(loss.item() * len(batch))
        loss.backward()
        if step == 0:
            yield from _updates(layers, arrays, scale=-len(batch), title=f"{name}: forward 0")
        set_rate(optimizer, case["lr"][step])
        optimizer.step()
        optimizer.zero_grad()
    yield compare_numbers(f"{name}: costs", costs, case["cost"], region_layer.COST)
    yield from _final(layers, arrays, title=f"{name}: final")


def cfg_layers(network: DarknetNetwork) -> dict[int, nn.Module]:
    """Number in the cfg -> layer, with the attributes `conv` and `norm` if it is a convolution."""
    return dict(enumerate(network.layers))


def _optimizer(network: nn.Module, config: DarknetCfg) -> torch.optim.SGD:
    net = config.net
    return sgd(network, rate=net.learning_rate, momentum=net.momentum, weight_decay=net.decay)


class _Run:
    """A training run, one forward pass at a time."""

    def __init__(self, network: DarknetNetwork, config: DarknetCfg, case: Settings, arrays: Arrays):
        self.network = network
        self.config = config
        self.case = case
        self.arrays = arrays
        self.optimizer = _optimizer(network, config)
        self.seen = case["seen_start"]  # images; the region loss counts them itself
        self.loss = config.region and region_layer.seen_loss(config.region, seen=self.seen, batch=0)
        self.updates: list[int] = []  # the forward passes that an update followed
        self.rates: list[float] = []  # the learning rate of each update

    def forward(self, step: int, images: Tensor) -> Iterator[Comparison]:
        """One forward and backward pass, and an update after the last pass of a batch.

        As in Darknet's train_network_datum, the images seen decide which pass is the last, also in a run that
        starts within a batch. images: (B, C, H, W).
        """
        batch = len(images)
        subdivisions = self.case["subdivisions"]
        truth = self.arrays["truth"][step]
        loss_and_cost = self._region if self.config.region else self._classifier
        loss, cost, comparisons = loss_and_cost(step, images, truth)
        yield from comparisons
        yield compare_numbers(f"forward {step}: cost", cost, self.case["cost"][step], region_layer.COST)
        (loss / (batch * subdivisions)).backward()  # an update uses the mean over all images of its batch
        if step == 0:
            yield from _updates(cfg_layers(self.network), self.arrays, scale=-batch * subdivisions)
        if self.seen // batch % subdivisions == 0:
            self._update(step, batch_number=self.seen // (batch * subdivisions))
        yield compare_numbers(
            f"forward {step}: images seen", self.seen, self.arrays["seen_after"][step], EXACT
        )

    def _update(self, step: int, batch_number: int) -> None:
        net = self.config.net
        rate = net.learning_rate * rate_factor(schedule_of(net), batch_number, net.max_batches)
        set_rate(self.optimizer, rate)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.updates.append(step)
        self.rates.append(rate)

    def _region(self, step: int, images: Tensor, truth: np.ndarray) -> tuple[Tensor, float, list[Comparison]]:
        """The loss summed over the images, Darknet's cost, and the comparisons of this pass."""
        settings = self.config.region
        raw = self.network.raw(images)
        outputs = head_outputs(raw, settings)
        cells = tuple(raw.shape[-2:])
        batch = len(images)
        grid = region_layer.cell_grid(settings, cells)
        targets = region_layer.region_targets(truth, cells)
        encoded = TargetEncoder(region_matcher(settings), YoloBoxCoder())(targets, grid, outputs)
        total = batch * sum(self.loss(outputs, encoded, grid).values())
        self.seen = int(self.loss.images_seen)
        delta = region_layer.region_delta(raw.detach(), settings, truth, seen=self.seen)
        comparisons = self._first_region(activate(raw, settings), delta) if step == 0 else []
        statistics = self.loss.statistics(outputs, encoded, grid)
        printed = [float(number) for number in re.findall(r": +(-?nan|[\d.]+)", self.case["printed"][step])]
        ours = [float(statistics[key]) for key in region_layer.PRINTED]
        comparisons.append(
            compare_numbers(
                f"forward {step}: printed statistics", ours, printed, region_layer.REGION_STATISTICS
            )
        )
        return total, region_layer.darknet_cost(delta), comparisons

    def _first_region(self, output: Tensor, delta: Tensor) -> list[Comparison]:
        """The region layer's activated output and delta in the first forward pass."""
        recorded_output = self.arrays["step0_region_output"]
        recorded_delta = self.arrays["step0_region_delta"]
        return [
            compare_numbers("forward 0: region output", output, recorded_output, darknet_nets.LAYERS),
            compare_numbers("forward 0: region delta", delta, recorded_delta, region_layer.DELTAS),
        ]

    def _classifier(
        self, step: int, images: Tensor, truth: np.ndarray
    ) -> tuple[Tensor, float, list[Comparison]]:
        """Like _region, for a classifier.

        [softmax] computes the cross-entropy. A [cost] after it adds its squared error, whose delta is the
        same: truth - p.
        """
        kinds = [type(layer.settings) for layer in self.config.layers]
        if Softmax not in kinds or kinds[kinds.index(Softmax) :] not in ([Softmax], [Softmax, Cost]):
            raise ValueError(
                f"{self.config.path}: the network must end in [region], [softmax] or [softmax], [cost]"
            )
        self.seen += len(images)
        logits = self.network.outputs(images)[kinds.index(Softmax) - 1].flatten(1)
        one_hot = torch.from_numpy(truth)
        cross_entropy = -(one_hot * logits.log_softmax(1)).sum()
        if kinds[-1] is Softmax:
            return cross_entropy, cross_entropy.item(), []
        squared_error = (one_hot - logits.softmax(1)).square().sum()
        return 2 * cross_entropy, (cross_entropy + squared_error).item() / 2, []


def _updates(
    layers: Mapping[int, nn.Module | Convolution], arrays: Arrays, *, scale: int, title: str = "forward 0"
) -> Iterator[Comparison]:
    """The first gradients, layer by layer.

    layers: by their number in the cfg.
    scale: the factor that turns ours, the gradient of a mean, into Darknet's negative sum.
    """
    comparisons = []
    for key in arrays:
        if match := re.fullmatch(r"step0_layer(\d+)_(bias|scale|weight)_updates", key):
            number = match[1]
            part = match[2]
            layer = layers[int(number)]
            module = layer.conv if layer.norm is None or part == "weight" else layer.norm
            gradient = module.bias.grad if part == "bias" else module.weight.grad
            comparisons.append(
                compare_numbers(f"layer {number} {part}", scale * gradient, arrays[key], UPDATES)
            )
    yield merge(f"{title}: updates of {len(comparisons)} tensors", comparisons)


def _final(
    layers: Mapping[int, nn.Module | Convolution], arrays: Arrays, *, title: str = "final"
) -> Iterator[Comparison]:
    """Parameters and running statistics after the last update."""
    comparisons: dict[str, list[Comparison]] = {"parameters": [], "running statistics": []}
    for key in arrays:
        if match := re.fullmatch(r"final_layer(\d+)_(\w+)", key):
            number = match[1]
            part = match[2]
            layer = layers[int(number)]
            module = layer.conv if part == "weights" or layer.norm is None else layer.norm
            attribute = "weight" if part == "weights" else STEP_PARTS[part]
            kind = "running statistics" if part.startswith("rolling") else "parameters"
            comparisons[kind].append(
                compare_numbers(f"layer {number} {part}", getattr(module, attribute), arrays[key], FINAL)
            )
    for kind, tensors in comparisons.items():
        if tensors:
            yield merge(f"{title} {kind} of {len(tensors)} tensors", tensors)
