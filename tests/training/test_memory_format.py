"""trainer.memory_format: how auto decides, who keeps the choice, and that both formats compute the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from detectors.commands import train as script
from detectors.config.schema import Config
from detectors.models.detector import Detector
from detectors.models.image_network import MEMORY_FORMATS
from detectors.models.ssd import ssd160
from detectors.models.yolov2 import yolov2, yolov2_tiny
from detectors.structures import Batch
from detectors.training import assemble, engine, memory_format
from detectors.training import checkpoint as ckpt
from detectors.training.batch_size import made_up_batch
from detectors.training.detection import TrainStep
from detectors.training.memory_format import step_seconds, with_memory_format
from detectors.training.resuming import continued_config, resumed_config
from detectors.training.saving import save_run
from tests.ranks import in_ranks
from tests.test_configs import checked
from tests.training import rank_tasks
from tests.training.test_engine import SMALL, cache, make_run, one_thread  # noqa: F401 - fixtures

CPU = torch.device("cpu")
BUILDERS = {
    "tiny": lambda: yolov2_tiny(num_classes=3, width=0.125, stride=16),
    "yolov2": lambda: yolov2(num_classes=3, width=0.125),
    "ssd": lambda: ssd160(num_classes=3, width=0.125, batch_norm=True),
}
AUTO = "trainer.memory_format=auto"
SHORT = ("model.width=0.05", "trainer.steps=2", "trainer.eval_every=0", "schedule.warmup_steps=0")


def measured(monkeypatch, channels_last: float, contiguous: float) -> None:
    """What a measurement on this machine shall say, in seconds."""
    seconds = {"channels_last": channels_last, "contiguous": contiguous}
    monkeypatch.setattr(memory_format, "step_seconds", lambda *arguments: seconds)


def settings(cache, *overrides: str) -> Config:  # noqa: F811
    """Those of make_run, without building anything."""
    return checked("model=yolov2_160", "input.size=[96,96]", f"paths.cache={cache}", *SMALL, *overrides)


def format_of(detector: Detector) -> str:
    """By a weight that is not the same in both formats."""
    weight = next(p for p in detector.backbone.parameters() if p.ndim == 4 and min(p.shape) > 1)
    (name,) = (n for n, layout in MEMORY_FORMATS.items() if weight.is_contiguous(memory_format=layout))
    return name


@pytest.mark.parametrize("family", BUILDERS)
def test_both_formats_compute_the_same(family):
    """Outputs, losses and gradients of a step. Statistics of a batch would magnify rounding."""
    results = []
    for name in MEMORY_FORMATS:
        torch.manual_seed(0)
        detector = BUILDERS[family]().eval()
        detector.set_memory_format(name)
        assert format_of(detector) == name
        batch = made_up_batch(2, 3, (160, 160))
        images = torch.randint(0, 256, batch.images.shape, generator=torch.Generator().manual_seed(1))
        terms, outputs, _ = TrainStep(detector, "float32")(
            images.to(torch.uint8), batch.targets, detector.grid((160, 160))
        )
        sum(terms.values()).backward()
        gradients = torch.cat([p.grad.flatten() for p in detector.parameters()])
        results.append((terms, outputs, gradients / gradients.norm()))
    (terms, outputs, gradients), (other_terms, other_outputs, other_gradients) = results
    assert_close(terms, other_terms, rtol=1e-4, atol=1e-5)
    assert_close(vars(outputs), vars(other_outputs), rtol=1e-4, atol=1e-4)
    assert (gradients - other_gradients).norm() < 1e-4  # of 1


def test_features_have_the_format_too():
    detector = BUILDERS["ssd"]()
    for name, layout in MEMORY_FORMATS.items():
        detector.set_memory_format(name)
        assert detector.backbone(detector._normalize(torch.zeros(2, 3, 160, 160)))[0].is_contiguous(
            memory_format=layout
        )


def test_an_unknown_format_is_refused():
    with pytest.raises(ValueError, match="^memory format 'nhwc': choose one of channels_last, contiguous$"):
        BUILDERS["tiny"]().set_memory_format("nhwc")


@pytest.mark.parametrize(
    ("seconds", "line"),
    [
        ((2.05, 1.31), "contiguous (1.31 s a step against 2.05 s with channels_last)"),
        ((1.0, 0.95), "channels_last (1 s a step against 0.95 s with contiguous)"),
        ((0.08, 0.1), "channels_last (0.08 s a step against 0.1 s with contiguous)"),
    ],
)
def test_auto_takes_contiguous_where_it_is_clearly_quicker(
    seconds,
    line,
    cache,  # noqa: F811
    monkeypatch,
    caplog,
):
    config = settings(cache, AUTO)
    measured(monkeypatch, *seconds)
    assert with_memory_format(config, 3).trainer.memory_format == line.split()[0]
    assert caplog.messages[-1] == f"memory format: {line}"


@pytest.mark.parametrize("setting", ["trainer.memory_format=contiguous", "trainer.deterministic=true"])
def test_without_auto_or_with_determinism_nothing_is_measured(
    setting,
    cache,  # noqa: F811
    monkeypatch,
):
    monkeypatch.setattr(memory_format, "step_seconds", None)
    config = settings(cache, AUTO, setting)
    expected = "contiguous" if "contiguous" in setting else "channels_last"
    assert with_memory_format(config, 3).trainer.memory_format == expected


def test_the_device_decides_without_a_measurement_where_it_is_no_cpu(cache, monkeypatch, caplog):  # noqa: F811
    monkeypatch.setattr(memory_format, "step_seconds", None)
    monkeypatch.setattr(assemble, "choose_device", lambda *arguments: torch.device("cuda", 1))
    config = settings(cache, AUTO)
    assert with_memory_format(config, 3).trainer.memory_format == "channels_last"
    assert caplog.messages[-1] == "memory format: channels_last (the device is cuda:1)"


@pytest.mark.parametrize("overrides", [(), ("trainer.precision=bfloat16", "trainer.freeze=[backbone]")])
def test_the_measurement_is_of_the_runs_own_steps(overrides, cache, monkeypatch):  # noqa: F811
    """Its network, input size and batch size, three in each format, in turns; no random number is drawn."""
    config = settings(cache, AUTO, *overrides)
    monkeypatch.setattr(memory_format, "SECONDS", 0.0)
    steps = []
    original = memory_format.TrialTraining.gradients

    def gradients(training, batches: list[Batch]) -> torch.Tensor:
        steps.append((format_of(training.detector), tuple(batches[0].images.shape)))
        return original(training, batches)

    monkeypatch.setattr(memory_format.TrialTraining, "gradients", gradients)
    before = torch.get_rng_state()
    seconds = step_seconds(config, 3, CPU)
    assert torch.get_rng_state().equal(before)
    assert steps == 3 * [(name, (4, 3, 96, 96)) for name in MEMORY_FORMATS]
    assert all(0 < value < 60 for value in seconds.values())


@pytest.mark.parametrize("choice", MEMORY_FORMATS)
def test_a_measured_run_equals_one_with_the_format_named(choice, cache, tmp_path, monkeypatch):  # noqa: F811
    """Bit for bit: the measurement leaves no trace but the choice, which is stored."""
    monkeypatch.setattr(memory_format, "SECONDS", 0.0)
    monkeypatch.setattr(memory_format, "CLEARLY", float(choice == "contiguous") * 1e9)
    stored = []
    for setting in ("auto", choice):
        config = settings(cache, *SHORT, "trainer.trackers=[]", f"trainer.memory_format={setting}")
        script.train_run(config, tmp_path / setting, None)
        stored.append(ckpt.load_checkpoint(tmp_path / setting / ckpt.LAST))
    measured_run, named = stored
    assert measured_run.config == named.config
    assert measured_run.config["trainer"]["memory_format"] == choice
    assert_close(measured_run.model, named.model, rtol=0, atol=0)
    assert_close(measured_run.optimizer["state"], named.optimizer["state"], rtol=0, atol=0)
    assert measured_run.random["cpu"].equal(named.random["cpu"])


def test_a_run_keeps_its_format(cache, tmp_path):  # noqa: F811
    """In evaluations and resumes; named again, auto measures anew."""
    run = make_run(tmp_path, cache, *SHORT, "trainer.memory_format=contiguous")
    save_run(run, ckpt.LAST)
    stored = ckpt.load_checkpoint(tmp_path / ckpt.LAST)
    detector, _ = assemble.load_detector(stored, CPU)
    assert format_of(detector) == format_of(run.task.module) == "contiguous"
    again = replace(run.config, trainer=replace(run.config.trainer, memory_format="auto"))
    assert continued_config(stored, again).trainer.memory_format == "contiguous"
    assert resumed_config(stored, []).trainer.memory_format == "contiguous"
    assert resumed_config(stored, [AUTO]).trainer.memory_format == "auto"


def test_an_older_run_is_channels_last(cache, tmp_path):  # noqa: F811
    run = make_run(tmp_path, cache)
    save_run(run, ckpt.LAST)
    stored = ckpt.load_checkpoint(tmp_path / ckpt.LAST)
    trainer = {name: value for name, value in stored.config["trainer"].items() if name != "memory_format"}
    ckpt.save_checkpoint(replace(stored, config=stored.config | {"trainer": trainer}))
    assert resumed_config(ckpt.load_checkpoint(tmp_path / ckpt.LAST), []).trainer == run.config.trainer


def test_a_resume_may_change_the_format(cache, tmp_path):  # noqa: F811
    """The optimiser's state then lies as the weights do, which fused steps need."""
    run = make_run(tmp_path, cache, "trainer.steps=1", "model.width=0.05", "schedule.warmup_steps=0")
    engine.train(run)
    stored = ckpt.load_checkpoint(tmp_path / ckpt.LAST)
    overrides = ("trainer.memory_format=contiguous", "trainer.steps=2", "model.width=0.05")
    changed = make_run(tmp_path, cache, *overrides, stored=stored)
    for before, after in zip(run.task.module.parameters(), changed.task.module.parameters(), strict=True):
        for name in ("exp_avg", "exp_avg_sq"):
            momentum = changed.optimizer.state[after][name]
            assert momentum.stride() == after.stride()
            assert momentum.equal(run.optimizer.state[before][name])
    engine.train(changed)


def test_two_processes_take_the_first_ones_choice(tmp_path):
    assert in_ranks(rank_tasks.memory_format_choice, tmp_path) == ["contiguous", "contiguous"]
