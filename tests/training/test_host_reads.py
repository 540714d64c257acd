"""The engine's real loop: the host waits for the device only to load, log, save and evaluate."""

from __future__ import annotations

import pytest
import torch

from detectors.training import engine
from detectors.training.detection import DetectionTask
from tests.host_reads import HostReadError, NoHostReads
from tests.training.test_engine import cache, make_run, one_thread  # noqa: F401 - fixtures

# SGD, because AdamW counts its steps on the host by itself, unless it is fused.
BASIC = ("optimizer=sgd", "optimizer.rate=0.0001", "model.width=0.05", "trainer.steps=3")
BASIC += ("trainer.log_every=2", "trainer.save_every=2")
CLIPPED = ("trainer.accumulate=2", "trainer.batch_size=2", "trainer.clip_grad_norm=1.0")
EXTRAS = ("trainer.ema_decay=0.9", "trainer.on_nonfinite=skip", "trainer.precision=bfloat16")
FLOAT16 = ("trainer.precision=float16", "optimizer=adamw", "optimizer.rate=0.0001")
ADAMW = ("optimizer=adamw", "optimizer.rate=0.0001")  # its steps are fused on a GPU
RUNS = {"plain": (), "clipped": CLIPPED, "extras": EXTRAS, "float16": FLOAT16}
PLACES = ("batches_of_step", "log", "save_run", "interruptible_evaluation")  # of engine.py
PLANTED = {
    "item": lambda loss: loss.item(),
    "bool": lambda loss: bool(loss > 0),
    "float": lambda loss: float(loss.detach()),
    "nonzero": lambda loss: loss[None].nonzero(),
    "an index of bools": lambda loss: loss[None][loss[None] > 0],
    "cpu": lambda loss: loss.cpu(),
    "tolist": lambda loss: loss.tolist(),
    "numpy": lambda loss: loss.detach().numpy(),
}


def watched(monkeypatch) -> NoHostReads:
    reads = NoHostReads()
    for name in PLACES:
        monkeypatch.setattr(engine, name, reads.allowed_in(getattr(engine, name)))
    statistics = reads.allowed_in(DetectionTask.statistics)  # at log points alone
    monkeypatch.setattr(DetectionTask, "statistics", statistics)
    monkeypatch.setattr(engine, "iter", reads.allowed_in(iter), raising=False)  # draws the workers' seed
    return reads


@pytest.mark.parametrize(
    "overrides", [(), CLIPPED, EXTRAS, FLOAT16], ids=["plain", "clipped", "extras", "float16"]
)
@pytest.mark.parametrize("model", ["yolov2_160", "ssd160"])
def test_a_step_never_waits_for_the_device(model, overrides, cache, tmp_path, monkeypatch):  # noqa: F811
    run = make_run(tmp_path, cache, *BASIC, *overrides, model=model)
    reads = watched(monkeypatch)
    with reads:
        engine.train(run)
    assert run.progress.step == 3
    assert reads.operations > 1000


@pytest.mark.parametrize("name", PLANTED)
def test_a_wait_in_the_step_is_noticed(name, cache, tmp_path, monkeypatch):  # noqa: F811
    original = DetectionTask.step

    def step(task: DetectionTask, *args, **kwargs) -> dict:
        terms = original(task, *args, **kwargs)
        PLANTED[name](next(iter(terms.values())))
        return terms

    monkeypatch.setattr(DetectionTask, "step", step)
    run = make_run(tmp_path, cache, *BASIC)
    reads = watched(monkeypatch)
    with pytest.raises(HostReadError), reads:
        engine.train(run)
    assert run.progress.step == 0


@pytest.mark.gpu
@pytest.mark.parametrize(
    "overrides", [(), CLIPPED, EXTRAS, FLOAT16, ADAMW], ids=["plain", "clipped", "extras", "float16", "adamw"]
)
@pytest.mark.parametrize("model", ["yolov2_160", "ssd160"])
def test_cuda_sees_no_wait_in_a_step(model, overrides, cache, tmp_path, monkeypatch):  # noqa: F811
    run = make_run(tmp_path, cache, *BASIC, *overrides, "trainer.device=cuda", model=model)

    def allowed_in(function):
        def unwatched(*args, **kwargs):
            torch.cuda.set_sync_debug_mode("default")
            try:
                return function(*args, **kwargs)
            finally:
                torch.cuda.set_sync_debug_mode("error")

        return unwatched

    for name in PLACES:
        monkeypatch.setattr(engine, name, allowed_in(getattr(engine, name)))
    torch.cuda.set_sync_debug_mode("error")
    try:
        engine.train(run)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert run.progress.step == 3
