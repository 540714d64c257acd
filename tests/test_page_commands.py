"""Every command of README.md and docs/ is one that its program takes: settings are checked, options parsed.

tests/test_page_runs.py runs them.
"""

from __future__ import annotations

import re
import tomllib
from importlib import import_module
from importlib.util import find_spec

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from detectors.__main__ import VERBS
from detectors.commands.benchmark.command import SUBJECTS
from detectors.commands.download.command import select_sources
from detectors.commands.download.sources import SOURCES
from detectors.config.check import check
from detectors.config.composing import HYDRA_PROGRAMS, composed, prepared
from detectors.config.entry import message
from detectors.config.habits import HYDRA_OPTIONS
from detectors.config.schema import CONF
from tests.forked import PROJECT
from tests.page_commands import PageCommand, page_commands, pages
from tests.test_configs import composed as composed_node

# What needs files that are not ours, or a package that the tests do not have: the reason.
NOT_COMPOSED = {
    "python train.py --config-dir conf_of_mine model=lite_voc data=voc data.root=VOC2012 "
    "'data.class_names=[cat,cow,dog,horse,sheep,person]' data.on_error=skip 'data.val=[test_half]' "
    "init.from=lite.weights trainer.steps=150 schedule.warmup_steps=30 trainer.batch_size=8 "
    "trainer.eval_every=0 optimizer.rate=0.0001 loss.prior_images=0 "
    "'trainer.freeze=[backbone.*.norm]' seed=0": "a yaml of the reader's",
    "python train.py --config-dir conf_of_mine model=lite_voc data=bccd init.from=lite.weights "
    "trainer.steps=150 schedule.warmup_steps=30 trainer.batch_size=8 trainer.eval_every=0 "
    "optimizer.rate=0.003 loss.prior_images=0 seed=0": "same",
    "python train.py --config-dir . model=retina 'builders=[retina.retinanet,retina.FocalLoss]' "
    "hydra.run.dir=runs/retina": "tests/test_adding_a_detector.py runs it",
    "python evaluate.py run=runs/retina 'builders=[retina.retinanet,retina.FocalLoss]'": "same",
    "detectors predict runs/retina image.jpg --builder retina.retinanet --builder retina.FocalLoss": "same",
    "python train.py -m experiment=ssd300_voc0712 seed=0,1,2 hydra/launcher=submitit_slurm "
    "hydra.sweep.dir=outputs/multirun/seeds 'hydra.sweep.subdir=${hydra.job.num}' trainer.resume=auto "
    "hydra.launcher.partition=gpu hydra.launcher.gpus_per_node=1 hydra.launcher.cpus_per_task=8 "
    "hydra.launcher.timeout_min=720 data.workers=8": "the extra submitit",
    "python train.py experiment=yolo9000_coco_imagenet": "Darknet's 9k.tree",
    "python train.py experiment=darknet9000": "same",
}
OPTIONS_ELSEWHERE = ("benchmark", "download")  # verbs without an options.py
COMMANDS = [command for page in pages() for command in page_commands(page)]


def hydra_words(command: PageCommand) -> tuple[str, list[str]] | None:
    """(train or evaluate, what follows), whatever starts the program; None for another command."""
    for number, word in enumerate(command.words):
        if word in ("train.py", "evaluate.py"):
            return word.removesuffix(".py"), list(command.words[number + 1 :])
    if command.words[0] == "detectors" and command.words[1] in HYDRA_PROGRAMS:
        return command.words[1], list(command.words[2:])
    return None


def jobs(overrides: list[str]) -> list[list[str]]:
    """The settings of a multirun's first and last job; of a single run, its own."""
    parser = OverridesParser.create()
    values = [
        [f"{parsed.input_line.partition('=')[0]}={value}" for value in parsed.sweep_string_iterator()]
        if parsed.is_sweep_override()
        else [parsed.input_line]
        for parsed in parser.parse_overrides(overrides)
    ]
    first, last = ([options[place] for options in values] for place in (0, -1))
    return [first] if first == last else [first, last]


def check_settings(program: str, words: list[str]) -> None:
    words = [re.sub(r"^(.*=)latest$", r"\1RUN", word).replace("${hydra:job.num}", "0") for word in words]
    overrides = prepared(words, program)
    while overrides and (option := overrides[0].partition("=")[0]) in HYDRA_OPTIONS:
        overrides = overrides[1 + HYDRA_OPTIONS[option] :]
    for settings in jobs(overrides):
        check(composed_node(*settings, config_name=program), HYDRA_PROGRAMS[program].schema)


def check_verb(verb: str, words: list[str]) -> None:
    if verb == "benchmark":
        assert words[0] in SUBJECTS
    if verb == "download":
        assert select_sources([word for word in words if "=" not in word], SOURCES)
    package = f"detectors.commands.{VERBS[verb][0].partition('.')[0]}"
    if find_spec(f"{package}.options") is None:
        assert verb in OPTIONS_ELSEWHERE
        return
    args = import_module(f"{package}.options").options(words)
    overrides = [word for word in getattr(args, "overrides", []) if "=" in word]
    if verb == "duel":
        overrides.append(f"data={args.data}")
    if verb == "receptive-field" and (CONF / "model" / f"{args.place}.yaml").exists():
        overrides.append(f"model={args.place}")
    if overrides:
        check(composed(overrides))


def check_other(words: tuple[str, ...]) -> None:
    program, *rest = words
    if program == "make":
        (targets,) = re.findall(r"^\.PHONY: (.*)$", (PROJECT / "Makefile").read_text(), re.MULTILINE)
        assert rest[0] in targets.split()
    elif program == "pip":
        extras = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        named = [name for word in rest for name in re.findall(r"\[(.*)\]$", word)]
        assert rest[0] == "install" and set(named) <= set(extras)
    elif rest[:2] == ["-m", "pytest"]:
        assert all((PROJECT / word).exists() for word in rest if word.startswith("tests/"))
    elif program == "python":
        assert rest[0] == "-c" and compile(rest[1], "page", "exec")
    elif program == "sbatch":
        assert (PROJECT / rest[-1]).is_file()
    elif program == "docker" and rest[0] == "build":
        assert (PROJECT / rest[rest.index("-f") + 1]).is_file()
    elif program == "docker":
        check_settings(*rest[rest.index("detectors") + 1 :][:1], rest[rest.index("detectors") + 2 :])
    else:
        assert program == "tensorboard"


@pytest.mark.parametrize("page", pages())
def test_every_command_is_understood(page):
    for command in page_commands(page):
        if command.is_usage or command.line in NOT_COMPOSED or "&" in command.words:
            continue
        hydra = hydra_words(command)
        if hydra is not None and command.answer.startswith("error: "):
            with pytest.raises(Exception) as error:
                check_settings(*hydra)
            assert f"error: {message(error.value)}".splitlines()[0] == command.answer
        elif hydra is not None:
            check_settings(*hydra)
        elif command.words[0] == "detectors":
            check_verb(command.words[1], list(command.words[2:]))
        else:
            check_other(command.words)


def test_usage_lines_name_verbs():
    usages = [command.words for command in COMMANDS if command.is_usage]
    assert len(usages) == 7
    assert all(words[0] == "python" or words[1] in VERBS for words in usages)


def test_every_exception_is_still_on_a_page():
    assert set(NOT_COMPOSED) - {command.line for command in COMMANDS} == set()
