"""The tracker: what it refuses, and backends that fail."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.training.tracking import Backend, Tracker


class Recorder(Backend):
    """Remembers its calls; fails while `broken`."""

    name = "recorder"

    def __init__(self):
        self.calls = []
        self.broken = False

    def scalars(self, values, step):
        if self.broken:
            raise ConnectionError("no network")
        self.calls.append((values, step))

    def images(self, tag, images, step):
        self.calls.append((tag, step))


@pytest.mark.parametrize(
    "tag",
    ["train/los/total", "AP50", "val_class//AP50", "val_class/cat", "train/loss/total2", "xtrain/rate", ""],
)
def test_unknown_tags_are_refused_before_anything_is_written(tag):
    tracker = Tracker([recorder := Recorder()])
    with pytest.raises(ValueError, match=r"is not in the table of tags in detectors/training/tags\.py"):
        tracker.scalars({"train/rate": 1.0, tag: 1.0}, 0)
    with pytest.raises(ValueError, match="is not in the table of tags"):
        tracker.text(tag, "text")
    with pytest.raises(ValueError, match="is not in the table of tags"):
        tracker.images("probe", [np.zeros((2, 2, 3), np.uint8)], 0)
    with pytest.raises(ValueError, match="is not in the table of tags"):
        tracker.hparams({}, [tag])
    assert recorder.calls == []


def test_all_backends_get_what_is_recorded():
    first, second = Recorder(), Recorder()
    Tracker([first, second]).scalars({"train/rate": np.float32(0.5)}, 3)
    assert first.calls == second.calls == [({"train/rate": 0.5}, 3)]
    assert type(first.calls[0][0]["train/rate"]) is float


def test_a_backend_that_fails_is_named_once_and_tried_again(caplog):
    broken, healthy = Recorder(), Recorder()
    broken.broken = True
    tracker = Tracker([broken, healthy])
    for step in (1, 2):
        tracker.scalars({"train/rate": 0.5}, step)
    broken.broken = False
    tracker.scalars({"train/rate": 0.5}, 3)
    assert [step for _, step in healthy.calls] == [1, 2, 3]
    assert [step for _, step in broken.calls] == [3]
    assert caplog.messages == [
        "recorder could not write (ConnectionError: no network); the run goes on and tries again at each "
        "point, but logs no further failures"
    ]


def test_ctrl_c_is_no_failure_of_a_backend(monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Recorder, "scalars", stop)
    with pytest.raises(KeyboardInterrupt):
        Tracker([Recorder()]).scalars({"train/rate": 0.5}, 1)
