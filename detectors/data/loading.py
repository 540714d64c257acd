"""Annotations and a transform -> batches: decoding, mixing, collating, broken files and worker processes.

Sample k of epoch e is a pure function of (seed, e, k) and its size. Which samples form batch s is a pure
function of (seed, s, batch size, number of images). So neither the number of workers nor the number of
training processes changes a byte, and a run resumed at step s gets the batches that it would have got.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from detectors.annotations import Annotations
from detectors.data.augment.mixing import Mixing
from detectors.data.augment.transforms import TransformedSample
from detectors.data.images import ImageError, ImageReader
from detectors.data.problems import KINDS, Problem
from detectors.data.sampling import Key, ResumableSampler, SizeOf, SourceMix
from detectors.data.workers import LIVENESS_CHECK, start_worker, worker_processes
from detectors.structures import Batch, ImageInfo, Targets

# Random streams of a sample, see DetectionDataset._entropy: the choice of images, augmentation, mixing.
DRAW, PART, MIX = range(3)
TRIES = 50  # images tried for one place in a batch before loading fails
ON_ERROR = ("stop", "replace", "leave_out")

TransformCall = Callable[[np.ndarray, np.ndarray, np.ndarray, int, tuple[int, int] | None], TransformedSample]

logger = logging.getLogger(__name__)


class Sample(NamedTuple):
    image: Tensor  # (H, W, 3) uint8 RGB
    boxes: Tensor  # (n, 4) float32 xyxy, model input
    labels: Tensor  # (n,) int64
    info: ImageInfo  # of mixed images, the first one's
    image_label: int | None = None  # see Targets.image_labels


class Fetched(NamedTuple):
    """What a worker returns: the samples, or after collating the batch; and the problems with its images."""

    samples: list[Sample] | Batch | None  # None: no image of the batch can be used
    problems: list[Problem]
    error: ImageError | None = None  # not raised in the worker, where it would be wrapped in two tracebacks


class DetectionDataset(Dataset):
    """Annotations seen through a transform. The key of a sample is (epoch, index) or a complete Key.

    Samples never have crowd boxes; they have difficult boxes if use_difficult (Darknet leaves them out).
    In evaluation, both matter for the validation loss only; AP reads the Annotations directly.

    on_error: what to do with an image that cannot be used. "stop" raises its ImageError. "replace" tries
    other images, drawn from (seed, epoch, index), in its place. "leave_out" leaves it out of its batch; it
    then has no detections, and its boxes count as missed.
    """

    def __init__(
        self,
        annotations: Annotations,
        transform: TransformCall,
        *,
        seed: int,
        use_difficult: bool = True,
        on_error: str = "stop",
        mixing: Mixing | None = None,
        reader: ImageReader | None = None,
        mix: SourceMix | None = None,
    ):
        """mix: of the sets that the annotations are made of, which only training needs."""
        if on_error not in ON_ERROR:
            raise ValueError(f"on_error={on_error!r}: choose one of {', '.join(ON_ERROR)}")
        self.annotations = annotations
        self.transform = transform
        self.seed = seed
        self.on_error = on_error
        self.mixing = mixing
        self.reader = reader or ImageReader(annotations)
        self.mix = mix
        self.trained_on = ~annotations.crowd  # (T,) bool
        if not use_difficult:
            self.trained_on &= ~annotations.difficult

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, key: Key | tuple[int, int]) -> Sample:
        return self._sample(Key(*key), [])

    def __getitems__(self, keys: list[Key]) -> Fetched:
        """The samples of one batch."""
        samples = []
        problems = []
        for key in keys:
            try:
                samples.append(self._sample(Key(*key), problems))
            except ImageError as error:
                if self.on_error != "leave_out":
                    return Fetched([], problems, error)
                problems.append(error.problem)
        return Fetched(samples, problems)

    def _sample(self, key: Key, problems: list[Problem]) -> Sample:
        """One sample. Problems with its images are added to `problems`."""
        result, info = self._part(key, 0, problems)
        if self.mixing is not None:
            random = np.random.default_rng(self._entropy(key, MIX))
            result = self.mixing(result, lambda part: self._part(key, part, problems)[0], random)
        image_labels = self.annotations.image_labels
        return Sample(
            torch.from_numpy(result.image),
            torch.from_numpy(result.boxes),
            torch.from_numpy(result.labels),
            info,
            None if image_labels is None else int(image_labels[info.index]),
        )

    def _part(self, key: Key, part: int, problems: list[Problem]) -> tuple[TransformedSample, ImageInfo]:
        """Image number `part` of a sample: 0 is the key's own; the others are drawn, and mixed into it."""
        # The augmentation of part 0 uses the stream without a number.
        entropy = self._entropy(key, PART, part) if part else self._entropy(key)
        seed = int(entropy.generate_state(1, np.uint64)[0])
        for row in self._rows(key, part):
            try:
                return self._transformed(row, seed, key.size)
            except ImageError as error:
                if self.on_error != "replace":
                    raise
                problems.append(error.problem)
                last = error
        path, what, kind = last.args
        raise ImageError(
            path, f"{what}. None of the {TRIES} images tried can be used; this is the last one", kind
        )

    def _rows(self, key: Key, part: int) -> Iterator[int]:
        """TRIES rows to try in this order; of several sets, all from the one that has the first."""
        tries = TRIES
        first, end = (0, len(self)) if self.mix is None else self.mix.like(key.index)
        if part == 0:
            yield key.index
            tries -= 1
        random = np.random.default_rng(self._entropy(key, DRAW, part))
        for _ in range(tries):
            yield first + int(random.integers(end - first))

    def _entropy(self, key: Key, *stream: int) -> np.random.SeedSequence:
        """The seed of one of the sample's random streams, which are independent of each other."""
        return np.random.SeedSequence((self.seed, key.epoch, key.index), spawn_key=stream)

    def _transformed(
        self, row: int, seed: int, size: tuple[int, int] | None
    ) -> tuple[TransformedSample, ImageInfo]:
        annotations = self.annotations
        decoded = self.reader.read(row, self._wanted(size))
        rows = np.arange(annotations.offsets[row], annotations.offsets[row + 1])
        rows = rows[self.trained_on[rows]]
        boxes = annotations.boxes_original[rows] / decoded.divisor
        path = annotations.paths[row]
        _require_finite(boxes, path, "in its annotation")
        result = self.transform(decoded.image, boxes, annotations.labels[rows], seed, size)
        _require_finite(result.boxes, path, "after the augmentation")
        info = ImageInfo(
            row,
            annotations.image_ids[row],
            path,
            decoded.size_original,
            tuple(value / decoded.divisor for value in result.scale_xy),
            result.shift_xy,
        )
        return result, info

    def _wanted(self, size: tuple[int, int] | None) -> tuple[float, float] | None:
        """(height, width) in pixels, the largest that the transform can use; None if it does not say.

        Both are derived from the longer side of the input, because Darknet places images in a square of it.
        """
        zoom = getattr(self.transform, "max_zoom", math.inf)
        if math.isinf(zoom):
            return None
        side = max(size or self.transform.size) * zoom
        return side, side


def _require_finite(boxes: np.ndarray, path: str, when: str) -> None:
    """ImageError for a box with NaN or infinity: the matchers would drop it in silence, or spoil the loss."""
    bad = ~np.isfinite(boxes).all(1)
    if bad.any():
        box = ", ".join(f"{value:g}" for value in boxes[bad][0])
        raise ImageError(path, f"a box with NaN or infinity {when}: [{box}]", "broken-object")


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

    def __init__(self, *args, batch_timeout: float = 0.0, **kwargs):
        super().__init__(*args, timeout=LIVENESS_CHECK if kwargs.get("num_workers") else 0, **kwargs)
        self.batch_timeout = batch_timeout
        # By path: images that were replaced or left out, in all iterations so far.
        self.problems: dict[str, Problem] = {}

    def __iter__(self) -> Iterator[Batch]:
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
    batch = collate(fetched.samples) if fetched.samples else None
    if batch is not None and get_worker_info() is not None:
        # The queue would do it in a thread, whose error nobody hears: the batch would never come.
        for tensor in (batch.images, *vars(batch.targets).values()):
            if tensor is not None:
                tensor.share_memory_()
    return fetched._replace(samples=batch)
