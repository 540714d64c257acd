"""The region kernel against Darknet's recorded gradients."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from detectors.commands.verify import region_layer
from tests.test_losses import REGION, region_setup

QUICK = ("batch4_mixed", "warmup_seen12799", "no_bias_match")
COVERED = [name for name, case in REGION.items() if case["softmax"]]


def test_the_preset_covers_all_recordings_but_those_of_logistic_classes():
    reasons = {name: region_setup(case)[0].unsupported() for name, case in REGION.items()}
    assert {name for name, reason in reasons.items() if reason is None} == set(COVERED)
    assert set(reasons.values()) == {None, "class_activation='logistic'"}
    assert len(COVERED) == 25


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in COVERED]
)
def test_the_kernel_equals_darknet(device, kernels, name):
    case = REGION[name]
    loss, encoder, anchors, size = region_setup(case)
    raw = torch.from_numpy(case["input"]).to(device).requires_grad_()
    outputs = region_layer.region_outputs(raw, case)
    grid = anchors(size).to(device)
    encoded = encoder(region_layer.region_targets(case["truth"], size).to(device), grid, outputs)
    kernels("triton")
    terms = loss.to(device)(outputs, encoded, grid)
    (case["batch"] * sum(terms.values())).backward()
    assert_close(-raw.grad.cpu(), torch.from_numpy(case["delta_in"]), atol=3e-5, rtol=1e-5)
    loss.images_seen -= case["batch"]  # which both count
    kernels("reference")
    assert_close(terms, loss(outputs, encoded, grid), rtol=2e-6, atol=1e-6)
