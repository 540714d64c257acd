"""trainer.find_batch_size: the largest batch whose training step fits into a GPU's memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from detectors.annotations import Annotations
from detectors.config.check import check
from detectors.config.schema import Config, to_plain
from detectors.structures import Batch, Targets
from detectors.training import assemble
from detectors.training.distributed import Processes
from detectors.training.trial import TrialTraining

logger = logging.getLogger(__name__)

MEMORY = 0.9  # share of the GPU's memory that a step may take


def with_found_batch(config: Config, annotations: Annotations, processes: Processes) -> Config:
    """The configuration with trainer.batch_size and accumulate as numbers; it is checked again.

    Their product, the images of a step, stays: optimizer.rate and the schedule belong to it. ValueError
    without a GPU, or with several processes. annotations: the training images.
    """
    trainer = config.trainer
    if not trainer.find_batch_size:
        return config
    device = assemble.choose_device(trainer.device, processes)
    if device.type != "cuda" or processes.world_size > 1:
        raise ValueError(
            "trainer.find_batch_size=true: it is for one process on a GPU, whose memory is the limit; "
            "set trainer.batch_size and trainer.accumulate yourself"
        )
    images = trainer.batch_size * trainer.accumulate
    torch.cuda.set_per_process_memory_fraction(MEMORY, device)
    try:
        largest = largest_batch(MemoryTrial(config, annotations, device), images)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    if not largest:
        raise ValueError(
            f"trainer.find_batch_size=true: not even one image fits into {device}'s memory; try a smaller "
            "input.size, or trainer.precision=bfloat16"
        )
    size, parts = divided(images, largest)
    logger.info(
        f"trainer.batch_size={size}, trainer.accumulate={parts}: steps of {images} images, of which {device} "
        f"takes {largest}{' or more' if largest == images else ''} at once"
    )
    found = replace(trainer, batch_size=size, accumulate=parts, find_batch_size=False)
    return check(to_plain(replace(config, trainer=found)))


def largest_batch(fits: Callable[[int], bool], limit: int) -> int:
    """The largest batch up to `limit` that fits, 0 for none. Doubles it, then bisects."""
    good = 0
    trial = 1
    while fits(trial):
        good = trial
        if good == limit:
            return good
        trial = min(2 * good, limit)
    bad = trial
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def divided(images: int, largest: int) -> tuple[int, int]:
    """(batch_size, accumulate) with the product `images` and the largest batch_size up to `largest`."""
    size = max(part for part in range(1, min(images, largest) + 1) if images % part == 0)
    return size, images // size


class MemoryTrial:
    """Number of images -> whether two training steps of so many fit into the device's memory.

    The images are black, of the largest input size, with as many boxes as an image can have. The run's own
    detector is made later, from its seed.
    """

    def __init__(self, config: Config, annotations: Annotations, device: torch.device):
        trainer = config.trainer
        self.device = device
        self.training = TrialTraining(config, len(annotations.class_names), device)
        # What a run copies: its average; with on_nonfinite=skip weights, momenta and squares before a step.
        copies = (trainer.ema_decay is not None) + 3 * (trainer.on_nonfinite == "skip")
        weights = list(self.training.detector.parameters())
        self.room = [weight.detach().clone() for _ in range(copies) for weight in weights]
        scales = assemble.multi_scale(config)
        self.size = (scales.sides[-1], scales.sides[-1]) if scales else tuple(config.input.size)
        mixed = (4 if config.mixing.mosaic else 1) * (2 if config.mixing.mixup else 1)
        self.boxes = mixed * int(np.diff(annotations.offsets).max(initial=1))

    def __call__(self, images: int) -> bool:
        try:
            batch = made_up_batch(images, self.boxes, self.size).to(self.device)
            for _ in range(2):  # the second one has the optimiser's state from its beginning
                self.training.step([batch], rate=0.0)
        except torch.OutOfMemoryError:
            return False
        finally:
            batch = None
            self.training.optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()  # does nothing without a GPU
        return True


def made_up_batch(images: int, boxes: int, size: tuple[int, int]) -> Batch:
    """Black images with the same box many times."""
    height, width = size
    box = torch.tensor([width / 4, height / 4, width / 2, height / 2])
    targets = Targets(
        box.expand(images, boxes, 4).contiguous(),
        torch.zeros(images, boxes, dtype=torch.int64),
        torch.ones(images, boxes, dtype=torch.bool),
    )
    return Batch(torch.zeros(images, 3, *size, dtype=torch.uint8), targets, [])
