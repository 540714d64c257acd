"""verify's region layer: the cell by Darknet's float32 arithmetic, and the delta of saturated objectness."""

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
    """A list of one ground-truth box with its centre at x. (1, 30, 5)"""
    truth = np.zeros((1, 30, 5), np.float32)
    truth[0, 0] = [x, 0.55, 0.2, 0.3, 1]
    return truth


@pytest.mark.parametrize("tenths", range(1, 10))
def test_a_centre_on_an_edge_lies_in_the_cell_of_the_float32_product(tenths):
    """region_layer.c computes (int)(t.x * W). In float32, 0.7 is less than 7/10, but 0.7 * 10 rounds to 7."""
    truth = truth_at(tenths / 10)
    column = int(np.float32(truth[0, 0, 0]) * np.float32(10))
    targets = region_targets(truth.astype(np.float64), (10, 10))
    grid = cell_grid(region_settings(CASE, ANCHORS), (10, 10))
    assigned = ResponsibleCellMatcher()(targets, grid).assigned[0, 0].item()
    assert assigned // 2 % 10 == column


@pytest.mark.parametrize("logit", [-40.0, 25.0, 40.0, 100.0])
def test_saturated_objectness_keeps_its_delta(logit):
    """delta = scale * (target - o), which does not contain the sigmoid's derivative."""
    raw = torch.zeros(1, 2 * 8, 4, 4)
    raw[:, 4::8] = logit
    delta = region_delta(raw, region_settings(CASE, ANCHORS), truth_at(0.4), seen=20000)
    delta = delta.unflatten(1, (2, 8))[0, :, 4]  # (n, H, W), of objectness
    o = torch.tensor(logit, dtype=torch.float64).sigmoid()
    others = delta[delta > -1.5 * o - 1e-9] if logit > 0 else delta.flatten()[1:]
    assert (delta.abs() <= 5).all()
    assert_close(others.median(), -o, atol=1e-9, rtol=0)
