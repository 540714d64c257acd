"""A configuration from somebody else can build the listed builders and call nothing else."""

from __future__ import annotations

import builtins
import importlib
import os
import pkgutil
import shutil
import socket
import subprocess
from collections.abc import Iterator

import pytest

import detectors
from detectors.config import build
from detectors.config.check import ConfigError, check
from detectors.config.composing import composed
from detectors.training import checkpoint as ckpt

BUILDERS = {
    "model": {
        "detectors.models.yolov2.yolov2",
        "detectors.models.yolov2.yolov2_tiny",
        "detectors.models.yolo9000.yolo9000",
        "detectors.models.ssd.ssd160",
        "detectors.models.ssd.ssd300",
        "detectors.models.ssd.ssd512",
        "detectors.darknet.cfg_detector.darknet_detector",
        "detectors.models.darknet19.darknet19",
        *(f"detectors.models.classifiers.{name}" for name in ("first_network", "vgg16_classifier")),
        "detectors.models.classifiers.backbone_classifier",
        "detectors.models.classifiers.torchvision_classifier",
    },
    "loss": {
        "detectors.losses.region_loss.RegionLoss",
        "detectors.losses.multibox_loss.MultiBoxLoss",
        "detectors.losses.cross_entropy.CrossEntropyLoss",
    },
    "augment": {
        f"detectors.data.augment.transforms.{name}_augmentation"
        for name in ("no", "light", "ssd", "darknet", "darknet_2016", "course")
    }
    | {
        f"detectors.data.augment.classifier_augmentations.{name}_augmentation"
        for name in ("darknet_classifier", "small_turn")
    },
    "optimizer": {f"detectors.training.optim.{name}" for name in ("sgd", "adamw", "torch_optimizer")},
}


def candidates() -> Iterator[str]:
    """Every callable that any module of the package defines or imports, by its dotted name there."""
    for info in pkgutil.walk_packages(detectors.__path__, "detectors."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        yield from (f"{info.name}.{name}" for name, value in vars(module).items() if callable(value))


def set_traps(monkeypatch) -> None:
    """From here on, touching a file, a folder, a process or a socket fails the test, and so does importing
    others' code.
    """

    def trap(*args, **kwargs):
        pytest.fail("something was called")  # no Exception, so that nothing can catch it

    files = ("open", "remove", "unlink", "rename", "replace", "rmdir", "mkdir", "makedirs", "system", "kill")
    for module, names in (
        (builtins, ("open",)),
        (os, files),
        (shutil, ("rmtree", "copy", "copyfile", "move")),
        (subprocess, ("Popen", "run", "call", "check_output")),
        (socket, ("socket", "create_connection")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, trap)
    original = build.import_module

    def import_own(name: str):
        if not name.startswith("detectors."):
            pytest.fail(f"{name} was imported")
        return original(name)

    monkeypatch.setattr(build, "import_module", import_own)


@pytest.fixture(scope="module")
def targets() -> list[str]:
    return sorted(set(candidates()))


@pytest.fixture(scope="module")
def stored() -> dict:
    """A configuration as a checkpoint holds it; checked once, so that all that it needs is imported."""
    configuration = composed([])
    check(configuration)
    return configuration


def test_only_the_listed_builders_are_accepted(stored, targets, monkeypatch):
    """Each callable as `_target_` of every group of a stored configuration; none of them is called.

    The configuration has these groups only, for speed: the defaults stand in for the others.
    """
    assert len(targets) > 1000
    set_traps(monkeypatch)
    accepted: dict[str, set[str]] = {group: set() for group in BUILDERS}
    for target in targets:
        for group in accepting_groups({group: {"_target_": target} for group in BUILDERS}, target):
            accepted[group].add(target)
    assert accepted == BUILDERS


@pytest.mark.slow
def test_only_the_listed_builders_are_accepted_on_the_command_line(stored, targets):
    """The same through Hydra, whose own files are read before the traps are set."""
    accepted: dict[str, set[str]] = {group: set() for group in BUILDERS}
    for target in targets:
        configuration = composed([f"{group}._target_={target}" for group in BUILDERS])
        with pytest.MonkeyPatch.context() as monkeypatch:
            set_traps(monkeypatch)
            for group in accepting_groups(configuration, target):
                accepted[group].add(target)
    assert accepted == BUILDERS


def accepting_groups(configuration: dict, target: str) -> list[str]:
    """The groups in which check() lets `target` pass; none lets it pass in all four."""
    with pytest.raises(ConfigError) as refusal:
        check(configuration)
    return [group for group in BUILDERS if f"{group}._target_={target!r}" not in str(refusal.value)]


@pytest.mark.parametrize(
    ("group", "target", "keywords"),
    [
        ("loss", "detectors.commands.download.unpack.clear_draft", {"draft": "folder"}),
        ("loss", "detectors.config.build.import_module", {"name": "payload"}),
        ("model", "detectors.commands.lint.command.main", {"arguments": ["data=shapes", "--json", "file"]}),
        ("model", "detectors.losses.region_loss.RegionLoss", {}),  # a builder of another group
        ("augment", "os.system", {"command": "true"}),
        ("optimizer", "detectors.training.optim.nn", {}),
        ("optimizer", "detectors.training.optim.parameter_groups", {"weight_decay": 0}),
    ],
)
def test_targets_that_did_harm_are_refused(group, target, keywords, stored, targets, monkeypatch):
    set_traps(monkeypatch)
    with pytest.raises(ConfigError, match=rf"{group}\._target_='{target}'"):
        check(stored | {group: {"_target_": target, **keywords}})


def test_the_command_line_meets_the_same_list():
    with pytest.raises(ConfigError, match=r"model\._target_='detectors\.models\.vgg\.ReducedVGG'"):
        check(composed(["model._target_=detectors.models.vgg.ReducedVGG"]))


def test_own_builders_come_from_the_command_line_and_not_from_a_checkpoint(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from detectors.training.optim import sgd\n"
        "def slow(module, *, rate: float):\n    return sgd(module, rate=rate / 10)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(build, "TRUSTED", set())
    stored = composed([]) | {"optimizer": {"_target_": "mine.slow", "rate": 0.1}, "builders": ["mine.slow"]}
    with pytest.raises(
        ConfigError, match=r"optimizer\._target_='mine\.slow'.*builders=\[\.\.\.\] on the command"
    ):
        check(stored)
    composed(["builders=[mine.slow]"])
    assert check(stored).optimizer["rate"] == 0.1


def test_a_stored_configuration_is_never_interpolated(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    config = composed([])
    config["name"] = "${oc.env:SECRET}"
    path = tmp_path / "last.pt"
    ckpt.save_checkpoint(ckpt.Checkpoint(path, 0, config, ("a",), {}, {}, {}, {}))
    with pytest.raises(
        ValueError, match=r"last\.pt: refused, because its configuration holds '\$\{oc\.env:SECRET\}'"
    ):
        ckpt.load_checkpoint(path)
