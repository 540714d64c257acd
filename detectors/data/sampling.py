"""Which samples form a batch: an endless, resumable order, shared by several processes; multi-scale sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

SizeOf = Callable[[int], tuple[int, int]]


class Key(NamedTuple):
    """Identifies a sample."""

    epoch: int
    index: int  # row of the Annotations
    # (height, width) of the model input in multi-scale training; None: the transform's own.
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class MultiScale:
    """Darknet's random=1 (train_detector in examples/detector.c): a new square input every 10 iterations.

    The side is one of 320, 352 ... 608, and the largest at the end of the training. It is a pure function of
    (seed, step // every), so a resumed run and any number of workers give the same sizes. Darknet uses C's
    rand(), seeded by the clock, so only the distribution is the same. Darknet checks for the end only when it
    draws, so the first block of its last 200 iterations still has a random size; here it has the largest.
    """

    sides: Sequence[int]  # pixels, ascending
    every: int  # optimiser steps
    final_steps: int  # optimiser steps at the end that use the largest side
    steps: int  # optimiser steps of the whole run
    seed: int

    def __call__(self, step: int) -> tuple[int, int]:
        """(height, width) for optimiser step `step`, counted from 0."""
        side = self.sides[-1] if step >= self.steps - self.final_steps else self._random_side(step)
        return side, side

    def _random_side(self, step: int) -> int:
        # The spawn key gives a stream that is independent of the permutations and samples.
        entropy = np.random.SeedSequence(self.seed, spawn_key=(step // self.every,))
        return self.sides[np.random.default_rng(entropy).integers(len(self.sides))]


class ResumableSampler(Sampler):
    """Batches of Key: one permutation per epoch, without a gap between epochs, so that all batches are full.

    A batch may reach into the next epoch, and spans several if there are fewer images than batch_size.
    start_step: the number of the first batch. start_image: the images that all processes used before it;
    None: start_step * batch_size * world_size. It differs if an interrupted run had other batches.
    steps: the number of the batch before which the run ends; None: never. size_of: number of a batch ->
    (height, width) of its images.

    Process `rank` of `world_size` takes batch_size samples of every step, after those of the lower ranks. So
    two processes with batches of 4 see together what one process with batches of 8 sees, in the same order.
    """

    def __init__(
        self,
        *,
        images: int,
        batch_size: int,
        seed: int,
        start_step: int = 0,
        start_image: int | None = None,
        steps: int | None = None,
        size_of: SizeOf | None = None,
        rank: int = 0,
        world_size: int = 1,
    ):
        if min(images, batch_size) < 1:
            raise ValueError(f"{images} images in batches of {batch_size}: both numbers must be at least 1")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank}: processes are numbered 0 to world_size - 1 = {world_size - 1}")
        self.images = images
        self.batch_size = batch_size
        self.seed = seed
        self.start_step = start_step
        self.start_image = start_step * world_size * batch_size if start_image is None else start_image
        self.steps = steps
        self.size_of = size_of
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        if self.steps is None:
            raise TypeError("an endless sampler has no length")
        return max(0, self.steps - self.start_step)

    def __iter__(self) -> Iterator[list[Key]]:
        step = self.start_step
        permutations = {}  # epoch -> its order, for the epochs of the current batch
        while self.steps is None or step < self.steps:
            turn = (step - self.start_step) * self.world_size + self.rank
            first = self.start_image + turn * self.batch_size
            places = [divmod(place, self.images) for place in range(first, first + self.batch_size)]
            epochs = {epoch for epoch, _ in places}
            new = {epoch: self.permutation(epoch) for epoch in epochs - permutations.keys()}
            permutations = {epoch: order for epoch, order in (permutations | new).items() if epoch in epochs}
            size = self.size_of(step) if self.size_of else None
            yield [Key(epoch, int(permutations[epoch][place]), size) for epoch, place in places]
            step += 1

    def permutation(self, epoch: int) -> np.ndarray:
        """(N,) the order of the images in an epoch."""
        return np.random.default_rng((self.seed, epoch)).permutation(self.images)
