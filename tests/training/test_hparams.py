"""The row of a run in a table of runs."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir

from detectors.config.check import check
from detectors.config.schema import CONF, Config
from detectors.training.hparams import row_metrics, varied_settings
from detectors.training.tags import check_tag


def configured(*overrides: str) -> Config:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return check(compose("train", [*overrides, "paths.shared=unused"]))


def settings(*overrides: str) -> dict:
    return varied_settings(configured(*overrides))


def test_short_names_of_what_people_vary():
    assert settings("model=ssd160", "seed=3", "trainer.accumulate=2", "loss.box_scale=2") == {
        "model": "ssd160",
        "data": "shapes",
        "seed": 3,
        "rate": 0.004,
        "batch": 16,
        "steps": 1000,
        "width": 0.25,
        "loss": "MultiBoxLoss, box_scale=2",
        "augment": "light_augmentation",
        "optimizer": "adamw",
        "weight_decay": 0.02,
        "schedule": "cosine",
        "warmup": 100,
        "input": "160x160",
        "precision": "float32",
        "clip": 20.0,
        "ema": "none",
        "freeze": "none",
    }


def test_a_step_has_the_images_of_all_processes():
    assert varied_settings(configured("trainer.batch_size=4"), world_size=2)["batch"] == 8


@pytest.mark.parametrize("model", ["yolov2", "yolov2_160", "ssd300"])
def test_every_run_has_the_same_columns(model):
    """TensorBoard takes the columns of one run for all of them."""
    row = settings(f"model={model}", "trainer.clip_grad_norm=null")
    assert list(row) == list(settings())
    assert row["clip"] == "none"
    assert all(type(value) in (int, float, str) for value in row.values())
    assert not any("/" in str(value) or "detectors." in str(value) for value in row.values())


def test_final_and_best_numbers_have_tags():
    tags = row_metrics(("AP", "AP50_voc07"))
    assert tags == ["val/AP", "best/AP", "val/AP50_voc07", "best/AP50_voc07", "train/loss/total"]
    for tag in tags:
        check_tag(tag)
