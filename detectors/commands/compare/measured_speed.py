"""How fast the compared detectors are, measured in turns on the evaluated images: A B A B ...

A slower machine slows all of them. A call reads, decodes and resizes its images as evaluate.py does without
worker processes, runs the network, and ends with boxes on the host.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch

from detectors.annotations import Annotations
from detectors.commands.compare.analysis import ComparedDetector, Measurement
from detectors.commands.compare.run_parts import trained_detector
from detectors.config.schema import Config
from detectors.data.augment.transforms import build_transform, no_augmentation
from detectors.data.dataset import DetectionDataset
from detectors.data.images import ImageReader
from detectors.data.loading import collate
from detectors.data.sampling import Key
from detectors.models.detector import Detector
from detectors.structures import Batch, HeadOutputs
from detectors.training.interleaving import Contender, interleaved, stopwatch_of
from detectors.training.outcome import device_name
from detectors.training.precision import backend_switches, network_precision
from detectors.training.temporaries import peak_bytes

FEWEST, MOST = 3, 200  # rounds
TIMED_IMAGES = 64  # different images at most
PHASES = ("pre-processing", "network", "post-processing")
PERCENTILES = (25, 50, 75)


class SpeedConditions(NamedTuple):
    device: str
    clock: str
    batch: int  # images at a time, beside 1
    rounds: int  # at batch 1
    batch_rounds: int
    images: int  # different ones


class DetectorSpeed(NamedTuple):
    run: str
    latency: dict[str, np.ndarray]  # by PHASES: (rounds,) milliseconds of one image alone
    batch: dict[str, np.ndarray]  # by PHASES: (batch_rounds,) milliseconds of an image of a batch
    memory_bytes: int  # weights, and what tensors of a batch's network and post-processing hold at most

    def numbers(self) -> dict[str, Any]:
        total = sum(self.batch.values())
        return {
            "run": self.run,
            "latency_ms": _quartiles_with_total(self.latency),
            "batch_ms": _quartiles_with_total(self.batch),
            "images_per_second": median_and_quartiles(1000 / np.maximum(total, 1e-9)),
            "memory_bytes": self.memory_bytes,
        }


def median_and_quartiles(values: np.ndarray) -> dict[str, float]:
    low, median, high = np.percentile(values, PERCENTILES)
    return {"median": float(median), "low": float(low), "high": float(high)}


def _quartiles_with_total(phases: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    return {name: median_and_quartiles(values) for name, values in phases.items()} | {
        "total": median_and_quartiles(sum(phases.values()))
    }


@dataclass
class _Runner:
    """A loaded detector; its phases hand on what they have made."""

    run: str
    detector: Detector
    config: Config
    dataset: DetectionDataset
    rows: Sequence[int]  # of the images
    device: torch.device
    turn: int = 0
    batch: Batch | None = None
    outputs: HeadOutputs | None = None
    keys: list[Key] = field(default_factory=list)

    def next_images(self, count: int) -> None:
        places = range(self.turn * count, (self.turn + 1) * count)
        self.keys = [Key(0, self.rows[place % len(self.rows)]) for place in places]
        self.turn += 1

    def prepare(self) -> None:
        self.batch = collate([self.dataset[key] for key in self.keys])

    @torch.no_grad()
    def forward(self) -> None:
        trainer = self.config.trainer
        images = self.batch.images.to(self.device)
        with backend_switches(trainer), network_precision(trainer.precision, self.device):
            self.outputs = self.detector(images)

    def finish(self) -> None:
        size = self.batch.images.shape[-2:]
        self.detector.detections(self.outputs, self.batch.infos, size).to("cpu")

    def contender(self, name: str, count: int) -> Contender:
        self.turn = 0
        work = dict(zip(PHASES, (self.prepare, self.forward, self.finish), strict=True))
        return Contender(name, work, before=lambda: self.next_images(count))

    def memory(self, count: int) -> int:
        self.next_images(count)
        self.prepare()
        self.outputs = None
        weights = chain(self.detector.parameters(), self.detector.buffers())

        def work() -> None:
            self.forward()
            self.finish()
            self.outputs = None

        return sum(each.nbytes for each in weights) + peak_bytes(work, self.device)


def measured_speeds(
    detectors: Sequence[ComparedDetector], device: torch.device, *, batch: int, seconds: float, threads: int
) -> tuple[dict[str, DetectorSpeed], SpeedConditions | None, list[str]]:
    """The speed of each detector that can be loaded, by name; the conditions; notes about the others.

    batch: images at a time, beside 1. seconds: of measuring at each of the two, unless FEWEST rounds take
    longer. threads: of PyTorch on the CPU; 0 leaves them as they are.
    """
    runners, notes = {}, []
    with _threads(threads):
        for detector in detectors:
            try:
                runners[detector.name] = _runner(detector, device)
            except (OSError, ValueError) as error:
                notes.append(f"no speed of {detector.name}: {error}")
        if not runners:
            return {}, None, notes
        one = _in_turns(runners, 1, device, seconds)
        many = _in_turns(runners, batch, device, seconds)
        speeds = {
            name: DetectorSpeed(runner.run, one[name], many[name], runner.memory(batch))
            for name, runner in runners.items()
        }
        first = next(iter(runners.values()))
        conditions = SpeedConditions(
            device=device_name(device),
            clock=stopwatch_of(device).name,
            batch=batch,
            rounds=_rounds_of(one),
            batch_rounds=_rounds_of(many),
            images=len(first.rows),
        )
    return speeds, conditions, notes


def _runner(detector: ComparedDetector, device: torch.device) -> _Runner:
    """Of the first run that can be loaded. FileNotFoundError or ValueError of the first one if none can."""
    problems = []
    for member in detector.members:
        try:
            return _loaded(member, device)
        except (OSError, ValueError) as error:
            problems.append(error)
    raise problems[0]


def _loaded(member: Measurement, device: torch.device) -> _Runner:
    if not len(member.annotations):
        raise ValueError("no images were evaluated")
    network, config = trained_detector(member, device)
    dataset = _dataset(member.annotations, config)
    count = min(TIMED_IMAGES, len(dataset))
    rows = np.linspace(0, len(dataset) - 1, count).astype(int).tolist()
    runner = _Runner(str(member.record["name"]), network, config, dataset, rows, device)
    for row in rows:
        dataset[Key(0, row)]  # raises here if an image is missing or damaged, and fills the file cache
    return runner


def _dataset(annotations: Annotations, config: Config) -> DetectionDataset:
    """As assemble.eval_loader has it, without caches, for images wherever they were evaluated."""
    size = tuple(config.input.size)
    transform = build_transform(augment=no_augmentation(), size=size, resize=config.input.resize, train=False)
    data = config.data
    reader = ImageReader(annotations, reduced=data.reduced_decode, max_pixels=data.max_pixels)
    return DetectionDataset(annotations, transform, seed=config.seed, reader=reader)


def _in_turns(
    runners: Mapping[str, _Runner], count: int, device: torch.device, seconds: float
) -> dict[str, dict[str, np.ndarray]]:
    """Name -> phase -> (rounds,) milliseconds of an image, `count` images at a time."""
    watch = stopwatch_of(device)

    def timings(rounds: int) -> dict[str, dict[str, list[float]]]:
        contenders = [runner.contender(name, count) for name, runner in runners.items()]
        return interleaved(contenders, watch, rounds=rounds, warm_up=False)

    timings(1)  # warms up
    started = perf_counter()
    timings(1)
    rounds = int(np.clip(seconds / max(perf_counter() - started, 1e-6), FEWEST, MOST))
    return {
        name: {phase: 1000 * np.array(values) / count for phase, values in phases.items()}
        for name, phases in timings(rounds).items()
    }


def _rounds_of(timings: Mapping[str, Mapping[str, np.ndarray]]) -> int:
    return len(next(iter(next(iter(timings.values())).values())))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count or before)
        yield
    finally:
        torch.set_num_threads(before)
