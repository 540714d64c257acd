"""Weights & Biases and MLflow, with stand-ins for their packages that remember their calls."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from detectors.commands import train as script
from detectors.training import checkpoint as ckpt
from detectors.training.online_trackers import MlflowLog, WandbLog
from detectors.training.tracking import Tracker
from tests.training.test_engine import cache, make_run, one_thread  # noqa: F401 - fixtures

IMAGE = np.zeros((4, 4, 3), np.uint8)


class Remembered:
    """Notes every call of its methods, and of theirs, as (name, arguments, keywords)."""

    def __init__(self, calls: list, name: str = "", **attributes):
        self.calls = calls
        self.called = name
        for key, value in attributes.items():
            setattr(self, key, value)

    def __getattr__(self, name: str):
        return Remembered(self.calls, f"{self.called}.{name}".lstrip("."))

    def __call__(self, *arguments, **keywords):
        self.calls.append((self.called, arguments, keywords))


@pytest.fixture
def wandb(monkeypatch):
    """Its calls; `init` gives a run."""
    calls = []

    def init(**keywords):
        calls.append(("init", (), keywords))
        return Remembered(calls, "run", id=keywords["id"] or "abc123", summary={})

    module = SimpleNamespace(init=init, Image=lambda image: image.shape)
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return calls


@pytest.fixture
def mlflow(monkeypatch):
    calls = []

    def start_run(**keywords):
        calls.append(("start_run", (), keywords))
        return SimpleNamespace(info=SimpleNamespace(run_id=keywords["run_id"] or "abc123"))

    monkeypatch.setitem(sys.modules, "mlflow", Remembered(calls, start_run=start_run))
    return calls


def record(tracker: Tracker) -> None:
    """One call of each kind."""
    tracker.hparams({"seed": 3}, ["val/AP"])
    tracker.scalars({"train/rate": 0.5}, 10)
    tracker.images("val/confusion", [IMAGE], 10)
    tracker.text("run/commit", "abc", 10)
    tracker.pr_curves({}, 10)
    tracker.flush()
    tracker.close(finished=True)


def test_what_weights_and_biases_gets(wandb, tmp_path):
    record(Tracker([WandbLog(tmp_path, title="yolov2 A")]))
    start = {"project": "detectors", "name": "yolov2 A", "id": None, "resume": "allow", "dir": str(tmp_path)}
    assert wandb == [
        ("init", (), start),
        ("run.define_metric", ("step",), {}),
        ("run.define_metric", ("*",), {"step_metric": "step"}),
        ("run.config.update", ({"seed": 3},), {"allow_val_change": True}),
        ("run.log", ({"step": 10, "train/rate": 0.5},), {}),
        ("run.log", ({"step": 10, "val/confusion/0": IMAGE.shape},), {}),
        ("run.finish", (), {"exit_code": 0}),
    ]


def test_the_project_of_the_environment(wandb, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    WandbLog(tmp_path, title="A").close(False)
    assert wandb[0][2]["project"] == "mine"
    assert wandb[-1] == ("run.finish", (), {"exit_code": 1})


def test_what_mlflow_gets(mlflow, tmp_path):
    record(Tracker([MlflowLog(tmp_path, title="yolov2 A")]))
    calls = {name: (arguments, keywords) for name, arguments, keywords in mlflow}
    assert calls.pop("log_image")[1] == {"key": "val/confusion/0", "step": 10, "synchronous": False}
    assert calls == {
        "start_run": ((), {"run_id": None, "run_name": "yolov2 A"}),
        "log_params": (({"seed": 3},), {}),
        "log_metrics": (({"train/rate": 0.5},), {"step": 10, "synchronous": False}),
        "log_text": (("abc", "run/commit_10.txt"), {}),
        "end_run": (("FINISHED",), {}),
    }


def test_mlflow_does_not_take_every_name(mlflow, tmp_path):
    MlflowLog(tmp_path, title="A").scalars({"val_class/café, <big>/AP50": 0.5}, 1)
    assert mlflow[-1][1] == ({"val_class/caf__ _big_/AP50": 0.5},)


def test_a_resume_goes_on_with_the_same_run(wandb, mlflow, tmp_path):
    for _ in range(2):
        for kind in (WandbLog, MlflowLog):
            tracker = Tracker([kind(tmp_path, title="A")])
            tracker.hparams({"seed": 3}, [])
            tracker.close()
    assert [keywords["id"] for name, _, keywords in wandb if name == "init"] == [None, "abc123"]
    assert [keywords for name, _, keywords in mlflow if name == "start_run"] == [
        {"run_id": None, "run_name": "A"},
        {"run_id": "abc123", "run_name": None},
    ]
    assert sum(name == "log_params" for name, _, _ in mlflow) == 1  # it refuses to change them
    assert mlflow[-1] == ("end_run", ("KILLED",), {})


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_says_what_to_install(name, cache, tmp_path, monkeypatch, caplog):  # noqa: F811
    """A new run is refused before it has written anything; a resume goes on without."""
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError) as error:
        make_run(tmp_path / "new", cache, f"trainer.trackers=[csv,{name}]")
    problem = (
        f"trainer.trackers names {name}, but its package cannot be imported (import of {name} halted; "
        f"None in sys.modules); install it: pip install 'detectors[{name}]', or: pip install {name}"
    )
    assert str(error.value) == problem
    assert list((tmp_path / "new").iterdir()) == []
    first = make_run(tmp_path / "first", cache, "trainer.steps=3")
    script.train_run(first.config, tmp_path / "first", None)
    stored = ckpt.load_checkpoint(tmp_path / "first/last.pt")
    config = script.resumed_config(stored, [f"trainer.trackers=[csv,{name}]", "trainer.steps=4"])
    assert script.train_run(config, tmp_path / "first", stored) is not None
    assert f"{name} could not start ({problem}); the run goes on without it" in caplog.messages


def test_a_service_that_cannot_be_reached_refuses_a_new_run(mlflow, cache, tmp_path, monkeypatch):  # noqa: F811
    def start_run(**_):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(sys.modules["mlflow"], "start_run", start_run)
    with pytest.raises(ValueError) as error:
        make_run(tmp_path / "new", cache, "trainer.trackers=[mlflow]")
    assert str(error.value) == (
        "trainer.trackers names mlflow, which could not start (ConnectionError: no route to host); see its "
        "documentation, or leave mlflow out"
    )


def test_a_whole_run_in_all_places(wandb, mlflow, cache, tmp_path):  # noqa: F811
    run = make_run(tmp_path, cache, "trainer.trackers=[wandb,csv,mlflow,tensorboard]", "trainer.steps=3")
    script.train_run(run.config, tmp_path, None)
    logged = [arguments[0] for name, arguments, _ in wandb if name == "run.log"]
    assert any("train/loss/total" in point for point in logged) and any("val/AP" in point for point in logged)
    assert sum(name == "log_metrics" for name, _, _ in mlflow) == 2
    assert wandb[-1] == ("run.finish", (), {"exit_code": 0}) and mlflow[-1][1] == ("FINISHED",)
    assert {"metrics.csv", "wandb_run.txt", "mlflow_run.txt"} <= {path.name for path in tmp_path.iterdir()}
