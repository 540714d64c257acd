"""Which samples make which batch: an endless, resumable order, dealt out to processes, and the sizes of multi-scale training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

SizeOf = Callable[[int], tuple[int, int]]


class Key(NamedTuple):
    """What names a sample."""

    epoch: int
    index: int  # row of the Annotations
    size: tuple[int, int] | None = (
        None  # (height, width) of the model input in multi-scale training; None is the transform's own
    )


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
            entropy = np.random.SeedSequence(
                self.seed, spawn_key=(step // self.every,)
            )  # a stream apart from permutations and samples
            side = self.sides[np.random.default_rng(entropy).integers(len(self.sides))]
        return side, side


class ResumableSampler(Sampler):
    """Batches of Key: each epoch a permutation of its own, one after the other without a gap, so that all batches are full.

    A batch may reach into the next epoch; with fewer images than batch_size it holds several. `start_step` is the number of batches that an
    interrupted run has used; it ends before `steps`, or never (None). `size_of` gives the size of the images of batch number `step`.

    Of several processes, number `rank` of `world_size` takes its share of every step: batch_size places, after those of the ranks before
    it. Together, two processes with batches of 4 see what one with batches of 8 sees, in the same order.
    """

    def __init__(
        self,
        *,
        images: int,
        batch_size: int,
        seed: int,
        start_step: int = 0,
        steps: int | None = None,
        size_of: SizeOf | None = None,
        rank: int = 0,
        world_size: int = 1,
    ):
        if min(images, batch_size) < 1:
            raise ValueError(
                f"{images} images in batches of {batch_size}: there must be at least one of each"
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank}: processes are numbered 0 to world_size - 1 = {world_size - 1}")
        self.images, self.batch_size, self.seed, self.start_step, self.steps = (
            images,
            batch_size,
            seed,
            start_step,
            steps,
        )
        self.size_of, self.rank, self.world_size = size_of, rank, world_size

    def __len__(self) -> int:
        if self.steps is None:
            raise TypeError("an endless sampler has no length")
        return max(0, self.steps - self.start_step)

    def __iter__(self) -> Iterator[list[Key]]:
        step, permutations = self.start_step, {}
        while self.steps is None or step < self.steps:
            first = (step * self.world_size + self.rank) * self.batch_size
            places = range(first, first + self.batch_size)
            epochs = {place // self.images for place in places}
            permutations = {
                epoch: permutations[epoch] if epoch in permutations else self.permutation(epoch)
                for epoch in epochs
            }
            size = self.size_of(step) if self.size_of else None
            yield [
                Key(place // self.images, int(permutations[place // self.images][place % self.images]), size)
                for place in places
            ]
            step += 1

    def permutation(self, epoch: int) -> np.ndarray:
        """(N,) the order of an epoch."""
        return np.random.default_rng((self.seed, epoch)).permutation(self.images)
