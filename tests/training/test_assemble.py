"""Parts from a configuration: sizes of a step in multi-scale training."""

from __future__ import annotations

from detectors.training import assemble
from tests.test_configs import checked


def test_sizes_of_a_step():
    """Darknet's rule for the configuration's own numbers; nothing where it is off."""
    config = checked(
        "model=yolov2_160",
        "input.multi_scale={min: 96, max: 160, every: 3, final_steps: 4}",
        "trainer.steps=200",
    )
    scales = assemble.multi_scale(config)
    sizes = [scales(step) for step in range(200)]
    assert set(sizes) == {(96, 96), (128, 128), (160, 160)}
    assert sizes[0:195:3] == sizes[1:195:3] == sizes[2:195:3]
    assert sizes[196:] == [(160, 160)] * 4
    assert assemble.multi_scale(checked("model=ssd160")) is None
    assert assemble.multi_scale(checked("model=ssd160", "input.multi_scale=null")) is None
