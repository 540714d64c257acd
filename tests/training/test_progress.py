"""What the loop keeps an eye on: means on the host only when asked, the first bad step named, time without
pauses.
"""

from __future__ import annotations

from time import sleep

import pytest
import torch

from detectors.structures import Batch, ImageInfo
from detectors.training.progress import Clock, Progress, Recent, StopRequests
from tests import oracles


def batch_of(path: str) -> Batch:
    nothing = oracles.pad_targets([[]])
    return Batch(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), nothing, [ImageInfo(0, path, path, (8, 8))])


def terms(box: float, class_: float) -> dict[str, torch.Tensor]:
    return {"box": torch.tensor(box), "class": torch.tensor(class_)}


def test_means_are_over_the_steps_since_the_last_call():
    recent = Recent()
    recent.add(terms(1.0, 2.0), 1, batch_of("a"))
    recent.add(terms(3.0, 6.0), 2, batch_of("b"))
    assert recent.means(recent.stacked()) == {"total": 6.0, "box": 2.0, "class": 4.0}
    recent.add(terms(5.0, 1.0), 3, batch_of("c"))
    assert recent.means(recent.stacked())["total"] == 6.0


def test_the_first_step_that_went_wrong_is_named():
    recent = Recent()
    recent.check(recent.stacked())
    recent.add(terms(1.0, 2.0), 7, batch_of("good.jpg"))
    recent.add(terms(float("inf"), 2.0), 8, batch_of("bad.jpg"))
    recent.add(terms(float("nan"), 2.0), 9, batch_of("late.jpg"))
    with pytest.raises(FloatingPointError, match=r"step 8: .*box=inf, class=2\).*\n  bad.jpg$"):
        recent.check(recent.stacked())


def test_a_pause_costs_no_training_time():
    progress = Progress()
    clock = Clock(progress)
    batches = iter([batch_of("a")])
    (batch,) = clock.wait_for(batches, 1, StopRequests())
    assert batch.infos[0].path == "a"
    progress.images_seen = 8
    clock.pause()
    before = progress.train_seconds
    sleep(0.05)
    clock.resume()
    rates = clock.rates()
    assert progress.train_seconds - before < 0.05
    assert rates["images_per_second"] == pytest.approx(8 / progress.train_seconds)
    assert 0 <= rates["data_wait"] <= 1
    assert clock.rates()["images_per_second"] == 0
