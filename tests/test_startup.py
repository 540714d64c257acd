"""What needs no tensor is answered before PyTorch, torchvision, albumentations and OpenCV are imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from detectors.__main__ import HYDRA, VERBS

PROJECT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "torchvision", "albumentations", "cv2")
# Runs a script of the project, then says on the last line of stdout which packages were imported.
RUNNER = f"""
import atexit, json, runpy, sys
atexit.register(lambda: print(json.dumps([name for name in {HEAVY} if name in sys.modules])))
script, *sys.argv = sys.argv[1], *sys.argv[1:]
sys.path.insert(0, {str(PROJECT)!r})
runpy.run_path(script, run_name="__main__")
"""


def answer(place: Path, script: str, *arguments: str, **environment: str) -> tuple[int, str, list[str]]:
    """Status, both streams, and the heavy packages that the process has imported."""
    names = {"HYDRA_FULL_ERROR", "RANK", "WORLD_SIZE", "LOCAL_RANK"}
    process = subprocess.run(
        [sys.executable, "-c", RUNNER, str(PROJECT / script), *arguments],
        capture_output=True,
        text=True,
        cwd=place,
        env={name: value for name, value in os.environ.items() if name not in names} | environment,
        check=False,
    )
    *lines, last = process.stdout.splitlines()
    return process.returncode, "\n".join([*lines, process.stderr]), json.loads(last)


@pytest.mark.parametrize(
    ("command", "status", "text"),
    [
        ("train.py --help", 0, "model: classifier,"),
        ("train.py --cfg job", 0, "trainer:\n  steps: 1000\n"),
        ("train.py --cfg job --resolve", 0, "trainer:\n  steps: 1000\n"),
        ("train.py --info config", 0, "steps: 1000"),
        ("train.py --hydra-help", 0, "--shell-completion"),
        ("train.py trainer.stpes=3", 2, "there is no such setting; did you mean trainer.steps?"),
        ("train.py model=yolov3", 2, "model=yolov3: there is no such choice; did you mean yolov2?"),
        ("train.py model.widht=3", 2, "there is no such setting; did you mean model.width?"),
        ("train.py model.loss=3", 2, "yolov2_tiny knows it, so add it with +model.loss=..."),
        ("train.py --epochs 3", 2, "there is no such option; did you mean trainer.epochs=3?"),
        ("evaluate.py --help", 0, "python evaluate.py run=FOLDER_OR_CHECKPOINT"),
        ("evaluate.py run=x splt=val", 2, "there is no such setting; did you mean split?"),
    ],
)
def test_what_hydra_answers(tmp_path, command, status, text):
    code, output, imported = answer(tmp_path, *command.split())
    assert (code, imported) == (status, [])
    assert text in output


@pytest.mark.parametrize(
    ("arguments", "problems"),
    [
        (["trainer.steps=-1"], ["trainer.steps=-1: must be 1 or more"]),
        (
            ["+optimizer.betaz=1", "model.width=wide", "schedule.warmup_steps=9999"],
            [
                "model.width='wide': must be a number",
                "optimizer.betaz=1: adamw has no such keyword; did you mean optimizer.betas?",
                "schedule.warmup_steps=9999: longer than the whole run, trainer.steps=1000; "
                "set schedule.warmup_steps=100, or more trainer.steps",
            ],
        ),
    ],
)
def test_what_the_settings_alone_show(tmp_path, arguments, problems):
    """All of it at once, also of the groups whose schema is a builder's signature. No folder is left."""
    run = tmp_path / "run"
    code, output, imported = answer(tmp_path, "train.py", *arguments, f"hydra.run.dir={run}")
    assert (code, imported) == (2, [])
    assert sorted(line[2:] for line in output.splitlines() if line.startswith("  ")) == sorted(problems)
    assert not run.exists()


def test_a_sweep_names_its_mistakes_first(tmp_path):
    code, output, imported = answer(
        tmp_path, "train.py", "-m", "trainer.steps=-1,-2", f"hydra.sweep.dir={tmp_path / 'sweep'}"
    )
    assert (code, imported) == (2, [])
    assert "0 jobs done, 2 failed" in output


def test_the_shell_completes_settings(tmp_path):
    code, output, imported = answer(
        tmp_path, "train.py", "-sc", "query=bash", COMP_LINE="python train.py trainer.ste"
    )
    assert (code, imported) == (0, [])
    assert "trainer.steps=" in output


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in HYDRA])
def test_each_verb_shows_its_options(tmp_path, verb):
    code, output, imported = answer(tmp_path, "detectors/__main__.py", verb, "--help")
    assert (code, imported) == (0, [])
    assert f"usage: detectors {verb}" in output


def test_wrong_options_are_refused(tmp_path):
    code, output, imported = answer(tmp_path, "detectors/__main__.py", "lint", "--workers", "-1")
    assert (code, imported) == (2, [])
    assert output.lstrip().startswith("error: --workers -1: must be 0 or more\n")
