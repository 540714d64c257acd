"""init.randomize=last against the course's formula: np.random.normal(size=shape) / (GRID_H * GRID_W)."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import kstest

from detectors.training import assemble
from detectors.training.initial.initial_weights import initialise
from tests.training.initial.starts import NAMES, configured, started, stored

CELLS = {  # the course's GRID_H * GRID_W, of each last layer
    "yolov2_160": {"head.conv": 10 * 10},
    "ssd160": {
        f"head.{kind}.{level}": side**2
        for level, side in enumerate((20, 10, 5, 3))
        for kind in ("offsets", "class_logits")
    },
}


@pytest.mark.parametrize("model", CELLS)
def test_the_last_layers_have_the_course_s_distribution(model):
    config = configured("init.randomize=last", model=model)
    torch.manual_seed(0)
    detector = assemble.build_detector(config, len(NAMES))
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    random_state = torch.get_rng_state()
    lines = initialise(detector, None, config, NAMES)
    assert torch.get_rng_state().equal(random_state)
    after = detector.state_dict()
    drawn = [f"{layer}.{part}" for layer in CELLS[model] for part in ("weight", "bias")]
    assert [name for name in after if not after[name].equal(before[name])] == [n for n in after if n in drawn]
    for layer, cells in CELLS[model].items():
        for part in ("weight", "bias"):
            numbers = (after[f"{layer}.{part}"] * cells).flatten().numpy()
            assert kstest(numbers, "norm").pvalue > 1e-4, (layer, part)
        assert f"init.randomize=last: {layer} is drawn from N(0, 1) / {cells} cells" in lines


def test_it_comes_after_the_file_and_depends_on_the_seed_alone(tmp_path):
    config = configured("init.randomize=last", model="yolov2_160")
    checkpoint = stored(config, tmp_path / "a.pt")
    _, first, _ = started(config, checkpoint.path)
    _, again, _ = started(config, checkpoint.path)
    _, other, _ = started(configured("init.randomize=last", "seed=1", model="yolov2_160"), checkpoint.path)
    assert first["head.conv.weight"].equal(again["head.conv.weight"])
    assert not first["head.conv.weight"].equal(other["head.conv.weight"])
    assert not first["head.conv.weight"].equal(checkpoint.model["head.conv.weight"])
    assert first["backbone.convs.0.conv.weight"].equal(checkpoint.model["backbone.convs.0.conv.weight"])
