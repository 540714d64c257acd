"""verify's optimiser steps follow the passes that Darknet's `(seen / batch) % subdivisions` says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from detectors.commands.verify.darknet_nets import config_of, loaded_network
from detectors.commands.verify.darknet_training import _Run
from detectors.commands.verify.recordings import Folder, Settings
from detectors.commands.verify.streams import darknet_images, darknet_parameters
from tests.recorded import FIXTURES

CASE = "nano-train.gpubn"


@pytest.mark.parametrize(("earlier", "updates"), [(0, [1, 3]), (1, [0, 2]), (2, [1, 3]), (7, [0, 2])])
def test_a_recording_may_start_within_a_batch(earlier, updates):
    """earlier: passes before the recording. A batch has two passes, the recording four."""
    folder = Folder(FIXTURES / "darknet")
    case = Settings(folder.json(Path("train.json"))[CASE])
    assert (case["subdivisions"], len(case["cost"])) == (2, 4)
    case["seen_start"] = earlier * case["batch_per_forward"]
    config = config_of(folder, Path("train.json"), case)
    network = loaded_network(config, darknet_parameters(case["convs"], case["weight_seed"])).train()
    run = _Run(network, config, case, folder.arrays(Path(f"train_{CASE}.npz")))
    for step, images in enumerate(torch.from_numpy(darknet_images(case["input_seed"], *case["input_shape"]))):
        list(run.forward(step, images))
    assert run.updates == updates
    assert run.seen == (earlier + 4) * case["batch_per_forward"]
