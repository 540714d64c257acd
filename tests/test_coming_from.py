"""docs/coming-from.md: every command of ours runs, and every setting that it names exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from detectors.config.composing import composed
from detectors.config.schema import CONF
from tests.forked import PROJECT, run_commands
from tests.page_commands import page_commands
from tests.page_files import NARROW, write_named_files

PAGE = (PROJECT / "docs" / "coming-from.md").read_text()
# What makes a training short, for all commands but those whose settings come from a checkpoint.
SMALL = [
    "debug=fast",
    "trainer.steps=2",
    "trainer.batch_size=2",
    "trainer.accumulate=1",
    "trainer.eval_every=0",
    "input.multi_scale.min=0",
    "input.multi_scale.max=0",
    "data.workers=0",
    NARROW,
]
NARROW_FILES = {"darknet19_448.conv.23", "yolov2.cfg", "vgg16_reducedfc.pth", "ssd300_mAP_77.43_v2.pth"}
ALL = ["trainer.progress=false", "trainer.device=cpu"]


def detectors_commands() -> list[list[str]]:
    """The arguments of `detectors` in every code block of the page, in order."""
    commands = []
    for command in page_commands("coming-from.md"):
        program, *words = command.words
        assert program == "detectors" or words[0] in ("train.py", "evaluate.py"), command.line
        commands.append([words[0].removesuffix(".py"), *words[1:]])
    return commands


def small(number: int, arguments: list[str], folder: Path) -> list[str]:
    """Command `number` of the page with the test's paths, network and length."""
    arguments = [argument.replace("/my/", f"{folder}/my/") for argument in arguments]
    verb = arguments[0]
    if verb == "train" and any(argument.startswith("trainer.resume=") for argument in arguments):
        return [*arguments, *ALL, "trainer.steps=3"]
    if verb == "train":
        return [*arguments, *SMALL, *ALL, f"hydra.run.dir={folder}/outputs/{number}"]
    if verb == "evaluate":
        return [*arguments, "device=cpu", "progress=false"]
    if verb == "convert" and NARROW_FILES & set(arguments):
        return [*arguments, NARROW]
    return arguments


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The files that the commands of the page name, and a trained and evaluated RUN."""
    folder = write_named_files(tmp_path_factory.mktemp("coming"))
    data = ["data=voc", f"data.root={folder}/my/voc"]
    prepared = [
        ["train", "model=yolov2_160", *data, *SMALL, *ALL, f"hydra.run.dir={folder}/RUN"],
        ["evaluate", "run=RUN", "progress=false"],
    ]
    for arguments, (status, output) in zip(prepared, run_commands(prepared, folder), strict=True):
        assert status == 0, f"{arguments}\n{output}"
    return folder


def trains_alone(arguments: list[str]) -> bool:
    """A training that reads no file of another program and no run: only its settings are the page's."""
    starts = ("trainer.resume=", "init.from=")
    return arguments[0] == "train" and not any(argument.startswith(starts) for argument in arguments)


def run_page(folder: Path, *, alone: bool) -> int:
    """Runs the commands of the page, in order. Returns how many."""
    commands = [
        (small(number, arguments, folder), arguments)
        for number, arguments in enumerate(detectors_commands())
        if trains_alone(arguments) == alone
    ]
    results = run_commands([command for command, _ in commands], folder, DETECTORS_DATA=str(folder / "data"))
    failed = [
        f"detectors {shlex.join(arguments)}\n{output}"
        for (_, arguments), (status, output) in zip(commands, results, strict=True)
        if status
    ]
    assert not failed, "\n\n".join(failed)
    return len(commands)


def test_every_command_of_ours_runs(folder):
    """But trainings of which only the settings are the page's, which tests/test_page_commands.py checks."""
    assert run_page(folder, alone=False) >= 30


@pytest.mark.slow
def test_every_training_of_ours_runs(folder):
    assert run_page(folder, alone=True) >= 10


def test_every_setting_of_ours_exists():
    """`trainer.steps` and `data.class_names=[cat,dog]` are settings, `optimizer=adamw` is a choice."""
    configs = [
        composed(["model=yolov2", "augment=darknet", "optimizer=sgd", "data=coco", "data.root=x"]),
        composed(["model=ssd300", "augment=ssd", "optimizer=sgd"]),
    ]
    groups = {group for group, value in configs[0].items() if isinstance(value, dict)}
    named = re.findall(r"`([a-z]+)\.([a-z_.]+)(?:=[^`]*)?`", PAGE)
    settings = [(group, key) for group, key in named if group in groups]
    assert len(settings) > 100
    absent = [place for place in settings if not any(is_set(config, *place) for config in configs)]
    tables = [line.split("|")[-2] for line in PAGE.splitlines() if line.startswith("|")]
    ours = "\n".join([*tables, *(f" {' '.join(arguments)}" for arguments in detectors_commands())])
    chosen = re.findall(r"(?:`| )([a-z]+)=([a-z0-9_]+)\b(?!/)", ours)
    choices = [f"{group}/{name}" for group, name in chosen if (CONF / group).is_dir()]
    assert len(choices) > 40
    absent += [choice for choice in choices if not (CONF / f"{choice}.yaml").is_file()]
    assert not absent


def is_set(config: dict, group: str, key: str) -> bool:
    for part in (group, *key.split(".")):
        if not isinstance(config, dict) or part not in config:
            return False
        config = config[part]
    return True
