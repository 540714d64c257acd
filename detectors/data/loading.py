"""Annotations and a transform -> batches: decoding, collating, an endless and resumable order, multi-scale sizes.

Sample k of epoch e is a pure function of (seed, e, k) and its size, and batch number s one of (seed, s, batch size, number of images): the
number of workers does not change a byte, and a run that goes on from step s gets what it would have got.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.io import ImageReadMode, decode_image

from detectors.data.transforms import TransformedSample
from detectors.structures import Annotations, Batch, ImageInfo, Targets

SIZE_TOLERANCE = 1  # pixels by which a file may differ from its annotation: tools that shrink images round differently

Transform = Callable[[np.ndarray, np.ndarray, np.ndarray, int, tuple[int, int] | None], TransformedSample]
SizeOf = Callable[[int], tuple[int, int]]


class ImageError(ValueError):
    """A file that cannot be used. It crosses from a worker as it is, without the worker's traceback around it."""


class Key(NamedTuple):
    """What names a sample."""

    epoch: int
    index: int  # row of the Annotations
    size: tuple[int, int] | None = None  # (height, width) of the model input in multi-scale training; None is the transform's own


class Sample(NamedTuple):
    image: Tensor  # (H, W, 3) uint8 RGB
    boxes: Tensor  # (n, 4) float32 xyxy, model input
    labels: Tensor  # (n,) int64
    info: ImageInfo


class DetectionDataset(Dataset):
    """Annotations seen through a transform. The key of a sample is (epoch, index) or a whole Key.

    Crowd boxes are never among the truths; difficult ones are if `use_difficult` (Darknet leaves them out). Neither matters to evaluation,
    which reads the Annotations themselves.
    """

    def __init__(self, annotations: Annotations, transform: Transform, *, seed: int, use_difficult: bool = True):
        self.annotations, self.transform, self.seed = annotations, transform, seed
        self.trained_on = ~annotations.crowd if use_difficult else ~(annotations.crowd | annotations.difficult)  # (T,) bool

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, key: Key | tuple[int, int]) -> Sample:
        epoch, index, size = Key(*key)
        truths, path = self.annotations, self.annotations.paths[index]
        image = read_image(path)
        _check_size(image, truths.sizes[index], path)
        rows = np.arange(len(truths.labels))[truths.rows(index)]
        rows = rows[self.trained_on[rows]]
        seed = int(np.random.SeedSequence((self.seed, epoch, index)).generate_state(1, np.uint64)[0])
        result = self.transform(image, truths.boxes_original[rows], truths.labels[rows], seed, size)
        info = ImageInfo(index, truths.image_ids[index], path, image.shape[:2], result.scale_xy, result.shift_xy)
        return Sample(torch.from_numpy(result.image), torch.from_numpy(result.boxes), torch.from_numpy(result.labels), info)

    def __getitems__(self, keys: list[Key]) -> list[Sample] | ImageError:
        """One batch; a broken file as a value, because an exception would reach the reader wrapped in two tracebacks."""
        try:
            return [self[key] for key in keys]
        except ImageError as error:
            return error


def read_image(path: str) -> np.ndarray:
    """(h, w, 3) uint8 RGB, grey images in three equal channels. The camera's orientation tag is ignored: boxes refer to the stored pixels.

    Decoded by torchvision, which is as quick as OpenCV, and refuses a file that ends too soon where OpenCV makes up the rest in grey.
    Raises ImageError that names the file.
    """
    try:
        data = np.fromfile(path, dtype=np.uint8)
        image = decode_image(torch.from_numpy(data), mode=ImageReadMode.RGB)
    except OSError as error:
        raise ImageError(f"{path}: the image cannot be read ({error.strerror})") from error
    except RuntimeError as error:
        reason = str(error).splitlines()[0] if len(data) else "the file is empty"
        raise ImageError(f"{path}: the image cannot be decoded ({reason}); restore the file, or leave it out") from error
    pixels = image.permute(1, 2, 0).numpy()
    return (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels  # 16-bit PNG


def _check_size(image: np.ndarray, size: np.ndarray, path: str) -> None:
    if np.abs(np.subtract(image.shape[:2], size)).max() > SIZE_TOLERANCE:
        (height, width), (rows, columns) = size.tolist(), image.shape[:2]
        why = (
            "; the two sides are swapped, so the boxes may belong to the image turned upright" if (height, width) == (columns, rows) else ""
        )
        raise ImageError(f"{path}: the image is {columns} x {rows} (width x height), its annotation says {width} x {height}{why}")


def collate(samples: list[Sample]) -> Batch:
    """B samples -> Batch, truths padded to the largest number in the batch (0 if no image has any).

    The images are (B, 3, H, W) in channels_last memory: stacked as they come, without a transposition.
    """
    boxes = torch.nn.utils.rnn.pad_sequence([sample.boxes for sample in samples], batch_first=True)  # (B, M, 4)
    labels = torch.nn.utils.rnn.pad_sequence([sample.labels for sample in samples], batch_first=True)  # (B, M)
    counts = torch.tensor([len(sample.labels) for sample in samples])
    valid = torch.arange(boxes.shape[1]) < counts[:, None]  # (B, M)
    images = torch.stack([sample.image for sample in samples]).permute(0, 3, 1, 2)  # (B, 3, H, W)
    return Batch(images, Targets(boxes, labels, valid), [sample.info for sample in samples])


@dataclass(frozen=True)
class MultiScale:
    """Darknet's random=1 (train_detector in examples/detector.c): every 10 iterations a square of one of the sides 320, 352 ... 608, at the
    end of the training the largest.

    The side is a pure function of (seed, step // every), so that a resume and any number of workers give the same. Darknet takes C's
    rand(), seeded by the clock: only its distribution can be had. And it looks at the end only when it draws: there the first block of
    the last 200 iterations is still a random one, here none is.
    """

    sides: Sequence[int]  # pixels, rising
    every: int  # optimiser steps
    final_steps: int  # optimiser steps at the end that have the largest side
    steps: int  # optimiser steps of the whole run
    seed: int

    def __call__(self, step: int) -> tuple[int, int]:
        """(height, width) of optimiser step `step`; the first is 0."""
        if step >= self.steps - self.final_steps:
            side = self.sides[-1]
        else:
            entropy = np.random.SeedSequence(self.seed, spawn_key=(step // self.every,))  # a stream apart from permutations and samples
            side = self.sides[np.random.default_rng(entropy).integers(len(self.sides))]
        return side, side


class ResumableSampler(Sampler):
    """Batches of Key: each epoch a permutation of its own, one after the other without a gap, so that all batches are full.

    A batch may reach into the next epoch; with fewer images than batch_size it holds several. `start_step` is the number of batches that an
    interrupted run has used; it ends before `steps`, or never (None). `size_of` gives the size of the images of batch number `step`.
    """

    def __init__(
        self, *, images: int, batch_size: int, seed: int, start_step: int = 0, steps: int | None = None, size_of: SizeOf | None = None
    ):
        if min(images, batch_size) < 1:
            raise ValueError(f"{images} images in batches of {batch_size}: there must be at least one of each")
        self.images, self.batch_size, self.seed, self.start_step, self.steps = images, batch_size, seed, start_step, steps
        self.size_of = size_of

    def __len__(self) -> int:
        if self.steps is None:
            raise TypeError("an endless sampler has no length")
        return max(0, self.steps - self.start_step)

    def __iter__(self) -> Iterator[list[Key]]:
        step, permutations = self.start_step, {}
        while self.steps is None or step < self.steps:
            places = range(step * self.batch_size, (step + 1) * self.batch_size)
            epochs = {place // self.images for place in places}
            permutations = {epoch: permutations[epoch] if epoch in permutations else self.permutation(epoch) for epoch in epochs}
            size = self.size_of(step) if self.size_of else None
            yield [Key(place // self.images, int(permutations[place // self.images][place % self.images]), size) for place in places]
            step += 1

    def permutation(self, epoch: int) -> np.ndarray:
        """(N,) the order of an epoch."""
        return np.random.default_rng((self.seed, epoch)).permutation(self.images)


class BatchLoader(DataLoader):
    """A DataLoader that raises a worker's ImageError as if it had happened here, once the workers have ended."""

    def __iter__(self) -> Iterator[Batch]:
        batches = super().__iter__()
        for batch in batches:
            if isinstance(batch, ImageError):
                break
            yield batch
        else:
            return
        del batches  # ends the workers; an error's traceback would keep them, and take ten seconds to let them go
        raise ImageError(str(batch))


def build_train_loader(
    dataset: DetectionDataset,
    *,
    batch_size: int,
    workers: int,
    start_step: int = 0,
    steps: int | None = None,
    size_of: SizeOf | None = None,
) -> BatchLoader:
    """Batches number start_step to steps - 1 of the run (for ever if steps is None), in the order that the dataset's seed gives.

    size_of: number of a batch -> its (height, width); None leaves it to the dataset's transform.
    """
    span = {"start_step": start_step, "steps": steps}
    sampler = ResumableSampler(images=len(dataset), batch_size=batch_size, seed=dataset.seed, **span, size_of=size_of)
    return _loader(dataset, sampler, workers)


def build_eval_loader(dataset: DetectionDataset, *, batch_size: int, workers: int) -> BatchLoader:
    """Every image once, in the order of the Annotations; the last batch may be smaller."""
    keys = [Key(0, index) for index in range(len(dataset))]
    return _loader(dataset, [keys[start : start + batch_size] for start in range(0, len(keys), batch_size)], workers)


def _loader(dataset: DetectionDataset, batches: Sampler | list, workers: int) -> BatchLoader:
    cv2.setNumThreads(0)  # OpenCV's own threads would fight with the workers and with torch for the cores
    return BatchLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_collate_unless_broken,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # of its own: without one, each loader would draw from the global stream, which a resume restores
    )


def _collate_unless_broken(samples: list[Sample] | ImageError) -> Batch | ImageError:
    return samples if isinstance(samples, ImageError) else collate(samples)


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's business: it saves, then ends the workers
