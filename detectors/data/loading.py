"""Samples -> batches: the order, collating, worker processes, and the count of images that could not be used.

Which samples form batch s is a pure function of (seed, s, batch size, number of images). As each sample is
one of its key, too (dataset.py), neither the number of workers nor the number of training processes changes a
byte, and a run resumed at step s gets the batches that it would have got.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Sampler, get_worker_info

from detectors.data.dataset import DetectionDataset, Fetched, Sample
from detectors.data.images import ImageError
from detectors.data.problems import KINDS, Problem
from detectors.data.sampling import Key, ResumableSampler, SizeOf
from detectors.data.workers import LIVENESS_CHECK, start_worker, worker_processes
from detectors.structures import Batch, Targets

logger = logging.getLogger(__name__)


def collate(samples: list[Sample]) -> Batch:
    """B samples -> Batch. Boxes are padded to the largest number in the batch (0 if no image has boxes).

    The images are (B, 3, H, W) in channels_last memory, so they are stacked without a transposition.
    """
    boxes = pad_sequence([sample.boxes for sample in samples], batch_first=True)  # (B, M, 4)
    labels = pad_sequence([sample.labels for sample in samples], batch_first=True)  # (B, M)
    counts = torch.tensor([len(sample.labels) for sample in samples])
    valid = torch.arange(boxes.shape[1]) < counts[:, None]  # (B, M)
    images = torch.stack([sample.image for sample in samples]).permute(0, 3, 1, 2)  # (B, 3, H, W)
    image_labels = None
    if samples[0].image_label is not None:
        image_labels = torch.tensor([sample.image_label for sample in samples])  # (B,)
    return Batch(images, Targets(boxes, labels, valid, image_labels), [sample.info for sample in samples])


class BatchLoader(DataLoader):
    """A DataLoader that logs the images that were replaced or left out.

    It raises a worker's ImageError as if it had occurred in the main process. batch_timeout: seconds to wait
    for a batch of the workers, 0: for ever; see workers.worker_processes, also for other errors.
    """

    dataset: DetectionDataset

    def __init__(
        self,
        dataset: DetectionDataset,
        *,
        num_workers: int = 0,
        batch_timeout: float = 0.0,
        **options: Any,
    ):
        """options: of DataLoader."""
        timeout = LIVENESS_CHECK if num_workers else 0
        super().__init__(dataset, num_workers=num_workers, timeout=timeout, **options)
        self.batch_timeout = batch_timeout
        # By path: images that were replaced or left out, in all iterations so far.
        self.problems: dict[str, Problem] = {}

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override] # DataLoader names its own iterator
        with worker_processes(super().__iter__, self.batch_timeout) as batches:
            for fetched in batches:
                self.note(fetched.problems)
                if fetched.error is not None:
                    raise self._advised(fetched.error)
                if fetched.samples is not None:
                    yield fetched.samples

    def _advised(self, error: ImageError) -> ImageError:
        path, what, kind = error.args
        if self.dataset.on_error == "stop":
            what += "; data.on_error=skip continues without it"
        return ImageError(path, what, kind)

    def note(self, problems: Iterable[Problem]) -> None:
        """Counts problems, this process's or another's, with one warning per file."""
        consequence = "it is left out, and its boxes count as missed"
        if self.dataset.on_error == "replace":
            consequence = "other images take its place"
        for problem in problems:
            if problem.image not in self.problems:
                logger.warning("%s; %s", problem, consequence)
                self.problems[problem.image] = problem

    def summary(self) -> str:
        """The number of images that could not be used so far, by kind of problem; "" for none."""
        kinds = Counter(problem.kind for problem in self.problems.values())
        return ", ".join(f"{count} {KINDS[kind].title}" for kind, count in kinds.items())


def build_train_loader(
    dataset: DetectionDataset,
    *,
    batch_size: int,
    workers: int,
    prefetch: int = 2,
    batch_timeout: float = 0.0,
    start_step: int = 0,
    start_image: int | None = None,
    steps: int | None = None,
    size_of: SizeOf | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> BatchLoader:
    """Batches start_step to steps - 1 of the run, in the order given by the dataset's seed.

    batch_size: of one process. prefetch: the number of batches that each worker prepares in advance.
    batch_timeout: see BatchLoader. steps: None is endless. size_of: number of a batch -> its (height, width);
    None is the transform's size.
    start_image, rank, world_size: see ResumableSampler.
    """
    sampler = ResumableSampler(
        images=len(dataset),
        batch_size=batch_size,
        seed=dataset.seed,
        start_step=start_step,
        start_image=start_image,
        steps=steps,
        size_of=size_of,
        rank=rank,
        world_size=world_size,
        mix=dataset.mix,
    )
    return _loader(dataset, sampler, workers, prefetch, batch_timeout)


def build_eval_loader(
    dataset: DetectionDataset,
    *,
    batch_size: int,
    workers: int,
    prefetch: int = 2,
    batch_timeout: float = 0.0,
    rank: int = 0,
    world_size: int = 1,
) -> BatchLoader:
    """Every image once, in the order of the Annotations; the last batch may be smaller.

    Process `rank` of `world_size` takes every world_size-th batch. So the batches, and the detections to the
    last bit, are those of one process.
    """
    keys = [Key(0, index) for index in range(len(dataset))]
    batches = [keys[start : start + batch_size] for start in range(0, len(keys), batch_size)]
    return _loader(dataset, batches[rank::world_size], workers, prefetch, batch_timeout)


def _loader(
    dataset: DetectionDataset, batches: Sampler | list, workers: int, prefetch: int, batch_timeout: float
) -> BatchLoader:
    cv2.setNumThreads(0)  # OpenCV's threads would compete with the workers and torch for the cores
    return BatchLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        batch_timeout=batch_timeout,
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=start_worker,
        # Without a generator, the loader would draw from the global random state, which a resume restores.
        generator=torch.Generator(),
    )


def _collate(fetched: Fetched) -> Fetched:
    samples = fetched.samples
    batch = collate(samples) if isinstance(samples, list) and samples else None
    if batch is not None and get_worker_info() is not None:
        # The queue would do it in a thread, whose error nobody hears: the batch would never come.
        for tensor in (batch.images, *vars(batch.targets).values()):
            if tensor is not None:
                tensor.share_memory_()
    return fetched._replace(samples=batch)
