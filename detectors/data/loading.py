"""Annotations and a transform -> batches: decoding, mixing, collating, broken files, and the processes that do it.

Sample k of epoch e is a pure function of (seed, e, k) and its size, and batch number s one of (seed, s, batch size, number of images): the
number of workers does not change a byte, nor that of training processes, and a run that goes on from step s gets what it would have got.
"""

from __future__ import annotations

import logging
import math
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from detectors.annotations import Annotations
from detectors.data.augment.mixing import Mixing
from detectors.data.augment.transforms import TransformedSample
from detectors.data.images import ImageError, ImageReader
from detectors.data.problems import KINDS, Problem
from detectors.data.sampling import Key, ResumableSampler, SizeOf
from detectors.structures import Batch, ImageInfo, Targets

DRAW, PART, MIX = range(3)  # streams of a sample, see DetectionDataset._entropy
TRIES = 50  # images drawn in the place of one that cannot be used, before the data set is given up
ON_ERROR = ("stop", "replace", "leave_out")

TransformCall = Callable[[np.ndarray, np.ndarray, np.ndarray, int, tuple[int, int] | None], TransformedSample]

logger = logging.getLogger(__name__)


class Sample(NamedTuple):
    image: Tensor  # (H, W, 3) uint8 RGB
    boxes: Tensor  # (n, 4) float32 xyxy, model input
    labels: Tensor  # (n,) int64
    info: ImageInfo  # of mixed images, the first one's


class Fetched(NamedTuple):
    """What a worker hands over: samples, or after collating a batch, and what it found on the way."""

    samples: list[Sample] | Batch | None  # None: no image of the batch can be used
    problems: list[Problem]
    error: ImageError | None = None  # an exception would reach the reader wrapped in two tracebacks


class DetectionDataset(Dataset):
    """Annotations seen through a transform. The key of a sample is (epoch, index) or a whole Key.

    Crowd boxes are never among the truths; difficult ones are if `use_difficult` (Darknet leaves them out). Neither matters to evaluation,
    which reads the Annotations themselves.

    on_error, for an image that cannot be used: "stop" raises its ImageError; "replace" puts others, drawn from (seed, epoch, index), in its
    place until one can be; "leave_out" leaves it out of its batch, so that it has no detections and its truths count as missed.
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
    ):
        if on_error not in ON_ERROR:
            raise ValueError(f"on_error={on_error!r}: choose one of {', '.join(ON_ERROR)}")
        self.annotations, self.transform, self.seed, self.on_error, self.mixing = (
            annotations,
            transform,
            seed,
            on_error,
            mixing,
        )
        self.reader = reader or ImageReader(annotations)
        self.trained_on = (
            ~annotations.crowd if use_difficult else ~(annotations.crowd | annotations.difficult)
        )  # (T,) bool

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, key: Key | tuple[int, int]) -> Sample:
        return self._sample(Key(*key), [])

    def __getitems__(self, keys: list[Key]) -> Fetched:
        """One batch."""
        samples, problems = [], []
        for key in keys:
            try:
                samples.append(self._sample(Key(*key), problems))
            except ImageError as error:
                if self.on_error != "leave_out":
                    return Fetched([], problems, error)
                problems.append(error.problem)
        return Fetched(samples, problems)

    def _sample(self, key: Key, problems: list[Problem]) -> Sample:
        """`problems` grows by what is found."""
        result, info = self._part(key, 0, problems)
        if self.mixing is not None:
            random = np.random.default_rng(self._entropy(key, MIX))
            result = self.mixing(result, lambda part: self._part(key, part, problems)[0], random)
        return Sample(
            torch.from_numpy(result.image),
            torch.from_numpy(result.boxes),
            torch.from_numpy(result.labels),
            info,
        )

    def _part(self, key: Key, part: int, problems: list[Problem]) -> tuple[TransformedSample, ImageInfo]:
        """Image number `part` of a sample: 0 is the key's own, the others, which are mixed into it, are drawn."""
        seed = int(self._entropy(key, *([PART, part] if part else [])).generate_state(1, np.uint64)[0])
        for row in self._rows(key, part):
            try:
                return self._transformed(row, seed, key.size)
            except ImageError as error:
                if self.on_error != "replace":
                    raise
                problems.append(error.problem)
                last = error
        path, what, kind = last.args
        raise ImageError(path, f"{what}. None of {TRIES} images tried can be used; this is the last", kind)

    def _rows(self, key: Key, part: int) -> Iterator[int]:
        """TRIES rows to try, one after the other."""
        if part == 0:
            yield key.index
        draws = np.random.default_rng(self._entropy(key, DRAW, part))
        for _ in range(TRIES - (part == 0)):
            yield int(draws.integers(len(self)))

    def _entropy(self, key: Key, *stream: int) -> np.random.SeedSequence:
        """Streams of one sample, each independent of the others; the first part's augmentation has the one without a number."""
        return np.random.SeedSequence((self.seed, key.epoch, key.index), spawn_key=stream)

    def _transformed(
        self, row: int, seed: int, size: tuple[int, int] | None
    ) -> tuple[TransformedSample, ImageInfo]:
        truths = self.annotations
        decoded = self.reader.read(row, self._wanted(size))
        rows = np.arange(truths.offsets[row], truths.offsets[row + 1])
        rows = rows[self.trained_on[rows]]
        boxes = truths.boxes_original[rows] / decoded.divisor
        result = self.transform(decoded.image, boxes, truths.labels[rows], seed, size)
        scale = tuple(value / decoded.divisor for value in result.scale_xy)
        info = ImageInfo(
            row, truths.image_ids[row], truths.paths[row], decoded.size_original, scale, result.shift_xy
        )
        return result, info

    def _wanted(self, size: tuple[int, int] | None) -> tuple[float, float] | None:
        """(height, width), the pixels of which the transform could still make use; None if it does not say.

        The longer side of the input counts for both: Darknet's placement is a square of it.
        """
        zoom = getattr(self.transform, "max_zoom", math.inf)
        return None if math.isinf(zoom) else (max(size or self.transform.size) * zoom,) * 2


def collate(samples: list[Sample]) -> Batch:
    """B samples -> Batch, truths padded to the largest number in the batch (0 if no image has any).

    The images are (B, 3, H, W) in channels_last memory: stacked as they come, without a transposition.
    """
    boxes = torch.nn.utils.rnn.pad_sequence(
        [sample.boxes for sample in samples], batch_first=True
    )  # (B, M, 4)
    labels = torch.nn.utils.rnn.pad_sequence(
        [sample.labels for sample in samples], batch_first=True
    )  # (B, M)
    counts = torch.tensor([len(sample.labels) for sample in samples])
    valid = torch.arange(boxes.shape[1]) < counts[:, None]  # (B, M)
    images = torch.stack([sample.image for sample in samples]).permute(0, 3, 1, 2)  # (B, 3, H, W)
    return Batch(images, Targets(boxes, labels, valid), [sample.info for sample in samples])


class BatchLoader(DataLoader):
    """A DataLoader that raises a worker's ImageError as if it had happened here, once the workers have ended, and tells what was left."""

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.problems: dict[
            str, Problem
        ] = {}  # by path: images that were replaced or left out, in any iteration so far

    def __iter__(self) -> Iterator[Batch]:
        batches = super().__iter__()
        for fetched in batches:
            self._tell(fetched.problems)
            if fetched.error is not None:
                break
            if fetched.samples is not None:
                yield fetched.samples
        else:
            return
        del (
            batches
        )  # ends the workers; an error's traceback would keep them, and take ten seconds to let them go
        path, what, kind = fetched.error.args
        raise ImageError(
            path,
            f"{what}; data.on_error=skip goes on without it" if self.dataset.on_error == "stop" else what,
            kind,
        )

    def _tell(self, problems: list[Problem]) -> None:
        """Each file once."""
        fate = (
            "other images take its place"
            if self.dataset.on_error == "replace"
            else "it is left out, and its truths count as missed"
        )
        for problem in problems:
            if problem.image not in self.problems:
                logger.warning("%s; %s", problem, fate)
            self.problems.setdefault(problem.image, problem)

    def summary(self) -> str:
        """How many images could not be used so far; "" for none."""
        kinds = Counter(problem.kind for problem in self.problems.values())
        return ", ".join(f"{count} {KINDS[kind].title}" for kind, count in kinds.items())


def build_train_loader(
    dataset: DetectionDataset,
    *,
    batch_size: int,
    workers: int,
    prefetch: int = 2,
    start_step: int = 0,
    steps: int | None = None,
    size_of: SizeOf | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> BatchLoader:
    """Batches number start_step to steps - 1 of the run (for ever if steps is None), in the order that the dataset's seed gives.

    size_of: number of a batch -> its (height, width); None leaves it to the dataset's transform. prefetch: batches that each worker has
    ready. rank, world_size: this process's share of each batch, see ResumableSampler; batch_size is that of one process.
    """
    span, share = (
        {"start_step": start_step, "steps": steps, "size_of": size_of},
        {"rank": rank, "world_size": world_size},
    )
    sampler = ResumableSampler(images=len(dataset), batch_size=batch_size, seed=dataset.seed, **span, **share)
    return _loader(dataset, sampler, workers, prefetch)


def build_eval_loader(
    dataset: DetectionDataset, *, batch_size: int, workers: int, prefetch: int = 2
) -> BatchLoader:
    """Every image once, in the order of the Annotations; the last batch may be smaller."""
    keys = [Key(0, index) for index in range(len(dataset))]
    return _loader(
        dataset,
        [keys[start : start + batch_size] for start in range(0, len(keys), batch_size)],
        workers,
        prefetch,
    )


def _loader(dataset: DetectionDataset, batches: Sampler | list, workers: int, prefetch: int) -> BatchLoader:
    cv2.setNumThreads(0)  # OpenCV's own threads would fight with the workers and with torch for the cores
    return BatchLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # of its own: without one, each loader would draw from the global stream, which a resume restores
    )


def _collate(fetched: Fetched) -> Fetched:
    return fetched._replace(samples=collate(fetched.samples) if fetched.samples else None)


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is the main process's business: it saves, then ends the workers
