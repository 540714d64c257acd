"""A multirun: a failed job is a failed trial, the others go on, and the end says which failed and why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from detectors.config.check import check
from detectors.config.composing import prepared
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
    assert out.splitlines()[-5:] == [
        f"2 jobs done, 0 failed; {tmp_path}/sweep/jobs.jsonl",
        "job  settings          result",
        "0    model=yolov2_160  0.3000",
        "1    model=ssd160      0.3000",
        f"to compare them: detectors compare {tmp_path}/sweep",
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


def test_the_folders_are_named_by_what_differs(monkeypatch, tmp_path, capfd):
    """Settings that all jobs share, brackets and folders do not appear; a shell and Hydra take the names."""
    monkeypatch.setattr(SweepNote, "start", 0)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    long = f"x{'y' * 300}"
    swept = ["input.size=[160,320],[64,64]", f"data.root='/a b/c=d/',\"/{long}\""]
    common = [
        "model=ssd160",
        "trainer.steps=7",
        "paths.cache=${paths.data}",
        "seed=3",
        "+data.test=[a]",
        f"paths.output={tmp_path}",
    ]
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", *swept, *common])
    entry_point("train", config_path=str(CONF))(lambda cfg: None)()
    (sweep,) = (tmp_path / "multirun").iterdir()
    assert sweep.name[19:] == "_size_root"
    names = sorted(path.name for path in sweep.iterdir() if path.is_dir())
    assert names[:2] == [
        "0_input.size=160-320_data.root=c-d",
        f"1_input.size=160-320_data.root={long[:60]}",
    ]
    assert len(names) == 4 and names[2] == "2_input.size=64-64_data.root=c-d"
    assert capfd.readouterr().out.splitlines()[-1] == f"to compare them: detectors compare {sweep}"
    place = f"{sweep}/{names[0]}"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert compose("evaluate", prepared([f"run={place}"], "evaluate")).run == place
    record = (Path(place) / ".hydra/overrides.yaml").read_text()
    assert "hydra" not in record and "trainer.steps=7" in record


def test_multiruns_of_the_same_second_have_folders_of_their_own(monkeypatch, tmp_path):
    """And their jobs write there. What an experiment sweeps names them, too."""
    monkeypatch.setattr(SweepNote, "start", 0)
    monkeypatch.setattr("hydra.core.utils.datetime", SimpleNamespace(now=lambda: datetime(2026, 1, 2)))
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "experiment=duel", f"paths.output={tmp_path}"])
    taken = tmp_path / "multirun/2026-01-02_00-00-00_model_seed"
    taken.mkdir(parents=True)
    entry_point("train", config_path=str(CONF))(lambda cfg: None)()
    assert list(taken.iterdir()) == []
    assert (taken.with_name(f"{taken.name}_2") / "0_model=yolov2_160_seed=0/.hydra").is_dir()
    assert len(list((tmp_path / "multirun").glob("*/*/.hydra"))) == 6


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
