"""The order of training samples: complete epochs, endless, resumable, shared by processes; input sizes."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest

from detectors.data.sampling import MultiScale, ResumableSampler


def test_other_numbers_of_processes_go_on_from_the_images_seen():
    """2 processes, then 1, then 3, with batches of other sizes: every image of the order once."""

    def images(steps: int, batch_size: int, world_size: int, seen: int) -> list[tuple[int, int]]:
        ranks = [
            iter(
                ResumableSampler(
                    images=10,
                    batch_size=batch_size,
                    seed=3,
                    start_step=5,
                    start_image=seen,
                    steps=5 + steps,
                    rank=rank,
                    world_size=world_size,
                )
            )
            for rank in range(world_size)
        ]
        return [(key.epoch, key.index) for _ in range(steps) for rank in ranks for key in next(rank)]

    seen: list[tuple[int, int]] = []
    for steps, batch_size, world_size in ((3, 2, 2), (4, 3, 1), (2, 1, 3)):
        seen += images(steps, batch_size, world_size, len(seen))
    order = ResumableSampler(images=10, batch_size=1, seed=3, steps=len(seen))
    assert seen == [(key.epoch, key.index) for (key,) in order]


def test_multi_scale_is_darknets_rule():
    """yolov2-voc.cfg, random=1: rand() % 10 + 10 times 32 every 10 iterations, 608 in the last 200."""
    scales = MultiScale(range(320, 609, 32), every=10, final_steps=200, steps=80200, seed=0)
    sides = np.array([scales(step)[0] for step in range(0, 80000, 10)])
    values, counts = np.unique(sides, return_counts=True)
    assert values.tolist() == [320, 352, 384, 416, 448, 480, 512, 544, 576, 608]
    assert ((counts - 800) ** 2 / 800).sum() < 27.9  # chi-square with 9 degrees of freedom, p = .001
    assert abs(np.corrcoef(sides[:-1], sides[1:])[0, 1]) < 0.04  # no memory from block to block
    assert all(scales(step) == scales(step // 10 * 10) for step in range(500))
    assert {scales(step) for step in range(80000, 80200)} == {(608, 608)}
    assert scales(79999) == scales(79990) != (608, 608)
    first_sides = [scales(10 * k)[0] for k in range(6)]
    assert first_sides == [576, 512, 512, 576, 352, 320]  # so that old runs can be reproduced
    other = MultiScale(range(320, 609, 32), every=10, final_steps=200, steps=80200, seed=1)
    assert [other(10 * k) for k in range(20)] != [scales(10 * k) for k in range(20)]


def test_an_epoch_contains_each_image_once():
    sampler = ResumableSampler(images=10, batch_size=4, seed=1, steps=10)
    keys = [key for batch in sampler for key in batch]
    assert [key.epoch for key in keys] == [0] * 10 + [1] * 10 + [2] * 10 + [3] * 10
    orders = [tuple(key.index for key in keys if key.epoch == epoch) for epoch in range(4)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len(set(orders)) == 4


def test_the_sampler_is_endless_and_resumable():
    endless = iter(ResumableSampler(images=3, batch_size=8, seed=1))  # fewer images than batch_size
    batches = [next(endless) for _ in range(50)]
    assert all(len(batch) == 8 for batch in batches)
    for start in (1, 17, 49):
        resumed = ResumableSampler(images=3, batch_size=8, seed=1, start_step=start)
        assert next(iter(resumed)) == batches[start]
    assert list(ResumableSampler(images=3, batch_size=8, seed=1, start_step=5, steps=5)) == []
    with pytest.raises(ValueError, match="0 images in batches of 8"):
        ResumableSampler(images=0, batch_size=8, seed=1)


@pytest.mark.parametrize(("world_size", "batch_size"), [(2, 4), (4, 2), (8, 1)])
def test_processes_together_see_what_one_sees(world_size, batch_size):
    """The ranks' shares of a step, in order, equal the step of one process, sizes included; also resumed."""

    def sampler(start: int, batch_size: int, rank: int = 0, world_size: int = 1) -> ResumableSampler:
        return ResumableSampler(
            images=11,
            batch_size=batch_size,
            seed=5,
            start_step=start,
            steps=9,
            size_of=lambda step: (32 * (step % 3 + 1),) * 2,
            rank=rank,
            world_size=world_size,
        )

    for start in (0, 3):
        ranks = [sampler(start, batch_size, rank, world_size) for rank in range(world_size)]
        assert [list(chain(*shares)) for shares in zip(*ranks, strict=True)] == list(sampler(start, 8))
        assert all(len(rank) == 9 - start for rank in ranks)
    with pytest.raises(ValueError, match=r"rank=2: processes are numbered 0 to world_size - 1 = 1"):
        ResumableSampler(batch_size=8, images=11, seed=0, rank=2, world_size=2)
