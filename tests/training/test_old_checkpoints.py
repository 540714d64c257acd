"""Checkpoints and configurations that were stored before modules moved still load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detectors.commands import train as script
from detectors.config.build import MOVED, find_target, signature_problems
from detectors.config.check import GIVEN
from detectors.training import assemble, engine
from detectors.training import checkpoint as ckpt
from detectors.training.run import Run
from detectors.training.saving import save_run
from tests.darknet import cfgs
from tests.training.test_engine import cache, make_run, one_thread  # noqa: F401 - fixtures

GROUPS = {  # the group that a moved builder belongs to, by its new module
    "detectors.training.optim": "optimizer",
    "detectors.data.augment.transforms": "augment",
    "detectors.losses.region_loss": "loss",
    "detectors.losses.multibox_loss": "loss",
    "detectors.darknet.cfg_detector": "model",
}
REQUIRED = {
    "optimizer": {"rate": 0.1},
    "model": {"cfg": ""},
    "augment": {},
    "loss": {},
}  # keywords without a default
AUGMENTATIONS = {  # old name -> what must hold for input.resize
    "detectors.data.transforms.none": "letterbox",
    "detectors.data.transforms.light": "letterbox",
    "detectors.data.transforms.ssd": "stretch",
    "detectors.data.transforms.darknet": "letterbox",
    "detectors.data.transforms.darknet_2016": "stretch",
    "detectors.data.transforms.course": "letterbox",
}
OPTIMIZERS = ("detectors.optim.sgd", "detectors.optim.adamw")
LOSSES = ("detectors.losses.RegionLoss", "detectors.losses.MultiBoxLoss")
DARKNET = "detectors.darknet_detector.darknet_detector"


def stored_before_the_move(run: Run, **targets: str) -> ckpt.Checkpoint:
    """Saves a run's state under the old `_target_` of each group in `targets`, and reads it back."""
    save_run(run, ckpt.LAST)
    path = run.folder / ckpt.LAST
    stored = ckpt.load_checkpoint(path)
    config = dict(stored.config)
    for group, target in targets.items():
        config[group] = config[group] | {"_target_": target}
    ckpt.save_checkpoint(replace(stored, config=config))
    return ckpt.load_checkpoint(path)


def resume_one_step(stored: ckpt.Checkpoint, folder: Path) -> Run:
    """Goes on with a checkpoint until one more step is done."""
    config = script.resumed_config(stored, [f"trainer.steps={stored.step + 1}"])
    run = script.build_run(config, folder, stored)
    engine.train(run)
    return run


@pytest.mark.parametrize("old", MOVED)
def test_every_moved_builder_exists_and_fits_its_group(old):
    new = MOVED[old]
    group = GROUPS[new.rpartition(".")[0]]
    assert callable(find_target(new, group))
    node = {"_target_": new, **REQUIRED[group]}
    assert list(signature_problems(node, group, GIVEN[group])) == []


def test_every_old_name_is_loaded_by_a_test_below():
    assert {*AUGMENTATIONS, *OPTIMIZERS, *LOSSES, DARKNET} == MOVED.keys()


@pytest.mark.parametrize(
    ("augmentation", "resize", "optimizer", "loss"),
    [
        (name, resize, OPTIMIZERS[i % 2], LOSSES[i % 2])
        for i, (name, resize) in enumerate(AUGMENTATIONS.items())
    ],
)
def test_a_checkpoint_from_before_the_move_is_loaded_and_resumed(
    augmentation,
    resize,
    optimizer,
    loss,
    cache,  # noqa: F811
    tmp_path,
):
    """Its configuration has the old names, and no model.class_activation."""
    run = make_run(
        tmp_path,
        cache,
        *(["model=ssd160", "loss=multibox", "input.size=[160,160]"] if loss == LOSSES[1] else []),
        f"optimizer={optimizer.rpartition('.')[2]}",
        f"augment={augmentation.rpartition('.')[2]}",
        f"input.resize={resize}",
        "trainer.steps=1",
        "optimizer.rate=0.001",
        "schedule.warmup_steps=0",
    )
    engine.train(run)
    old = stored_before_the_move(run, optimizer=optimizer, augment=augmentation, loss=loss)
    old.config["model"].pop("class_activation", None)

    detector, config = assemble.load_detector(old, torch.device("cpu"))
    assert config == run.config
    assert all(tensor.equal(old.model[name]) for name, tensor in detector.state_dict().items())
    resumed = resume_one_step(old, tmp_path)
    assert resumed.progress.step == 2
    assert type(resumed.optimizer) is type(run.optimizer)


def test_the_images_seen_of_an_old_loss_are_restored(cache, tmp_path):  # noqa: F811
    """They were in the loss's state; today they are in `progress`."""
    run = make_run(tmp_path, cache, "trainer.steps=1", "schedule.warmup_steps=0")
    engine.train(run)
    stored = ckpt.load_checkpoint(tmp_path / ckpt.LAST)
    progress = {name: value for name, value in stored.progress.items() if name != "images_seen"}
    model = stored.model | {"loss.images_seen": torch.tensor(1000)}
    ckpt.save_checkpoint(replace(stored, model=model, progress=progress))
    old = ckpt.load_checkpoint(tmp_path / ckpt.LAST)
    assert old.model.keys() == stored.model.keys()
    resumed = resume_one_step(old, tmp_path)
    assert resumed.task.module.loss.images_seen == resumed.progress.images_seen == 1004


def test_a_detector_of_a_cfg_from_before_the_move_is_loaded_and_resumed(cache, tmp_path):  # noqa: F811
    run = make_run(tmp_path, cache, "trainer.steps=1", "schedule.warmup_steps=0", "optimizer.rate=0.001")
    classes = len(run.task.class_names)
    text = cfgs.yolov2(0.05, classes)
    model = {"_target_": MOVED[DARKNET], "cfg": text}
    run = script.build_run(replace(run.config, model=model), tmp_path, None)
    engine.train(run)
    old = stored_before_the_move(run, model=DARKNET)
    assert old.config["model"]["_target_"] == DARKNET
    detector, config = assemble.load_detector(old, torch.device("cpu"))
    assert config.model == model
    assert all(tensor.equal(old.model[name]) for name, tensor in detector.state_dict().items())
    assert resume_one_step(old, tmp_path).progress.step == 2


def test_a_run_with_generated_images_in_another_root_is_loaded_and_resumed(cache, tmp_path):  # noqa: F811
    """data.root could be set for data=shapes; the same images are drawn again in paths.cache."""
    run = make_run(tmp_path, cache, "trainer.steps=1", "schedule.warmup_steps=0")
    engine.train(run)
    stored = ckpt.load_checkpoint(tmp_path / ckpt.LAST)
    changed = {
        "data": stored.config["data"] | {"root": str(tmp_path / "elsewhere")},
        "trainer": stored.config["trainer"] | {"clip_grad_norm": 0.0},  # did not clip; null says so today
    }
    ckpt.save_checkpoint(replace(stored, config=stored.config | changed))
    old = ckpt.load_checkpoint(tmp_path / ckpt.LAST)
    _, config = assemble.load_detector(old, torch.device("cpu"))
    assert (config.data.root, config.trainer.clip_grad_norm) == (str(cache), None)
    assert resume_one_step(old, tmp_path).progress.step == 2
    assert not (tmp_path / "elsewhere").exists()
