"""A multirun: a failed job is a failed trial, the others go on, and the end says which failed and why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig

from detectors.config.check import check
from detectors.config.entry import entry_point
from detectors.config.multirun import SweepNote
from detectors.config.schema import CONF

PROJECT = Path(__file__).resolve().parents[2]


def seed_as_metric(cfg) -> float | None:
    """A training that takes no time: wrong settings are refused, seed 7 is a bug, seed 9 measures nothing."""
    config = check(cfg)
    (Path(HydraConfig.get().runtime.output_dir) / "last.pt").touch()
    if config.seed == 7:
        raise KeyError("a bug")
    return None if config.seed == 9 else config.seed / 10


@pytest.fixture
def sweep(monkeypatch, tmp_path, capfd):
    """Exit status, stdout and stderr of `train.py -m ARGUMENTS` with the task above."""
    monkeypatch.setattr(SweepNote, "file", None)
    monkeypatch.setattr(SweepNote, "start", 0)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    folders = [f"hydra.sweep.dir={tmp_path / 'sweep'}", "hydra.sweep.subdir=${hydra.job.num}"]

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments, *folders])
        status = 0
        try:
            entry_point("train", config_path=str(CONF))(seed_as_metric)()
        except SystemExit as stop:
            status = stop.code
        return status, *capfd.readouterr()

    return run


def folders(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir() if path.is_dir())


def test_the_others_go_on_and_the_table_says_what_failed(sweep, tmp_path):
    status, out, error = sweep("-m", "seed=1,-2,7,9", "trainer.steps=500")
    place = tmp_path / "sweep"
    assert (status, "#3 : seed=9 trainer.steps=500" in out) == (2, True)
    assert error.startswith("error: the configuration has 1 problem:\n  seed=-2: must be 0 or more\n")
    assert error.count("Traceback") == 1  # of the bug
    assert error.splitlines()[-6:] == [
        f"2 jobs done, 2 failed; {place}/jobs.jsonl",
        "job  settings  result",
        "0    seed=1    0.1000",
        "1    seed=-2   failed: the configuration has 1 problem: seed=-2: must be 0 or more",
        "2    seed=7    failed: KeyError: 'a bug'",
        "3    seed=9    -",
    ]
    assert folders(place) == ["0", "2", "3"]  # a refused job leaves none
    rows = [json.loads(line) for line in (place / "jobs.jsonl").read_text().splitlines()]
    assert rows[0] == {
        "job": 0,
        "overrides": ["seed=1", "trainer.steps=500"],
        "folder": str(place / "0"),
        "value": 0.1,
    }
    assert rows[1]["error"] == "the configuration has 1 problem:\n  seed=-2: must be 0 or more"


def test_without_a_failure_the_table_stands_on_stdout(sweep, tmp_path):
    """And tells of this multirun alone, and removes nothing of an earlier one in the same folder."""
    assert sweep("-m", "seed=1,-2")[0] == 2
    status, out, error = sweep("-m", "seed=3", "model=yolov2_160,ssd160")
    assert (status, error) == (0, "")
    assert out.splitlines()[-4:] == [
        f"2 jobs done, 0 failed; {tmp_path}/sweep/jobs.jsonl",
        "job  settings          result",
        "0    model=yolov2_160  0.3000",
        "1    model=ssd160      0.3000",
    ]
    status, _, error = sweep("-m", "seed=-1,-2")
    assert error.splitlines()[-3].startswith("job")
    assert folders(tmp_path / "sweep") == ["0", "1"]  # refused, but they hold the checkpoints of before


def test_a_wrong_choice_is_refused_before_the_first_job(sweep, tmp_path):
    status, _, error = sweep("-m", "model=yolov2_160,ssd30")
    assert status == 2
    assert error.startswith("error: model=ssd30: there is no such choice; did you mean ssd300?\n")
    assert folders(tmp_path / "sweep") == []


def test_a_launcher_that_is_not_installed(sweep):
    fix = "it comes with: pip install 'detectors[submitit]'"
    error = sweep("-m", "hydra/launcher=submitit_slurm")[2]
    assert error.splitlines()[0] == f"error: hydra/launcher=submitit_slurm: there is no such choice; {fix}"


@pytest.mark.slow
def test_several_jobs_at_once(tmp_path):
    """Through joblib's launcher, in processes of their own: the same record, table and removed folder."""
    small = [
        "debug=fast",
        "data.shapes.train=8",
        "data.shapes.val=4",
        "model.width=0.05",
        "trainer.threads=1",
    ]
    command = [sys.executable, str(PROJECT / "train.py"), "-m", "seed=0,-1,1", *small, "trainer.device=cpu"]
    command += ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.subdir=${hydra.job.num}"]
    command += [f"hydra.sweep.dir={tmp_path / 'sweep'}", f"paths.cache={tmp_path / 'cache'}"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 2
    assert f"2 jobs done, 1 failed; {tmp_path}/sweep/jobs.jsonl" in done.stderr
    assert folders(tmp_path / "sweep") == ["0", "2"]
