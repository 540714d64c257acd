"""A checkpoint with any entry changed gives one line with file, entry and way out, wherever it is read.

The tables hold every entry in turn; the few changes that leave a usable checkpoint are listed, too.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from detectors.commands import train as script
from detectors.commands.evaluate import evaluate
from detectors.commands.predict.predictor import load
from detectors.config.schema import EvaluateConfig
from detectors.training import assemble, engine
from detectors.training import checkpoint as ckpt
from detectors.training.checkpoint_checks import COMPUTATION, GO_ON
from detectors.training.initial.initial_weights import initial_weights, start_from
from detectors.training.run import Run
from detectors.training.saving import restore
from tests.training.test_engine import cache, make_run, one_thread  # noqa: F401 - fixtures


def nested_tensor() -> torch.Tensor:
    with warnings.catch_warnings(action="ignore"):  # PyTorch's, that it is a prototype
        return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])


GONE = object()
NAN = float("nan")
CHANGES = {
    "missing": GONE,
    "None": None,
    "a text": "text",
    "an empty list": [],
    "a list": [1, 2],
    "a dict": {"a": 1},
    "a flag": True,
    "3": 3,
    "-1": -1,
    "2.5": 2.5,
    "NaN": NAN,
    "a huge number": 10**5000,
    "a tensor": torch.ones(2, 7),
    "tensors": [torch.ones(2, 7), torch.ones(3)],
    "a complex tensor": torch.ones(2, dtype=torch.complex64),
    "a tensor of NaN": torch.full((2, 7), NAN),
    "a nested tensor": nested_tensor(),
    "a sparse tensor": torch.ones(2, 7).to_sparse(),
    "a tensor larger than the file": torch.ones(1).expand(10**6, 10**6),
}


@pytest.fixture(scope="module", params=["adamw", "sgd_caffe"])
def run(request, tmp_path_factory) -> Run:
    """A finished run of two steps."""
    place = tmp_path_factory.mktemp("damaged")
    settings = (
        f"optimizer={request.param}",
        "model.width=0.05",
        "trainer.steps=2",
        "trainer.clip_grad_norm=1.0",
    )
    made = make_run(place / "run", place / "cache", *settings, "optimizer.rate=0.0001")
    engine.train(made)
    return made


def content_of(run: Run) -> dict[str, Any]:
    return ckpt.read_tensors(run.folder / ckpt.LAST)


def changed(content: Any, keys: Sequence, value: Any) -> Any:
    """A copy of nested dicts and lists with one entry replaced or removed; the rest is shared."""
    key, *rest = keys
    twin = copy.copy(content)
    if rest:
        twin[key] = changed(content[key], rest, value)
    elif value is GONE:
        del twin[key]
    else:
        twin[key] = value
    return twin


def accepted_changes(run: Run, keys: Sequence, use, **others: Any) -> set[str]:
    """The changes of an entry that `use(checkpoint)` takes; any other must raise one line with the file."""
    path = Path("some/last.pt")
    whole = content_of(run)
    accepted = set()
    for name, value in (CHANGES | others).items():
        content = changed(whole, keys, value)
        try:
            use(ckpt.from_content(path, content))
        except ValueError as error:
            text = str(error)
            assert text.startswith(f"{path}: ") and "\n" not in text and len(text) < 500, (keys, name, text)
            assert text.endswith(GO_ON) or "holds weights alone" in text or "no checkpoint that" in text, text
        else:
            accepted.add(name)
    return accepted


def resume(run: Run, stored: ckpt.Checkpoint) -> None:
    """As build_run does, into a run that stands already."""
    assemble.load_state(run.task.module, stored.model, stored.path)
    restore(run, stored)


def restored(run: Run):
    return lambda stored: resume(run, stored)


def nothing(_) -> None: ...


TOP = {
    "format": set(),
    "step": {"3"},  # taken where progress does not name another; see below
    "config": {"a dict"},  # its settings are looked at by those that use them
    "class_names": set(),
    "model": set(),
    "progress": {"a dict"},
    "optimizer": {"a dict"},
    "random": {"a dict"},
}


@pytest.mark.parametrize("key", TOP)
def test_every_entry_is_checked_when_a_checkpoint_is_read(key, run):
    if key == "step":
        content = content_of(run)
        del content["progress"]["step"]
        assert ckpt.from_content(Path("x"), content | {"step": 3}).step == 3
        assert accepted_changes(run, [key], nothing) == set()
    else:
        assert accepted_changes(run, [key], nothing) == TOP[key]
    if key == "class_names":
        assert accepted_changes(run, [key], nothing, twice=["a", "a"], numbers=["a", 1], good=["a"]) == {
            "good"
        }


PROGRESS = {
    "step": {"missing"},
    "images_seen": {"3"},
    "train_seconds": {"3", "2.5"},
    "best": {"3", "2.5", "-1"},
    "best_step": {"missing", "None", "3"},
    "best_scalars": {"missing", "a dict"},
    "stop_best": {"missing", "a dict"},
    "stop_waited": {"missing", "3"},
}


@pytest.mark.parametrize("key", PROGRESS)
def test_progress_of_the_wrong_type(key, run):
    assert accepted_changes(run, ["progress", key], restored(run)) == PROGRESS[key]
    if key == "best_scalars":
        assert accepted_changes(run, ["progress", key, "AP"], restored(run)) == {
            "missing",
            "None",
            "3",
            "-1",
            "2.5",
        }


def test_weights_of_the_wrong_kind(run):
    """A tensor of each kind, a number of steps, and names that belong to no network."""
    names = [
        "head.conv.weight"
        if "head.conv.weight" in content_of(run)["model"]
        else next(iter(content_of(run)["model"]))
    ]
    names += [
        name for name in content_of(run)["model"] if name.endswith(("running_var", "num_batches_tracked"))
    ][:2]
    for name in names:
        own = content_of(run)["model"][name]
        whole = own.long() if own.is_floating_point() else own.float()
        others = {"whole": whole, "double": own.double() if own.is_floating_point() else own.int()}
        assert accepted_changes(run, ["model", name], restored(run), **others) == {"double"}
    assert accepted_changes(run, ["model", "other"], restored(run), missing=None) == set()
    assert accepted_changes(run, ["model", 3], restored(run), missing=None) == set()


def test_optimizer_state_of_the_wrong_kind(run):
    assert accepted_changes(run, ["optimizer", "state"], restored(run), empty={}) == set()
    assert accepted_changes(run, ["optimizer", "param_groups"], restored(run)) == set()
    assert accepted_changes(run, ["optimizer", "param_groups", 0], restored(run)) == set()
    state = content_of(run)["optimizer"]["state"]
    last = len(state) - 1
    for number in (0, last):
        # An entry may be missing: a parameter that no output uses has no gradient, and so no state.
        assert accepted_changes(run, ["optimizer", "state", number], restored(run), empty={}) == {"missing"}
        for name, own in state[number].items():
            others = {"another shape": torch.zeros(3, 1), "double": own.double(), "inf": own + float("inf")}
            if own.ndim:
                others["whole"] = own.long()
            numbers = set() if own.ndim else {"3", "-1", "2.5"}  # of steps
            accepted = accepted_changes(run, ["optimizer", "state", number, name], restored(run), **others)
            assert accepted == {"double"} | numbers, (number, name)
    for key in (last + 1, -1, "0", 1.5):
        content = content_of(run)
        content["optimizer"]["state"][key] = state[0]
        with pytest.raises(
            ValueError, match=r"^x: optimizer: state has an entry .*, which no parameter has; "
        ):
            resume(run, ckpt.from_content(Path("x"), content))


def test_hyperparameters_of_the_wrong_kind(run):
    """A missing one is the configuration's own, as where an older PyTorch did not have it."""
    group = content_of(run)["optimizer"]["param_groups"][0]
    for key, own in group.items():
        accepted = accepted_changes(run, ["optimizer", "param_groups", 0, key], restored(run), own=own)
        if key in COMPUTATION:  # the run's own, whatever is stored
            assert accepted == {*CHANGES, "own"}
            continue
        needed = {"own"} if key in ("params", "lr") else {"own", "missing"}
        extra = (
            {"3", "2.5", "-1"}
            if type(own) in (int, float)
            else {"a flag"}
            if own is True
            else {"None"}
            if own is None
            else set()
        )
        assert needed <= accepted <= needed | extra, key
    assert accepted_changes(
        run,
        ["optimizer", "param_groups", 0, "momentum" if "momentum" in group else "betas"],
        restored(run),
        bad=(2.0, 0.9),
    ) <= {"missing", "3", "2.5"}


def test_optimizer_state_of_another_model(run, tmp_path, cache):  # noqa: F811
    name = (
        "optimizer=adamw"
        if "betas" in content_of(run)["optimizer"]["param_groups"][0]
        else "optimizer=sgd_caffe"
    )
    wider = make_run(
        tmp_path,
        cache,
        name,
        "model.width=0.1",
        "trainer.steps=1",
        "optimizer.rate=0.0001",
        "schedule.warmup_steps=0",
    )
    engine.train(wider)
    content = content_of(run) | {"optimizer": content_of(wider)["optimizer"]}
    with pytest.raises(
        ValueError,
        match=r"^x: optimizer: state\[\d+\]: \w+ is torch.float32 \(.*\), its parameter is \(.*; it was",
    ):
        resume(run, ckpt.from_content(Path("x"), content))
    content = content_of(run) | {"model": content_of(wider)["model"]}
    with pytest.raises(
        ValueError, match=r"^x: its weights do not fit the configuration that it names: \S+ is \("
    ):
        resume(run, ckpt.from_content(Path("x"), content))


def test_random_state_of_the_wrong_kind(run):
    assert (
        accepted_changes(run, ["random", "cpu"], restored(run), short=torch.zeros(8, dtype=torch.uint8))
        == set()
    )


def test_a_configuration_of_the_wrong_kind(run):
    """Read by evaluate.py, predict and a resume; each group in turn."""

    def use(stored: ckpt.Checkpoint) -> None:
        assemble.load_detector(stored, torch.device("cpu"))

    for group in ("model", "loss", "input", "optimizer", "data", "seed", "name"):
        accepted = accepted_changes(run, ["config", group], use)
        allowed = {"seed": {"missing", "3"}, "name": {"a text"}, "input": {"missing"}}.get(group, set())
        assert accepted == allowed, group
    keys = [["model", "_target_"], ["loss", "_target_"], ["input", "size"]]
    if "betas" in content_of(run)["config"]["optimizer"]:
        keys.append(["optimizer", "betas"])
    for entry in keys:
        others = {"missing"} if entry[0] != "model" and entry[1] != "_target_" else set()
        assert accepted_changes(run, ["config", *entry], use) == others, entry


def test_endless_configurations_are_refused(run):
    loop: dict = {}
    loop["again"] = loop
    wide = ["x"]
    for _ in range(40):
        wide = [wide, wide]
    for value in (loop, wide):
        with pytest.raises(ValueError, match=r"^x: its configuration is nested without end; "):
            ckpt.from_content(Path("x"), changed(content_of(run), ["config", "model"], value))


def damaged_files(run: Run, folder: Path) -> Iterator[Path]:
    """Run folders whose last.pt and best.pt are no checkpoints."""
    for name, value in (("text", b"no checkpoint"), ("tensors", None), ("folder", None), ("fifo", None)):
        place = folder / name
        place.mkdir()
        for file in (place / "last.pt", place / "best.pt"):
            if name == "folder":
                file.mkdir()
            elif name == "fifo":
                os.mkfifo(file)
            elif name == "tensors":
                torch.save(changed(content_of(run), ["model"], [1]), file)
            else:
                file.write_bytes(value)
        yield place


def test_every_command_names_the_file(run, tmp_path):
    """trainer.resume, init.from, evaluate.py and predict."""

    def evaluated(place: Path) -> None:
        evaluate(EvaluateConfig(run=str(place), device="cpu", progress=False))

    def resumed(place: str) -> None:
        script.stored_run(place, Path(place))

    calls = {resumed: "last.pt", evaluated: "best.pt", load: "best.pt", initial_weights: "best.pt"}
    for place in damaged_files(run, tmp_path):
        for call, file in calls.items():
            with pytest.raises(ValueError, match=rf"^(init\.from: )?{place}/{file}: [^\n]*$"):
                call(str(place))


@pytest.mark.parametrize("model", [GONE, None, [1], "x", 3, {"pixel_mean": 3, "pixel_std": [1]}])
def test_a_new_run_needs_no_configuration_of_its_weights(model, run):
    """It takes their names and shapes; pixel values are compared where they are there."""
    stored = ckpt.from_content(Path("x"), changed(content_of(run), ["config", "model"], model))
    names = run.task.class_names
    assert start_from(run.task.module, stored, run.config, names)[0].startswith("weights of x: ")
