"""Which samples form a batch: an endless, resumable order, shared by several processes; multi-scale sizes;
several sets of images in a stated ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

SizeOf = Callable[[int], tuple[int, int]]


class Key(NamedTuple):
    """Identifies a sample."""

    epoch: int  # of a set that is one of several: its own passes, see SourceMix
    index: int  # type: ignore[assignment] # row of the Annotations; a tuple has index()
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
        return self.sides[int(np.random.default_rng(entropy).integers(len(self.sides)))]


@dataclass(frozen=True)
class SourceMix:
    """Several sets of images, one after another in the Annotations, drawn in the ratio of their weights.

    An epoch has as many places as there are images, and the sets share them by weight: each set has the same
    number of places in every epoch, and their order is drawn from (seed, epoch). All images of a set come
    before one of them comes again, whatever its share is. The epoch of a Key is the pass of its set, so that
    no two samples of a run have the same Key.
    """

    names: tuple[str, ...]  # (S)
    sizes: tuple[int, ...]  # (S) images
    weights: tuple[float, ...]  # (S) only their ratio counts

    def counts(self) -> np.ndarray:
        """(S,) int64: places of each set in an epoch, by largest remainder. ValueError for a set without."""
        total = sum(self.sizes)
        exact = total * np.array(self.weights, np.float64) / sum(self.weights)
        counts = np.floor(exact).astype(np.int64)
        order = np.argsort(counts - exact, kind="stable")
        counts[order[: total - counts.sum()]] += 1
        for name, weight, count in zip(self.names, self.weights, counts, strict=True):
            if not count:
                raise ValueError(
                    f"data.mix.{name}.weight={weight:g}: its share of the {total} images is less than one; "
                    "give it more weight, or leave it out of data.train"
                )
        return counts

    def order(self, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(N,) pass and (N,) row of each place of an epoch."""
        counts = self.counts()
        sources = np.random.default_rng((seed, epoch)).permutation(np.repeat(np.arange(len(counts)), counts))
        passes = np.empty(len(sources), np.int64)
        rows = np.empty(len(sources), np.int64)
        first = 0
        for source, (size, count) in enumerate(zip(self.sizes, counts.tolist(), strict=True)):
            places = np.flatnonzero(sources == source)
            turns, positions = np.divmod(epoch * count + np.arange(count), max(size, 1))
            passes[places] = turns
            for turn in np.unique(turns).tolist():
                entropy = np.random.SeedSequence((seed, turn), spawn_key=(source,))
                rows[places[turns == turn]] = (
                    first + np.random.default_rng(entropy).permutation(size)[positions[turns == turn]]
                )
            first += size
        return passes, rows

    def like(self, row: int) -> tuple[int, int]:
        """The first row of the set that has this row, and the row behind its last."""
        ends = np.cumsum(self.sizes)
        source = int(np.searchsorted(ends, row, side="right"))
        return int(ends[source]) - self.sizes[source], int(ends[source])


class ResumableSampler(Sampler):
    """Batches of Key: one permutation per epoch, without a gap between epochs, so that all batches are full.

    A batch may reach into the next epoch, and spans several if there are fewer images than batch_size.
    start_step: the number of the first batch. start_image: the images that all processes used before it;
    None: start_step * batch_size * world_size. It differs if an interrupted run had other batches.
    steps: the number of the batch before which the run ends; None: never. size_of: number of a batch ->
    (height, width) of its images. mix: of the sets that the images are; None: they are one set.

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
        mix: SourceMix | None = None,
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
        self.mix = mix

    def __len__(self) -> int:
        if self.steps is None:
            raise TypeError("an endless sampler has no length")
        return max(0, self.steps - self.start_step)

    def __iter__(self) -> Iterator[list[Key]]:
        step = self.start_step
        # epoch -> its order, for the epochs of the current batch
        orders: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        while self.steps is None or step < self.steps:
            turn = (step - self.start_step) * self.world_size + self.rank
            first = self.start_image + turn * self.batch_size
            places = [divmod(place, self.images) for place in range(first, first + self.batch_size)]
            epochs = {epoch for epoch, _ in places}
            new = {epoch: self.order(epoch) for epoch in epochs - orders.keys()}
            orders = {epoch: order for epoch, order in (orders | new).items() if epoch in epochs}
            size = self.size_of(step) if self.size_of else None
            yield [
                Key(int(passes[place]), int(rows[place]), size)
                for (passes, rows), place in ((orders[epoch], place) for epoch, place in places)
            ]
            step += 1

    def order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(N,) epoch and (N,) row of the Key at each place of an epoch."""
        if self.mix is not None:
            return self.mix.order(self.seed, epoch)
        return np.broadcast_to(np.int64(epoch), self.images), self.permutation(epoch)

    def permutation(self, epoch: int) -> np.ndarray:
        """(N,) the order of the images in an epoch."""
        return np.random.default_rng((self.seed, epoch)).permutation(self.images)
