"""Checkpoints and configurations that were stored before modules moved still load."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from detectors.commands import train as script
from detectors.config.build import MOVED, find_target, signature_problems
from detectors.config.check import GIVEN
from detectors.training import assemble, engine
from detectors.training import checkpoint as ckpt
from tests.training.test_engine import cache, make_run, one_thread  # noqa: F401 - fixtures

GROUPS = {  # the group that a moved builder belongs to, by its new module
    "detectors.training.optim": "optimizer",
    "detectors.data.augment.transforms": "augment",
    "detectors.darknet.cfg_detector": "model",
}
REQUIRED = {"optimizer": {"rate": 0.1}, "model": {"cfg": ""}, "augment": {}}


@pytest.mark.parametrize("old", MOVED)
def test_every_moved_builder_is_there_and_fits_its_group(old):
    new = MOVED[old]
    assert callable(find_target(new))
    group = GROUPS[new.rpartition(".")[0]]
    node = {"_target_": new, **REQUIRED[group]}
    assert list(signature_problems(node, group, GIVEN[group])) == []


AUGMENTATIONS = [old for old in MOVED if ".transforms." in old]


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_checkpoint_of_before_the_move_is_loaded_and_resumed(optimizer, augmentation, cache, tmp_path):  # noqa: F811
    """Its configuration names the old places, and its weights hold the loss's count of images."""
    resize = "stretch" if augmentation.endswith((".ssd", ".darknet_2016")) else "letterbox"
    name = augmentation.rpartition(".")[2]
    overrides = (f"optimizer={optimizer}", f"augment={name}", f"input.resize={resize}", "trainer.steps=1")
    run = make_run(tmp_path, cache, *overrides, "optimizer.rate=0.001", "schedule.warmup_steps=0")
    engine.train(run)
    path = tmp_path / ckpt.LAST
    stored = ckpt.load_checkpoint(path)
    config = dict(stored.config)
    config["optimizer"] = config["optimizer"] | {"_target_": f"detectors.optim.{optimizer}"}
    config["augment"] = config["augment"] | {"_target_": augmentation}
    del config["model"]["class_activation"]
    model = stored.model | {"loss.images_seen": torch.tensor(4)}
    ckpt.save_checkpoint(replace(stored, config=config, model=model))

    old = ckpt.load_checkpoint(path)
    detector, _ = assemble.load_detector(old, torch.device("cpu"))
    assert set(detector.state_dict()) == set(stored.model)
    resumed = script.build_run(script.resumed_config(old, ["trainer.steps=2"]), tmp_path, old)
    assert resumed.task.module.loss.images_seen == 4
    engine.train(resumed)
    assert resumed.progress.step == 2
