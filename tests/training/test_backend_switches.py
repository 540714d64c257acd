"""trainer.tf32 and trainer.deterministic: what they switch, for how long, and that runs repeat exactly."""

from __future__ import annotations

import os

import pytest
import torch

from detectors import load
from detectors.commands import train as script
from detectors.commands.evaluate import evaluate
from detectors.config.schema import EvaluateConfig, TrainerConfig
from detectors.training import checkpoint as ckpt
from detectors.training.detection import DetectionTask
from detectors.training.precision import backend_switches
from tests.training.test_engine import cache, make_run, one_thread  # noqa: F401 - fixtures
from tests.training.test_saving import assert_same_run


def switches() -> tuple:
    backends = torch.backends
    return (
        backends.cuda.matmul.allow_tf32,
        backends.cudnn.allow_tf32,
        backends.cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
    )


@pytest.fixture
def no_workspace(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    yield
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("deterministic", [False, True])
def test_switches_are_on_within_a_run_only(tf32, deterministic, no_workspace, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = switches()
    trainer = TrainerConfig(tf32=tf32, deterministic=deterministic)

    def fail() -> None:
        with backend_switches(trainer):
            assert switches() == (tf32, tf32, not deterministic, deterministic)
            assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == (":4096:8" if deterministic else None)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert switches() == before


def test_an_operation_without_a_deterministic_version_raises(no_workspace):
    place, value = torch.tensor([0, 0]), torch.ones(2)
    torch.zeros(3).put_(place, value)
    with (
        backend_switches(TrainerConfig(deterministic=True)),
        pytest.raises(RuntimeError, match="put_ does not have a deterministic implementation"),
    ):
        torch.zeros(3).put_(place, value)


@pytest.mark.parametrize("model", ["yolov2_160", "ssd160"])
def test_two_runs_are_equal_bit_for_bit(model, cache, tmp_path, no_workspace, monkeypatch):  # noqa: F811
    """Training and evaluation run with the switches on; nothing in them lacks a deterministic version."""
    on = []
    step = DetectionTask.step
    monkeypatch.setattr(
        DetectionTask, "step", lambda *args, **kwargs: (on.append(switches()), step(*args, **kwargs))[1]
    )
    settings = ("model.width=0.05", "trainer.steps=2", "trainer.deterministic=true", "trainer.tf32=true")
    config = make_run(tmp_path / "config", cache, *settings, model=model).config
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        script.train_run(config, tmp_path / name, None)
    assert_same_run(tmp_path / "first", tmp_path / "second")
    assert set(on) == {(True, True, False, True)}
    assert not torch.are_deterministic_algorithms_enabled()


def test_evaluate_and_predict_use_the_runs_switches(cache, tmp_path, no_workspace, monkeypatch):  # noqa: F811
    config = make_run(
        tmp_path / "config", cache, "model.width=0.05", "trainer.steps=2", "trainer.deterministic=true"
    ).config
    folder = tmp_path / "run"
    folder.mkdir()
    script.train_run(config, folder, None)
    on = []
    original = torch.nn.Conv2d.forward
    monkeypatch.setattr(
        torch.nn.Conv2d, "forward", lambda *args: (on.append(switches()[3]), original(*args))[1]
    )
    evaluate(EvaluateConfig(run=str(folder), progress=False))
    count = len(on)
    load(folder).predict(torch.zeros(20, 20, 3, dtype=torch.uint8).numpy())
    assert set(on) == {True} and len(on) > count > 0
    assert not torch.are_deterministic_algorithms_enabled()
    assert ckpt.load_checkpoint(folder / ckpt.LAST).step == 2
