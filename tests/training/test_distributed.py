"""Two processes against one: losses, weights and AP, files, and what happens when one of them fails."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_equal
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.ranks import in_ranks
from tests.training import rank_tasks


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


def curve(folder, tag: str) -> list[tuple[int, float]]:
    """The points of a curve; the folder has one event file."""
    (file,) = folder.glob("events.*")
    events = EventAccumulator(str(file))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("ssd", ()),
        ("ssd", ("trainer.accumulate=2", "trainer.steps=3")),
        ("yolov2", ("loss=region_keras", "model.class_activation=softmax")),
    ],
)
def test_two_processes_learn_what_one_does_with_the_same_batch(place, model, settings):
    """Losses within 1e-4, weights within the rounding of some steps; BatchNorm's statistics are fixed."""
    name = f"{model}{len(settings)}"
    (one,) = in_ranks(
        rank_tasks.train, place, f"{name}_one", model, "trainer.batch_size=6", *settings, world_size=1
    )
    two, other = in_ranks(rank_tasks.train, place, f"{name}_two", model, "trainer.batch_size=3", *settings)
    losses = [np.array(curve(place / f"{name}_{run}", "train/loss/total")) for run in ("one", "two")]
    assert_allclose(losses[1], losses[0], rtol=1e-4)
    assert_equal(other["state"], two["state"])
    for key, tensor in one["state"].items():
        assert_allclose(two["state"][key], tensor, rtol=1e-2, atol=1e-4, err_msg=key)
    for key in ("step", "images_seen"):
        assert two["progress"][key] == other["progress"][key] == one["progress"][key]
    assert two["report"] == other["report"]
