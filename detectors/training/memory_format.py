"""trainer.memory_format=auto: how weights and features lie in memory; on a CPU a measurement says so.

On a CPU, channels_last makes a narrow network's step quicker; that of a wide one takes .9 to 2 times as long,
which depends on the CPU and the network.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from time import perf_counter, process_time

import torch

from detectors.config.schema import AUTO, Config
from detectors.models.image_network import MEMORY_FORMATS
from detectors.training import assemble
from detectors.training.batch_size import made_up_batch
from detectors.training.distributed import ALONE, Processes
from detectors.training.trial import TrialTraining

logger = logging.getLogger(__name__)

STEPS = 3  # of each format at least, the first one to settle; and as many as take SECONDS
SECONDS = 2.0
CLEARLY = 0.95  # contiguous is chosen if its step takes less than this share of channels_last's


def with_memory_format(config: Config, num_classes: int, processes: Processes = ALONE) -> Config:
    """The configuration with trainer.memory_format as one of both; the first process decides for all.

    auto is channels_last, unless the device is a CPU on which contiguous is clearly quicker: a difference
    that noise can turn round must not change the last digits of a run. With trainer.deterministic nothing is
    measured.
    """
    trainer = config.trainer
    if trainer.memory_format != AUTO:
        return config
    choice, reason = None, ""
    with processes.together():
        device = assemble.choose_device(trainer.device, processes)
        if processes.first:
            choice, reason = _choice_for(config, num_classes, device)
    choice = processes.of_first(choice)
    if processes.first:
        logger.info(f"memory format: {choice} ({reason})")
    return replace(config, trainer=replace(trainer, memory_format=choice))


def _choice_for(config: Config, num_classes: int, device: torch.device) -> tuple[str, str]:
    """A memory format, and why."""
    if device.type != "cpu":
        return "channels_last", f"the device is {device}"
    if config.trainer.deterministic:
        return "channels_last", "trainer.deterministic=true: nothing is measured"
    seconds = step_seconds(config, num_classes, device)
    contiguous, channels_last = seconds["contiguous"], seconds["channels_last"]
    if contiguous < CLEARLY * channels_last:
        return "contiguous", f"{contiguous:.3g} s a step against {channels_last:.3g} s with channels_last"
    return "channels_last", f"{channels_last:.3g} s a step against {contiguous:.3g} s with contiguous"


def step_seconds(config: Config, num_classes: int, device: torch.device) -> dict[str, float]:
    """Memory format -> seconds of the quickest forward and backward pass of config's network and batch size.

    The formats take turns. The trainings are made for this, and random numbers go on as if there were none.
    With one thread the seconds are CPU time, in which other programs on the machine do not count.
    """
    clock = process_time if torch.get_num_threads() == 1 else perf_counter
    trainer = config.trainer
    batch = made_up_batch(trainer.batch_size, 1, tuple(config.input.size)).to(device)
    quickest = dict.fromkeys(MEMORY_FORMATS, float("inf"))
    with torch.random.fork_rng(devices=[]):
        trainings = {
            name: TrialTraining(
                replace(config, trainer=replace(trainer, memory_format=name)), num_classes, device
            )
            for name in MEMORY_FORMATS
        }
        begun = perf_counter()
        steps = 0
        while steps < STEPS or perf_counter() - begun < SECONDS:
            steps += 1
            for name, training in trainings.items():
                started = clock()
                training.gradients([batch])
                quickest[name] = min(quickest[name], clock() - started)
    return quickest
