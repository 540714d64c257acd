"""From `_target_` and keywords to an object; tests/test_checking.py holds the mistakes that a whole
configuration can have.
"""

from __future__ import annotations

import pytest

from detectors.config.build import build, find_target, fits
from detectors.losses.region_loss import RegionLoss


def test_build_calls_the_target_with_the_rest():
    loss = build({"_target_": "detectors.losses.region_loss.RegionLoss", "ignore_iou": 0.4}, object_scale=2.0)
    assert isinstance(loss, RegionLoss)
    assert (loss.ignore_iou, loss.object_scale) == (0.4, 2.0)


@pytest.mark.parametrize(
    "target", ["os.system", "builtins.eval", "detectors.losses.NoSuchLoss", "detectors.nowhere.thing", 3]
)
def test_only_callables_of_this_package_are_built(target):
    with pytest.raises(ValueError, match="_target_"):
        find_target(target)


def test_what_yaml_can_hold_for_an_annotation():
    assert fits(1, float) and not fits(True, float) and not fits(1.5, int)
    assert fits(None, int | None) and fits([1, 2.5], list[float]) and not fits(["a"], list[float])
