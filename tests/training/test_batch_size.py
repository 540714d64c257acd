"""trainer.find_batch_size: the search on memories that are known, the images of a step, the trial itself."""

from __future__ import annotations

import pytest
import torch

from detectors.commands import train as script
from detectors.config.check import check
from detectors.config.schema import to_plain
from detectors.training import batch_size
from detectors.training import checkpoint as ckpt
from detectors.training.batch_size import MemoryTrial, divided, largest_batch, with_found_batch
from detectors.training.distributed import ALONE, Processes
from detectors.training.resuming import continued_config
from detectors.training.trial import TrialTraining
from tests.training.test_engine import cache, make_run, one_thread  # noqa: F401 - fixtures


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 33])
def test_the_search_equals_a_loop(limit):
    for memory in range(limit + 3):
        tried = []

        def fits(images: int, memory=memory, tried=tried) -> bool:
            tried.append(images)
            return images <= memory

        assert largest_batch(fits, limit) == min(memory, limit)
        assert len(tried) == len(set(tried)) and max(tried) <= limit
        assert len(tried) <= 2 * limit.bit_length() + 1


@pytest.mark.parametrize(
    ("images", "largest", "expected"),
    [(64, 64, (64, 1)), (64, 40, (32, 2)), (24, 7, (6, 4)), (7, 6, (1, 7)), (8, 100, (8, 1))],
)
def test_the_images_of_a_step_stay(images, largest, expected):
    assert divided(images, largest) == expected


@pytest.mark.parametrize(
    ("device", "processes"), [("cpu", ALONE), ("cpu", Processes(rank=0, world_size=2, local_rank=0))]
)
def test_it_is_for_one_process_on_a_gpu(device, processes, cache, tmp_path):  # noqa: F811
    run = make_run(tmp_path, cache)
    run.config.trainer.device = device
    run.config.trainer.find_batch_size = True
    with pytest.raises(ValueError, match=r"^trainer\.find_batch_size=true: it is for one process on a GPU"):
        with_found_batch(run.config, run.task.val_annotations, processes)


@pytest.mark.parametrize("model", ["yolov2_160", "ssd160"])
def test_a_step_that_runs_out_of_memory_does_not_fit(model, cache, tmp_path, monkeypatch):  # noqa: F811
    """A GPU with room for five images: steps of eight images become two batches of four."""
    overrides = ("trainer.batch_size=8", "trainer.ema_decay=0.9", "trainer.on_nonfinite=skip")
    run = make_run(tmp_path, cache, *overrides, model=model)
    annotations = run.train_loader.dataset.annotations
    trial = MemoryTrial(run.config, annotations, torch.device("cpu"))
    assert trial.boxes == max(
        len(annotations.labels[annotations.rows(image)]) for image in range(len(annotations))
    )
    original = TrialTraining.step

    def step(training, batches, rate):
        if len(batches[0].images) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(training, batches, rate)

    monkeypatch.setattr(TrialTraining, "step", step)
    assert [trial(images) for images in (1, 5, 6)] == [True, True, False]
    monkeypatch.setattr(batch_size.assemble, "choose_device", lambda name, processes: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *arguments: None)
    monkeypatch.setattr(batch_size, "MemoryTrial", lambda *arguments: trial)
    run.config.trainer.find_batch_size = True
    found = with_found_batch(run.config, annotations, ALONE).trainer
    assert (found.batch_size, found.accumulate, found.find_batch_size) == (4, 2, False)
    monkeypatch.setattr(batch_size, "MemoryTrial", lambda *arguments: lambda images: False)
    with pytest.raises(ValueError, match="not even one image fits into cuda's memory; try a smaller input"):
        with_found_batch(run.config, annotations, ALONE)


def test_a_restart_keeps_what_was_found(cache, tmp_path):  # noqa: F811
    run = make_run(tmp_path, cache, "trainer.batch_size=2", "trainer.accumulate=2", "trainer.steps=2")
    script.engine.train(run)
    stored = ckpt.load_checkpoint(tmp_path / ckpt.LAST)
    asked = check(to_plain(run.config))
    asked.trainer.batch_size, asked.trainer.accumulate, asked.trainer.find_batch_size = 4, 1, True
    trainer = continued_config(stored, asked).trainer
    assert (trainer.batch_size, trainer.accumulate, trainer.find_batch_size) == (2, 2, False)


@pytest.mark.gpu
def test_a_step_of_the_found_size_fits(cache, tmp_path):  # noqa: F811
    run = make_run(tmp_path, cache, "trainer.device=cuda", "trainer.batch_size=64")
    run.config.trainer.find_batch_size = True
    annotations = run.train_loader.dataset.annotations
    trainer = with_found_batch(run.config, annotations, ALONE).trainer
    assert trainer.batch_size * trainer.accumulate == 64
    assert MemoryTrial(run.config, annotations, torch.device("cuda"))(trainer.batch_size)
