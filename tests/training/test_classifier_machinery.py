"""What a run can switch on works for classifiers: compilation, averages, freezing, several processes, the
search for a rate and a batch size, a replay, overfitting.
"""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from numpy.testing import assert_allclose, assert_equal
from torch.testing import assert_close

from detectors.commands import train as script
from detectors.commands.find_rate import command as find_rate
from detectors.commands.replay import command as replay
from detectors.config.check import check
from detectors.config.composing import composed
from detectors.models.darknet19 import darknet19
from detectors.training import batch_size, compilation, engine
from detectors.training import checkpoint as ckpt
from detectors.training.batch_size import MemoryTrial, with_found_batch
from detectors.training.classification import ClassifierStep
from detectors.training.compilation import compile_step
from detectors.training.distributed import ALONE
from detectors.training.trial import TrialTraining
from tests.data.labelled import write_idx
from tests.ranks import in_ranks
from tests.training import rank_tasks
from tests.training.test_classification import CROPS, DARKNET, DIGITS, make_classifier_run, settings
from tests.training.test_engine import interrupt_after, one_thread  # noqa: F401 - a fixture
from tests.training.test_saving import assert_same_run

AVERAGED = ("trainer.ema_decay=0.9", "trainer.accumulate=2", "trainer.batch_size=2")
RESNET = ("model=classifier", "model.backbone=mobilenet_v3_small", "model.width=0.25", *CROPS[2:])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_idx(tmp_path_factory.mktemp("digits"))


@pytest.fixture
def fresh_graphs():
    yield
    torch.compiler.reset()


def trained(folder, place, *overrides: str) -> ckpt.Checkpoint:
    run = make_classifier_run(folder, place, *overrides)
    engine.train(run)
    run.tracker.close()
    return ckpt.load_checkpoint(folder / ckpt.LAST)


@pytest.mark.parametrize("overrides", [DARKNET, pytest.param(RESNET, marks=pytest.mark.slow)])
def test_a_compiled_classifier_equals_a_plain_one(overrides, place, tmp_path, monkeypatch, fresh_graphs):
    """Bit for bit with this backend: weights, average, optimiser, curves. One graph, and one of a trial."""
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager")
    few = (*overrides, *AVERAGED, "trainer.steps=3")
    trained(tmp_path / "plain", place, *few)
    torch._dynamo.utils.counters.clear()
    trained(tmp_path / "compiled", place, *few, "trainer.compile=true")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
    assert_same_run(tmp_path / "compiled", tmp_path / "plain")


@pytest.mark.slow
def test_inductor_computes_a_classifiers_step(place, tmp_path, fresh_graphs):
    few = (*DIGITS, "trainer.steps=2", "trainer.eval_every=0")
    plain = trained(tmp_path / "plain", place, *few)
    compiled = trained(tmp_path / "compiled", place, *few, "trainer.compile=true")
    assert_close(compiled.model, plain.model, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_inductor_computes_darknet19s_step(fresh_graphs):
    """As near to the same step in float64 as PyTorch's own operations come.

    With images of 32 pixels in batches of 2, BatchNorm would norm two numbers in the last layers. Where they
    are nearly equal, rounding decides the outputs, of either program.
    """
    torch.manual_seed(0)
    classifier = darknet19(num_classes=10, width=0.05).train()
    plain, compiled = (ClassifierStep(deepcopy(classifier), "float32") for _ in range(2))
    exact = ClassifierStep(deepcopy(classifier).double(), "float32")
    compile_step(compiled, torch.device("cpu"), sizes=1)
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (8, 3, 128, 128), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (8,), generator=generator)
    errors = {}
    for name, step in (("exact", exact), ("plain", plain), ("compiled", compiled)):
        terms, logits = step(images, labels)
        sum(terms.values()).backward()
        gradient = torch.cat([p.grad.double().flatten() for p in step.parameters()])
        if name == "exact":
            true_logits, true_gradient = logits.detach(), gradient
        else:
            slope = (gradient - true_gradient).norm() / true_gradient.norm()
            errors[name] = (logits.double() - true_logits).abs().max().item(), slope.item()
    assert errors["compiled"][0] < max(2 * errors["plain"][0], 1e-4)
    assert errors["compiled"][1] < 0.05  # the slope of a leaky unit near 0 differs now and then


@pytest.mark.parametrize("overrides", [DARKNET, pytest.param(RESNET, marks=pytest.mark.slow)])
def test_a_frozen_backbone_keeps_its_bits_through_a_stop(overrides, place, tmp_path):
    """Parameters and BatchNorm's statistics, in the weights and in their average; only the head learns."""
    frozen = (*overrides, *AVERAGED, "trainer.freeze=[backbone]")
    run = make_classifier_run(tmp_path, place, *frozen)
    before = {name: tensor.clone() for name, tensor in run.task.module.state_dict().items()}
    interrupt_after(run, 3 * 2)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 3"):
        engine.train(run)
    run.tracker.close()
    stored = ckpt.load_checkpoint(tmp_path / ckpt.LAST)
    run = make_classifier_run(tmp_path, place, *frozen, stored=stored)
    engine.train(run)
    run.tracker.close()
    stored = ckpt.load_checkpoint(tmp_path / ckpt.LAST)
    assert stored.step == 6
    for state in (stored.model, stored.ema):
        changed = {name for name, tensor in before.items() if not tensor.equal(state[name])}
        assert changed == {"head.weight", "head.bias"}


def test_two_processes_learn_what_one_does_with_the_same_batch(tmp_path):
    """Accuracy and losses of the validation images count each image once: 5 of them in batches of 2."""
    common = ("trainer.steps=3", "data.shapes.val=5", "trainer.eval_batch_size=2", "trainer.ema_decay=0.9")
    arguments = (rank_tasks.train, tmp_path)
    (one,) = in_ranks(*arguments, "one", "classifier", "trainer.batch_size=6", *common, world_size=1)
    two, other = in_ranks(*arguments, "two", "classifier", "trainer.batch_size=3", *common)
    assert_equal(other["state"], two["state"])
    for key, tensor in one["state"].items():
        assert_allclose(two["state"][key], tensor, rtol=1e-2, atol=1e-4, err_msg=key)
    assert two["report"] == other["report"]
    assert two["report"]["images"] == one["report"]["images"] > 5  # boxes
    assert two["report"]["confusion"] == one["report"]["confusion"]
    for key in ("step", "images_seen"):
        assert two["progress"][key] == one["progress"][key]


def test_find_rate_takes_the_trainers_steps(place, tmp_path, capsys):
    options = [*settings(place, DIGITS), "name=mine"]
    find_rate.main([*options, "--steps", "20", "--output", str(tmp_path)])
    assert "20 steps; all rates were tried" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"mine.csv", "mine.png"}


def test_a_rate_that_explodes_is_replayed(place, tmp_path, capsys):
    explode = (
        "optimizer=sgd",
        "optimizer.rate=1e15",
        "schedule.warmup_steps=0",
        "trainer.clip_grad_norm=null",
    )
    run = make_classifier_run(tmp_path / "run", place, *DIGITS, *explode)
    with pytest.raises(FloatingPointError, match="detectors replay "):
        engine.train(run)
    run.tracker.close()
    (folder,) = (tmp_path / "run").glob("replay_step_*")
    replay.main([str(folder)])
    out = capsys.readouterr().out
    assert "is the first that is not finite, in this order:\n" in out and "backbone" in out


def test_the_batch_size_that_fits_is_found(place, tmp_path, monkeypatch):
    """A GPU with room for five images: steps of eight images become two batches of four."""
    run = make_classifier_run(tmp_path, place, *DIGITS, "trainer.batch_size=8")
    annotations = run.train_loader.dataset.annotations
    trial = MemoryTrial(run.config, annotations, torch.device("cpu"))
    original = TrialTraining.step

    def step(training, batches, rate):
        if len(batches[0].images) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(training, batches, rate)

    monkeypatch.setattr(TrialTraining, "step", step)
    monkeypatch.setattr(batch_size.assemble, "choose_device", lambda name, processes: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *arguments: None)
    monkeypatch.setattr(batch_size, "MemoryTrial", lambda *arguments: trial)
    run.config.trainer.find_batch_size = True
    found = with_found_batch(run.config, annotations, ALONE).trainer
    assert (found.batch_size, found.accumulate) == (4, 2)


@pytest.mark.slow
def test_it_overfits_eight_images(tmp_path, caplog):
    """debug=overfit has images with boxes; a classifier takes their crops."""
    options = [
        *("model=darknet19_classifier", "debug=overfit", "data.box_crops=0", "model.width=0.1"),
        *("input.size=[32,32]", "trainer.eval_every=0", "trainer.progress=false"),
        *(
            "optimizer.rate=0.001",
            "data.shapes.size=64",
            "trainer.memory_format=channels_last",
            f"paths.cache={tmp_path / 'cache'}",
        ),
    ]
    (tmp_path / "run").mkdir()
    run = script.build_run(check(composed(options)), tmp_path / "run", None)
    assert "20 validation images (20 of them are training images, too" in caplog.text
    assert engine.train(run).scalars["accuracy"] >= 0.9
