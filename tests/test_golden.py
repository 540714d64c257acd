"""Loss curves that a refactoring must not move: five steps of each demo model on fixed random batches.

The numbers were printed by this test's own code at the commit that added it (torch 2.11.0, CPU); they prove only that nothing changed.
"""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from detectors.models.ssd import ssd160
from detectors.models.yolov2 import yolov2_tiny
from detectors.training.optim import sgd
from tests import oracles

BUILDERS = {
    "yolov2": lambda: yolov2_tiny(
        num_classes=3, width=0.25, stride=16, anchors=[(1.3, 1.3), (3.0, 4.0)], last_channels=256
    ),
    "ssd": lambda: ssd160(num_classes=3, width=0.25, batch_norm=True),
}
GOLDEN = {
    "yolov2": [35.605, 50.0043, 44.9216, 41.9595, 34.0138],
    "ssd": [36.2775, 33.05, 35.8983, 37.1319, 31.5755],
}


def curve(family: str) -> list[float]:
    torch.manual_seed(0)
    detector = BUILDERS[family]().train()
    optimizer = sgd(detector, rate=1e-4)
    generator = torch.Generator().manual_seed(1)
    grid = detector.grid((160, 160))
    losses = []
    for _ in range(5):
        images = torch.randint(0, 256, (4, 3, 160, 160), generator=generator, dtype=torch.uint8)
        targets = oracles.random_targets(generator, batch=4, most=5, classes=3, size=(160, 160))
        outputs = detector(images)
        loss = sum(detector.loss(outputs, detector.encoder(targets, grid, outputs), grid).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("family", BUILDERS)
def test_the_first_losses_are_what_they_were(family):
    assert_close(torch.tensor(curve(family)), torch.tensor(GOLDEN[family]), rtol=1e-3, atol=0)
