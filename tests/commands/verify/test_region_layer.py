"""What verify derives for the region layer: Darknet's float32 cell, and deltas of saturated objectness."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from detectors.commands.verify.region_layer import cell_grid, region_delta, region_settings, region_targets
from detectors.matching import ResponsibleCellMatcher

ANCHORS = np.array([1.0, 1.5, 3.0, 2.0])
CASE = {
    "classes": 3,
    "softmax": 1,
    "thresh": 0.6,
    "coord_scale": 1.0,
    "object_scale": 5.0,
    "noobject_scale": 1.0,
    "class_scale": 1.0,
}


def truth_at(x: float) -> np.ndarray:
    truth = np.zeros((1, 30, 5), np.float32)
    truth[0, 0] = [x, 0.55, 0.2, 0.3, 1]
    return truth


@pytest.mark.parametrize("tenths", range(1, 10))
def test_a_centre_on_an_edge_lies_in_the_cell_of_the_float32_product(tenths):
    """.7 in float32 is a little less than 7/10, but times 10 it rounds to 7: (int)(t.x * W) in
    region_layer.c.
    """
    truth = truth_at(tenths / 10)
    column = int(np.float32(truth[0, 0, 0]) * np.float32(10))
    targets = region_targets(truth.astype(np.float64), (10, 10))
    grid = cell_grid(region_settings(CASE, ANCHORS), (10, 10))
    assigned = ResponsibleCellMatcher()(targets, grid).assigned[0, 0].item()
    assert assigned // 2 % 10 == column


@pytest.mark.parametrize("logit", [-40.0, 25.0, 40.0, 100.0])
def test_saturated_objectness_keeps_its_delta(logit):
    """delta = scale * (target - o), without the derivative of the sigmoid."""
    raw = torch.zeros(1, 2 * 8, 4, 4)
    raw[:, 4::8] = logit
    delta = region_delta(raw, region_settings(CASE, ANCHORS), truth_at(0.4), seen=20000).unflatten(1, (2, 8))[
        0, :, 4
    ]  # (n, H, W)
    o = torch.tensor(logit, dtype=torch.float64).sigmoid()
    others = delta[delta > -1.5 * o - 1e-9] if logit > 0 else delta.flatten()[1:]
    assert (delta.abs() <= 5).all()
    assert_close(others.median(), -o, atol=1e-9, rtol=0)
