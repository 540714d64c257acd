"""A loss that processes share: the mean of their losses and gradients is that of the whole batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from detectors.losses.multibox_loss import MultiBoxLoss
from detectors.losses.region_loss import RegionLoss
from detectors.losses.shared_loss import SharedLoss
from detectors.models.ssd import ssd160
from detectors.models.yolov2 import yolov2_tiny
from detectors.structures import HeadOutputs, Targets
from tests import oracles

SIZE = (160, 160)
LOSSES = {
    "batch": lambda: MultiBoxLoss(),
    "images": lambda: MultiBoxLoss(normalizer="images"),
    "floor": lambda: MultiBoxLoss(normalizer="floor"),
    "region": lambda: RegionLoss(),
    "anchors": lambda: RegionLoss(normalizer="anchors", prior_images=6),
}
OBJECTS = {"some": [3, 0, 1, 2], "one process": [2, 1, 0, 0], "one box": [0, 0, 0, 1], "none": [0, 0, 0, 0]}


def detector_with(loss: SharedLoss):
    torch.manual_seed(0)
    if isinstance(loss, MultiBoxLoss):
        return ssd160(num_classes=3, width=0.25, batch_norm=True, loss=loss)
    return yolov2_tiny(num_classes=3, width=0.25, stride=16, anchors=[(1.3, 1.3), (3.0, 4.0)], loss=loss)


def terms_and_gradient(detector, outputs: HeadOutputs, targets: Targets) -> tuple[dict, Tensor]:
    """Loss terms, and their gradient by the class logits."""
    logits = outputs.class_logits.detach().requires_grad_()
    outputs = HeadOutputs(outputs.offsets, logits, outputs.objectness)
    grid = detector.grid(SIZE)
    terms = detector.loss(outputs, detector.encoder(targets, grid, outputs), grid)
    (gradient,) = torch.autograd.grad(sum(terms.values()), logits)
    return {name: term.detach() for name, term in terms.items()}, gradient


def of_images(record: HeadOutputs | Targets, images: slice):
    return type(record)(*(None if value is None else value[images] for value in vars(record).values()))


@pytest.mark.parametrize("objects", OBJECTS)
@pytest.mark.parametrize("name", LOSSES)
def test_the_mean_of_two_processes_is_the_loss_of_the_whole_batch(name, objects):
    """Both see the counts of all four images, two of them in each; also with no box in one, or in any."""
    detector = detector_with(LOSSES[name]())
    generator = torch.Generator().manual_seed(1)
    targets = oracles.random_targets(generator, batch=4, most=3, classes=3, size=SIZE)
    targets = Targets(
        targets.boxes, targets.labels, torch.arange(3) < torch.tensor(OBJECTS[objects])[:, None]
    )
    outputs = detector(torch.randint(0, 256, (4, 3, *SIZE), generator=generator, dtype=torch.uint8))
    whole, gradient = terms_and_gradient(detector, outputs, targets)

    def half(part: int, average: Callable[[Tensor], Tensor]) -> tuple[dict, Tensor]:
        detector.loss = LOSSES[name]()
        detector.loss.average = average
        detector.loss.processes = 2
        images = slice(2 * part, 2 * part + 2)
        return terms_and_gradient(detector, of_images(outputs, images), of_images(targets, images))

    counts: tuple[list, list] = ([], [])
    for part in (0, 1):
        half(part, lambda count, part=part: (counts[part].append(count), count)[1])
    parts = []
    for part in (0, 1):
        means = iter([(one + two) / 2 for one, two in zip(*counts, strict=True)])
        parts.append(half(part, lambda _, means=means: next(means)))
    assert_close({k: (parts[0][0][k] + parts[1][0][k]) / 2 for k in whole}, whole, rtol=1e-5, atol=1e-6)
    assert_close(torch.cat([gradients for _, gradients in parts]) / 2, gradient, rtol=1e-5, atol=1e-8)
    if name in ("region", "anchors"):
        assert detector.loss.images_seen == 4
