"""The batch script docs/slurm.sh: bash accepts it, and it saves, queues again and ends as it says."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from detectors.config.composing import composed

SCRIPT = Path(__file__).parents[1] / "docs" / "slurm.sh"
OPTIONS = {
    "job-name",
    "gpus",
    "cpus-per-task",
    "time",
    "signal",
    "requeue",
    "open-mode",
    "output",
}  # of sbatch
# In place of train.py: it notes its arguments, saves on SIGUSR1 and ends with the status of a stopped run.
TRAINING = """#!/bin/bash
trap 'echo saved >> "$PLACE/calls"; exit 130' USR1
echo "$@" >> "$PLACE/calls"
[ -e "$PLACE/short" ] && exit "$(cat "$PLACE/short")"
for _ in $(seq 200); do sleep 0.05; done
"""
SCONTROL = """#!/bin/bash
echo "scontrol $@" >> "$PLACE/calls"
"""


@pytest.fixture
def script(tmp_path) -> Path:
    (tmp_path / "job.sh").write_text(SCRIPT.read_text())
    for name, text in (("python", TRAINING), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path / "job.sh"


def start(script: Path) -> subprocess.Popen:
    place = script.parent
    path = f"{place}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PLACE": str(place), "SLURM_JOB_ID": "41"}
    return subprocess.Popen(["bash", str(script)], env=environment, cwd=place)


def calls(script: Path) -> list[str]:
    file = script.parent / "calls"
    return file.read_text().splitlines() if file.exists() else []


def test_bash_accepts_it(script):
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0


def test_its_options_and_settings_exist():
    """What it asks of SLURM stands before the first command, or sbatch would ignore it."""
    lines = SCRIPT.read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    assert not [line for line in lines[first:] if line.startswith("#SBATCH")]
    asked = dict(re.fullmatch(r"#SBATCH --([a-z-]+)=?(.*)", line).groups() for line in lines[1:first] if line)
    assert asked.keys() == OPTIONS
    assert asked["signal"] == "B:USR1@120"
    command = re.search(r"python train\.py (.*?) &", SCRIPT.read_text(), re.DOTALL)[1].replace("\\\n", " ")
    words = [word for word in shlex.split(command) if not word.startswith("hydra.run.dir=")]
    config = composed([word for word in words if word != "trainer.resume=auto"])
    assert config["data"]["workers"] == int(asked["cpus-per-task"])


def test_before_the_time_limit_it_saves_and_queues_again(script):
    job = start(script)
    while not calls(script):
        time.sleep(0.02)
    while job.poll() is None:  # the script may not have noted the training's number yet
        job.send_signal(signal.SIGUSR1)
        time.sleep(0.2)
    assert job.wait(timeout=20) == 130
    arguments, *rest = calls(script)
    assert arguments.split()[0] == "train.py"
    assert {"hydra.run.dir=outputs/slurm/41", "trainer.resume=auto"} <= set(arguments.split())
    assert rest == ["saved", "scontrol requeue 41"]


@pytest.mark.parametrize("status", [0, 2])
def test_a_training_that_ends_by_itself_is_not_queued_again(script, status):
    (script.parent / "short").write_text(str(status))
    assert start(script).wait(timeout=20) == status
    assert len(calls(script)) == 1
