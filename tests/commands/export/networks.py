"""Small runs with random weights, and a plain comparison of detections."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from detectors.commands.export import command
from detectors.config.check import check
from detectors.config.composing import composed
from detectors.config.schema import to_plain
from detectors.structures import Detections
from detectors.training import assemble
from detectors.training.checkpoint import Checkpoint, save_checkpoint

CLASSES = ("cat", "dog", "big bird")
NARROW = "model.width=0.125"


def write_run(
    folder: Path,
    *settings: str,
    seed: int = 0,
    objectness: float = 0.0,
    classes: tuple[str, ...] = CLASSES,
    settled: bool = False,
) -> Path:
    """A run folder with an untrained network.

    objectness: is added to YOLO's logits, so that scores rise. settled: batch norms have the statistics of
    noise; with those that they begin with, a deep network's outputs are all the same.
    """
    config = check(composed(list(settings)))
    network = randomized(assemble.build_detector(config, len(classes)), seed)
    if settled:
        settle(network, config.input.size)
    if objectness:
        with torch.no_grad():
            network.head.conv.bias.view(-1, 5 + len(classes))[:, 4] += objectness
    path = folder / "best.pt"
    save_checkpoint(Checkpoint(path, 7, to_plain(config), classes, network.state_dict(), {}, {}, {}))
    return folder


def randomized(network: nn.Module, seed: int) -> nn.Module:
    """Biases and running means differ from 0, so that a file that leaves them out is noticed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith(("bias", "running_mean")):
                tensor.add_(torch.rand(tensor.shape, generator=generator) * 0.2 - 0.1)
    return network


def settle(network: nn.Module, size: Sequence[int]) -> None:
    """size: (height, width) of the images that the statistics are taken from."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    network.train()
    with torch.no_grad():
        network(some_images(4, size))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def export(*arguments: str | Path) -> None:
    command.main([str(argument) for argument in arguments])


def some_images(count: int, size: Sequence[int], seed: int = 5) -> torch.Tensor:
    """(count, 3, H, W) uint8"""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=generator)


def assert_same_detections(found: Detections, expected: Detections) -> None:
    """The same numbers for each image and class, scores in the same order, and each box at its place.

    Boxes of equal scores may change places.
    """
    assert len(found.scores) == len(expected.scores) > 0
    assert (found.image.diff() >= 0).all()
    for image in expected.image.unique().tolist():
        assert (found.of_image(image).scores.diff() <= 0).all()
    for image, label in {*zip(expected.image.tolist(), expected.labels.tolist(), strict=True)}:
        ours, theirs = (
            part.of_image(image).boxes[part.of_image(image).labels == label].double()
            for part in (found, expected)
        )
        assert ours.shape == theirs.shape
        limit = 1e-4 * theirs.abs().amax(1).clamp(min=100)
        assert ((ours[:, None] - theirs[None]).abs().amax(2).amin(0) < limit).all()
    order = [
        np.lexsort((-part.scores.numpy(), part.labels.numpy(), part.image.numpy()))
        for part in (found, expected)
    ]
    torch.testing.assert_close(found.scores[order[0]], expected.scores[order[1]], atol=1e-5, rtol=1e-4)
