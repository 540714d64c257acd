"""The trainer: it learns, resumes bit for bit, stops cleanly, never waits for the device in a step, and says
what went wrong.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from copy import deepcopy
from functools import lru_cache
from itertools import count
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.testing import assert_close

from detectors.commands import train as script
from detectors.config.check import check
from detectors.config.schema import CONF, Config
from detectors.data.images import ImageError
from detectors.structures import Batch
from detectors.training import assemble, engine
from detectors.training import checkpoint as ckpt
from detectors.training.detection import DetectionTask
from detectors.training.run import Run

SMALL = [
    "trainer.steps=6",
    "trainer.batch_size=4",
    "trainer.log_every=3",
    "trainer.eval_every=3",
    "trainer.probe_images=2",
    "trainer.progress=false",
    "trainer.device=cpu",
    "schedule.warmup_steps=2",
    "data.shapes.train=10",
    "data.shapes.val=4",
    "data.shapes.size=96",
    "paths.shared=unused",
]


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("shapes")


@pytest.fixture(autouse=True)
def one_thread(caplog):
    caplog.set_level("INFO")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_run(
    folder, cache, *overrides: str, stored: ckpt.Checkpoint | None = None, model: str = "yolov2_160"
) -> Run:
    size = "[96,96]" if model == "yolov2_160" else "[160,160]"
    config = checked(f"model={model}", f"input.size={size}", f"paths.cache={cache}", *SMALL, *overrides)
    folder.mkdir(exist_ok=True)
    return script.build_run(deepcopy(config), folder, stored)


@lru_cache
def checked(*overrides: str) -> Config:
    """Composed once: this takes longer than some of the runs."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return check(compose("train", list(overrides)))


MULTI_SCALE = (
    "input.multi_scale={min: 64, max: 128, every: 2, final_steps: 1}",
    "trainer.accumulate=2",
    "trainer.batch_size=2",
)


@pytest.mark.parametrize(
    ("model", "overrides"), [("yolov2_160", ()), ("ssd160", ()), ("yolov2_160", MULTI_SCALE)]
)
def test_a_resumed_run_equals_an_uninterrupted_one(model, overrides, cache, tmp_path):
    """Bit for bit: weights, BatchNorm's statistics, images_seen, optimiser state; stopped within an epoch (3
    x 4 of 10 images).
    """
    whole = make_run(tmp_path / "whole", cache, *overrides, model=model)
    engine.train(whole)

    first = make_run(tmp_path / "parts", cache, *overrides, model=model)
    interrupt_after(first, 3 * first.config.trainer.accumulate)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 3"):
        engine.train(first)
    stored = ckpt.load_checkpoint(tmp_path / "parts" / ckpt.LAST)
    second = make_run(tmp_path / "parts", cache, *overrides, stored=stored, model=model)
    engine.train(second)

    assert_close(second.task.module.state_dict(), whole.task.module.state_dict(), rtol=0, atol=0)
    assert_close(
        second.optimizer.state_dict()["state"], whole.optimizer.state_dict()["state"], rtol=0, atol=0
    )
    assert second.progress.images_seen == whole.progress.images_seen == 24
    assert second.progress.best == whole.progress.best


def interrupt_after(run: Run, batch: int) -> None:
    """Sends this process a Ctrl-C in the forward pass of batch number `batch`."""
    original = run.task.step
    number = count(1)

    def step(loaded: Batch, exchange: bool = True) -> dict:
        if next(number) == batch:
            os.kill(os.getpid(), signal.SIGINT)
        return original(loaded, exchange)

    run.task.step = step


def test_all_batches_of_a_step_have_its_size(cache, tmp_path, monkeypatch):
    """Multi-scale training counts optimiser steps, not batches; the network sees every size, and evaluation
    its own.
    """
    sizes = []
    original = DetectionTask.step

    def step(task: DetectionTask, batch: Batch, exchange: bool) -> dict:
        sizes.append(tuple(batch.images.shape[2:]))
        return original(task, batch, exchange)

    monkeypatch.setattr(DetectionTask, "step", step)
    run = make_run(tmp_path, cache, *MULTI_SCALE)
    engine.train(run)
    scales = assemble.multi_scale(run.config)
    assert sizes == [scales(step) for step in range(6) for _ in range(2)]
    assert len(set(sizes)) > 1 and sizes[-1] == (128, 128)
    assert {key[:2] for key in run.task.module._grids} == {*sizes, (96, 96)}


def test_a_new_run_starts_from_other_weights(cache, tmp_path, caplog):
    """Its own step, optimiser and images_seen begin at nothing; a resume of it goes on with its own
    checkpoint.
    """
    engine.train(make_run(tmp_path / "before", cache))
    run = make_run(tmp_path / "after", cache, f"init.from={tmp_path / 'before'}", "seed=1", "trainer.steps=2")
    stored = ckpt.load_checkpoint(ckpt.find_checkpoint(tmp_path / "before"))
    assert f"weights of {stored.path}: " in caplog.text
    state = run.task.module.state_dict()
    assert all(state[name].equal(tensor) for name, tensor in stored.model.items())
    assert (run.progress.step, run.progress.images_seen, run.task.module.loss.images_seen) == (0, 0, 0)
    assert run.optimizer.state_dict()["state"] == {}
    engine.train(run)
    own = ckpt.load_checkpoint(tmp_path / "after" / ckpt.LAST)
    for file in (tmp_path / "before").glob("*.pt"):
        file.unlink()
    resumed = script.build_run(script.resumed_config(own, ["trainer.steps=3"]), tmp_path / "after", own)
    assert_close(resumed.task.module.state_dict(), own.model, rtol=0, atol=0)
    assert resumed.task.module.loss.images_seen == own.progress["images_seen"] == 8
    with pytest.raises(
        ValueError, match=r"init\.from=x: a resumed run goes on with the weights of .*last\.pt"
    ):
        script.resumed_config(own, ["init.from=x"])


def test_what_a_run_leaves_behind(cache, tmp_path):
    run = make_run(tmp_path, cache)
    result = engine.train(run)
    run.tracker.close()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["steps"] == 6
    assert summary["images_seen"] == 24
    assert summary["model"] == "yolov2_tiny"
    assert summary["validation"]["AP50_voc10"] == result.scalars["AP50_voc10"]
    detector, config = assemble.load_detector(
        ckpt.load_checkpoint(ckpt.find_checkpoint(tmp_path)), torch.device("cpu")
    )
    assert config == run.config
    assert not detector.training
    assert (tmp_path / "config.yaml").is_file()


def test_broken_images_do_not_end_a_run_that_skips_them(tmp_path, caplog):
    """Ten training images and four to validate on, of each one cut short: named, counted, replaced; all
    others are still there.
    """
    run = make_run(tmp_path / "run", tmp_path / "cache", "data.on_error=skip", "trainer.probe_images=4")
    broken = {
        split: loader.dataset.annotations.paths[1]
        for split, loader in (("train", run.train_loader), ("val", run.task.val_loader))
    }
    for path in broken.values():
        Path(path).write_bytes(Path(path).read_bytes()[:500])
    result = engine.train(run)
    run.tracker.close()
    assert result.images == 4 and run.progress.images_seen == 24
    assert [list(loader.problems) for loader in (run.train_loader, run.task.val_loader)] == [
        [broken["train"]],
        [broken["val"]],
    ]
    assert sum("cannot be decoded" in record.getMessage() for record in caplog.records) == 2
    curves = EventAccumulator(str(tmp_path / "run"))
    curves.Reload()
    assert [[(e.step, e.value) for e in curves.Scalars(f"{split}/broken_images")] for split in broken] == [
        [(3, 1), (6, 1)]
    ] * 2
    assert len([tag for tag in curves.Tags()["images"] if tag.startswith("probe/detections")]) == 3
    assert script.left_out(run) == "".join(
        f"{split} images left out, named above: 1 images that cannot be decoded\n"
        for split in ("training", "validation")
    )


def test_a_broken_image_stops_a_run_that_does_not_skip_it(cache, tmp_path):
    run = make_run(tmp_path / "run", tmp_path / "cache")
    path = Path(run.train_loader.dataset.annotations.paths[1])
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ImageError, match=f"^{path}: the image cannot be decoded"):
        engine.train(run)


def test_accumulation_equals_one_large_batch(cache, tmp_path, monkeypatch):
    """Two batches of 4 in a step give the gradient of their 8 images.

    BatchNorm sees 4 at a time, as in Darknet, so it is frozen here.
    """
    monkeypatch.setattr(
        torch.nn.BatchNorm2d, "train", lambda self, mode=True: torch.nn.Module.train(self, False)
    )
    gradients = []
    for name, batch_size, accumulate in (("large", 8, 1), ("parts", 4, 2)):
        overrides = (
            f"trainer.batch_size={batch_size}",
            f"trainer.accumulate={accumulate}",
            "trainer.steps=1",
            "schedule.warmup_steps=0",
        )
        run = make_run(
            tmp_path / name,
            cache,
            *overrides,
            "trainer.eval_every=0",
            "trainer.clip_grad_norm=null",
            "optimizer=sgd",
        )
        engine.train(run)
        gradients.append([p.grad for p in run.task.module.parameters()])
    assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-4)


def test_a_loss_that_is_not_finite_stops_the_run(cache, tmp_path):
    run = make_run(tmp_path, cache)
    with torch.no_grad():
        next(run.task.module.head.parameters())[0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"step 1: the loss is not finite \(box=nan.*\n.*JPEGImages"):
        engine.train(run)
    assert not (tmp_path / ckpt.LAST).exists()


def test_training_in_another_thread_works(cache, tmp_path):
    results = []
    run = make_run(tmp_path, cache, "trainer.steps=2")
    worker = threading.Thread(target=lambda: results.append(engine.train(run)))
    worker.start()
    worker.join()
    assert results[0].images == 4


def test_only_harmless_settings_may_change_on_resume(cache, tmp_path):
    run = make_run(tmp_path, cache, "trainer.steps=3")
    engine.train(run)
    stored = ckpt.load_checkpoint(tmp_path / ckpt.LAST)
    config = script.resumed_config(stored, [f"trainer.resume={tmp_path}", "trainer.steps=9"])
    assert config.trainer.steps == 9
    assert config.seed == run.config.seed
    with pytest.raises(ValueError, match=r"model=ssd160: a resumed run keeps"):
        script.resumed_config(stored, ["model=ssd160"])
    for change, stored_value, reason in (
        ("+paths.cache=/other", str(cache), "the places that follow from it are stored; set data.root"),
        ("paths.data=/other", run.config.paths.data, "the places that follow from it are stored"),
    ):
        change = change.lstrip("+")
        name = change.partition("=")[0]
        what = f"{change}: the run of {stored.path} has {name}={stored_value}, and a resume cannot change it"
        with pytest.raises(ValueError, match=re.escape(f"{what}: {reason}")):
            script.resumed_config(stored, [change])
    same = ["trainer.batch_size=2", f"paths.cache={cache}", "trainer.eval_batch_size=2", "data.cache=/other"]
    config = script.resumed_config(stored, same)
    assert (config.trainer.batch_size, config.trainer.eval_batch_size) == (2, 2)


def test_without_validation_images_a_run_ends_without_an_ap(tmp_path, cache):
    """As data=voc0712plus trains: nothing is left to measure on, and nothing is measured."""
    run = make_run(tmp_path / "run", cache, "data.val=[]")
    result = engine.train(run)
    assert result.images == 0
    assert set(result.scalars.values()) == {None}
    assert {path.name for path in run.folder.glob("*.pt")} == {"last.pt"}
    assert (
        ckpt.load_checkpoint(ckpt.find_checkpoint(str(run.folder), ckpt.BEST)).class_names
        == run.task.val_annotations.class_names
    )
    assert json.loads((run.folder / "summary.json").read_text())["validation"]["AP"] is None


def test_validation_images_that_are_trained_on_are_told(tmp_path, cache, caplog):
    make_run(tmp_path / "run", cache, "data.val=[train]")
    assert "10 validation images (10 of them are training images, too" in caplog.text
    make_run(tmp_path / "other", cache)
    assert "4 validation images\n" in caplog.text
