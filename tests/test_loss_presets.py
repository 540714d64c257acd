"""Every preset: awkward batches stay finite, and a step never waits for the device.

Nor does a larger batch take more operations.
"""

from __future__ import annotations

import pytest
import torch

from detectors.anchors import YoloAnchors
from detectors.coders import SSDBoxCoder, YoloBoxCoder
from detectors.commands.benchmark.operation_count import WAITING
from detectors.commands.verify.presets import preset_loss
from detectors.matching import MultiBoxMatcher, ResponsibleCellMatcher
from detectors.structures import HeadOutputs, Targets
from detectors.targets import TargetEncoder
from tests import oracles
from tests.test_losses import awkward_targets
from tests.test_targets import Counting

PRESETS = ["region_2016", "region_tiny_coco", "region_keras", "multibox_torchvision"]
PRIOR = {"prior_images": 3}  # so that the second of two batches of 2 is after the warm-up


def step(name: str, targets: Targets, size: tuple[int, int], batch: int):
    """What a training step needs: raw predictions with a gradient, outputs, a function that encodes, grid."""
    generator = torch.Generator().manual_seed(1)
    region = name.startswith("region")
    if region:
        grid = YoloAnchors([(1.0, 1.0), (2.0, 3.0)], 16)(size)
        encoder = TargetEncoder(ResponsibleCellMatcher(), YoloBoxCoder())
    else:
        grid = oracles.small_ssd_grid(size)
        encoder = TargetEncoder(MultiBoxMatcher(bipartite="last"), SSDBoxCoder())
    raw = torch.randn(batch, grid.num_anchors, 5 + 4, generator=generator).requires_grad_()
    offsets = torch.cat([raw[..., :2].sigmoid(), raw[..., 2:4]], -1) if region else raw[..., :4]
    outputs = HeadOutputs(offsets, raw[..., 5:], raw[..., 4] if region else None)
    return raw, outputs, lambda: encoder(targets, grid, outputs), grid


@pytest.mark.parametrize("awkward", awkward_targets())
@pytest.mark.parametrize("name", PRESETS)
def test_awkward_batches_are_finite(name, awkward):
    raw, outputs, encode, grid = step(name, awkward_targets()[awkward], (96, 96), 2)
    loss = preset_loss(name, **(PRIOR if name.startswith("region") else {}))
    for _ in range(2):
        terms = loss(outputs, encode(), grid)
        (gradient,) = torch.autograd.grad(sum(terms.values()), raw, retain_graph=True)
        assert gradient.isfinite().all()
        assert all(term.isfinite() for term in terms.values())


def operations(name: str, batch: int, most: int):
    targets = oracles.random_targets(
        torch.Generator().manual_seed(0), batch=batch, most=most, classes=3, size=(96, 96)
    )
    _, outputs, encode, grid = step(name, targets, (96, 96), batch)
    loss = preset_loss(name, **({"class_weights": [1.0] * 4} if name == "region_keras" else {}))
    with Counting() as counting:
        sum(loss(outputs, encode(), grid).values()).backward()
    return counting.operations


@pytest.mark.usefixtures("as_on_gpu")
@pytest.mark.parametrize("name", PRESETS)
def test_operations_do_not_grow(name):
    """Neither with images nor with boxes: torchvision's matching has no rounds."""
    few = operations(name, 2, 3)
    many = operations(name, 16, 30)
    assert few == many
    assert few.total() <= 350
    assert not WAITING & set(few), "a host synchronisation in a training step"
    assert "boolean_index" not in few
