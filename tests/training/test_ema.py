"""The average of the weights: its formula, what uses it, and that a resume goes on with it bit for bit."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detectors import load
from detectors.commands import train as script
from detectors.commands.convert.command import main as convert
from detectors.commands.evaluate import evaluate
from detectors.commands.predict.command import main as predict
from detectors.config.check import ConfigError
from detectors.config.schema import EvaluateConfig
from detectors.training import assemble, detection, engine
from detectors.training import checkpoint as ckpt
from detectors.training.ema import Ema
from detectors.training.run import Run
from detectors.training.saving import save_run
from tests.host_reads import NoHostReads
from tests.training.test_engine import (  # noqa: F401 - fixtures
    cache,
    interrupt_after,
    make_run,
    one_thread,
)
from tests.training.test_saving import assert_same_run, curves, finished, resume

ON = ("trainer.ema_decay=0.5", "trainer.accumulate=2", "trainer.batch_size=2")


def step_of(module: nn.Module) -> None:
    """Another value for each parameter and each statistic."""
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.add_(torch.randn_like(tensor) if tensor.is_floating_point() else 1)


def test_the_average_is_the_formula_written_out():
    """(1 + t) / (10 + t) until it reaches the decay, which is step 6 for .4375; counters are copied."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    ema = Ema(module, 0.4375)
    expected = copy.deepcopy(module.state_dict())
    for step, decay in enumerate([2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 7 / 16, 7 / 16, 7 / 16], 1):
        step_of(module)
        ema.update(module, step)
        for name, tensor in module.state_dict().items():
            old = expected[name]
            new = decay * old + (1 - decay) * tensor if tensor.is_floating_point() else tensor
            expected[name] = new.clone()
    assert_close(ema.module.state_dict(), expected)
    assert expected["1.num_batches_tracked"] == 8
    assert not ema.module.training
    assert not any(p.requires_grad for p in ema.module.parameters())


def test_a_parameter_that_does_not_change_keeps_its_bits():
    module = nn.Conv2d(3, 4, 1)
    ema = Ema(module, 0.9)
    for step in range(1, 5):
        ema.update(module, step)
    assert_close(ema.module.state_dict(), module.state_dict(), rtol=0, atol=0)


def test_an_update_does_not_wait_for_the_device(cache, tmp_path):  # noqa: F811
    run = make_run(tmp_path, cache, *ON)
    with NoHostReads() as reads:
        run.ema.update(run.task.module, 1)
    assert reads.operations


def test_training_itself_is_not_changed(cache, tmp_path):  # noqa: F811
    """Weights and losses are those of a run without an average; evaluations are not."""
    for name, overrides in (("with", ON), ("without", ON[1:])):
        finished(tmp_path / name, cache, *overrides, "trainer.log_every=1")
    averaged, plain = (ckpt.load_checkpoint(tmp_path / name / ckpt.LAST) for name in ("with", "without"))
    assert_close(averaged.model, plain.model, rtol=0, atol=0)
    assert plain.ema == {} and averaged.ema.keys() == averaged.model.keys()
    loss = "train/loss/total"
    assert curves(tmp_path / "with")[loss] == curves(tmp_path / "without")[loss]
    changed = [name for name, tensor in averaged.model.items() if not tensor.equal(averaged.ema[name])]
    assert {"running_mean", "running_var", "weight", "bias"} <= {name.rpartition(".")[2] for name in changed}
    counters = {name for name in averaged.model if name.endswith("num_batches_tracked")}
    assert counters and not counters & set(changed)


@pytest.mark.parametrize("step", [2, 4])
def test_a_resumed_average_equals_an_uninterrupted_one(step, cache, tmp_path):  # noqa: F811
    whole = finished(tmp_path / "whole", cache, *ON)
    run = make_run(tmp_path / "parts", cache, *ON)
    interrupt_after(run, 2 * step)
    with pytest.raises(KeyboardInterrupt, match=f"stopped after step {step}"):
        engine.train(run)
    run.tracker.close()
    resume(tmp_path / "parts")
    assert_same_run(tmp_path / "parts", whole)
    for name in (ckpt.LAST, ckpt.BEST):
        first, second = (ckpt.load_checkpoint(folder / name) for folder in (tmp_path / "parts", whole))
        assert_close(first.ema, second.ema, rtol=0, atol=0)


@pytest.fixture(scope="module")
def averaged(tmp_path_factory, cache) -> Run:  # noqa: F811
    """A run of two steps, saved with weights that differ from their average by far."""
    run = make_run(tmp_path_factory.mktemp("averaged"), cache, *ON, "trainer.steps=2", "model.width=0.05")
    engine.train(run)
    step_of(run.task.module)
    save_run(run, ckpt.BEST)
    save_run(run, ckpt.LAST)
    return run


def test_evaluations_in_training_use_the_average(averaged, monkeypatch):
    seen = []
    original = detection.detect
    monkeypatch.setattr(
        detection, "detect", lambda module, *a, **k: seen.append(module) or original(module, *a, **k)
    )
    averaged.task.evaluate()
    assert seen == [averaged.ema.module]


def test_evaluate_and_predict_use_the_average_and_say_so(averaged, tmp_path, capsys):
    average = averaged.ema.module.state_dict()
    assert_close(load(averaged.folder).module.state_dict(), average, rtol=0, atol=0)
    settings = EvaluateConfig(run=str(averaged.folder), checkpoint="last", device="cpu", progress=False)
    assert evaluate(settings) == averaged.task.evaluate().scalars["AP"]
    path = averaged.folder / ckpt.LAST
    assert f"{path}, step 2, averaged weights, on shapes val (4 images)\n" in capsys.readouterr().out
    image = averaged.task.val_annotations.paths[0]
    predict([str(averaged.folder), image, "--output", str(tmp_path / "pictures")])
    assert f"{averaged.folder}: averaged weights\n" in capsys.readouterr().err


def test_convert_and_a_new_run_take_the_average_and_say_so(averaged, cache, tmp_path, caplog, capsys):  # noqa: F811
    average = averaged.ema.module.state_dict()
    convert([str(averaged.folder), str(tmp_path / "slim.pt")])
    assert "step 2, 6 classes, averaged weights -> yolov2_160" in capsys.readouterr().out
    slim = ckpt.load_checkpoint(tmp_path / "slim.pt")
    assert slim.ema == {}
    assert_close(slim.model, average, rtol=0, atol=0)
    new = make_run(tmp_path / "new", cache, "model.width=0.05", f"init.from={averaged.folder}")
    assert_close(new.task.module.state_dict(), average, rtol=0, atol=0)
    assert f"averaged weights of {averaged.folder / ckpt.BEST}: " in caplog.text


def test_an_average_that_is_not_finite_is_not_saved(cache, tmp_path):  # noqa: F811
    run = make_run(tmp_path, cache, *ON)
    next(run.ema.module.parameters()).fill_(float("nan"))
    name = next(iter(run.ema.module.state_dict()))
    with pytest.raises(FloatingPointError, match=f"^step 0: {name} of the average holds NaN or infinity"):
        save_run(run, ckpt.LAST)
    assert not (tmp_path / ckpt.LAST).exists()


def test_an_average_can_begin_and_end_at_a_resume(averaged, tmp_path):
    """It begins at the stored weights, as at the start of a run."""
    stored = ckpt.load_checkpoint(averaged.folder / ckpt.LAST)
    plain = replace(stored, path=tmp_path / ckpt.LAST, ema={})
    ckpt.save_checkpoint(plain)
    run = resumed(plain.path, "trainer.ema_decay=0.9")
    assert_close(run.ema.module.state_dict(), stored.model, rtol=0, atol=0)
    assert resumed(averaged.folder / ckpt.LAST, "trainer.ema_decay=null").ema is None


def resumed(path: Path, *overrides: str) -> Run:
    stored = ckpt.load_checkpoint(path)
    return script.build_run(
        script.resumed_config(stored, ["trainer.steps=3", *overrides]), path.parent, stored
    )


def test_the_average_counts_images_as_the_network_does(averaged):
    """So that its validation loss has the same terms, also in an evaluation that a resume makes first."""
    run = resumed(averaged.folder / ckpt.LAST)
    assert run.task.evaluated.loss.images_seen == run.task.module.loss.images_seen == 8


def test_a_damaged_average_is_named(averaged):
    content = ckpt.read_tensors(averaged.folder / ckpt.LAST)
    name = next(iter(content["ema"]))
    for bad, problem in (
        (3, "ema is 3, must be an object of names and values"),
        (content["ema"] | {name: torch.full((2,), float("nan"))}, f"ema['{name}'] holds NaN or infinity"),
    ):
        with pytest.raises(ValueError) as error:
            ckpt.from_content(Path("x"), content | {"ema": bad})
        assert str(error.value).startswith(f"x: {problem}")
    other = ckpt.from_content(Path("x"), content | {"ema": {name: torch.ones(2)}})
    with pytest.raises(ValueError, match=f"^x: its weights do not fit the .*: {name} is "):
        assemble.load_detector(other, torch.device("cpu"))
    with pytest.raises(ValueError, match=f"^x: ema: its weights do not fit the .*: {name} is "):
        averaged.ema.restore(other.ema, "x")


@pytest.mark.parametrize(
    ("value", "problem"),
    [("0", "must be more than 0; null switches it off"), ("1.0", "must be less than 1")],
)
def test_decays_that_average_nothing(value, problem, cache, tmp_path):  # noqa: F811
    with pytest.raises(ConfigError) as error:
        make_run(tmp_path, cache, f"trainer.ema_decay={value}")
    assert error.value.problems == [f"trainer.ema_decay={float(value)}: {problem}"]
