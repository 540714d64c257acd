"""A mistake on the command line gives one readable message and status 2; HYDRA_FULL_ERROR=1 gives the
traceback.
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.errors import ConfigCompositionException

from detectors.__main__ import main
from detectors.config.check import ConfigError, check
from detectors.config.entry import entry_point, message

PROJECT = Path(__file__).resolve().parents[2]
CONF = str(PROJECT / "conf")


def run(capfd, monkeypatch, task, *arguments: str, full_error: str = "0") -> tuple[int, str]:
    """Status and stderr of a program whose main is `task`, in this process."""
    quiet = (
        "hydra/job_logging=none",
        "hydra/hydra_logging=none",
        "hydra.run.dir=.",
        "hydra.output_subdir=null",
    )
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments, *quiet])
    monkeypatch.setenv("HYDRA_FULL_ERROR", full_error)
    status = 0
    try:
        entry_point("train", config_path=CONF)(task)()
    except SystemExit as stop:
        status = stop.code
    return status, capfd.readouterr().err


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("trainer.stpes=3", "trainer.stpes=3: there is no such setting; did you mean trainer.steps?"),
        ("+trainer.foo=1", "trainer.foo=1: there is no such setting; there are: steps, "),
        ("++trainer.stpes=1", "trainer.stpes=1: there is no such setting; did you mean trainer.steps?"),
        ("trainer.steps=many", "trainer.steps=many: must be a whole number"),
        ("trainer.threads=null", "trainer.threads=null: must be a whole number"),
        ("input.size=[300,a]", "input.size=[300, 'a']: must be a list whose items are each a whole number"),
        ("traner=demo", "traner=demo: there is no such setting; did you mean trainer?"),
        (
            "model=ssd30",
            "model=ssd30: there is no such choice; did you mean ssd300?\n  choices of model: classifier, ",
        ),
        ("model.widht=2", "model.widht=2: there is no such setting; did you mean model.width?"),
        (
            "model.loss=2",
            "model.loss=2: there is no such setting; detectors.models.yolov2.yolov2_tiny knows it, "
            "so add it with +model.loss=...",
        ),
        ("trainer.steps.x=2", "trainer.steps.x=2: "),
        (
            "data.class_names=vélo",
            "data.class_names=vélo: not of the form group.key=value "
            "(it has a character that must be quoted); "
            "quote special characters: 'data.class_names=\"vélo\"'",
        ),
        ("trainer.steps", "trainer.steps: not of the form group.key=value (missing EQUAL"),
        ("loss=multibox", "yolov2_tiny is trained with RegionLoss; set loss=region"),
        ("trainer.steps=${nowhere}", "trainer.steps: Interpolation key 'nowhere' not found"),
    ],
)
def test_message(capfd, monkeypatch, tmp_path, override, text):
    monkeypatch.chdir(tmp_path)
    status, told = run(capfd, monkeypatch, check, override)
    assert status == 2
    assert text in told
    assert told.startswith("error: ")
    assert told.endswith("(HYDRA_FULL_ERROR=1 shows where in the code this came up)\n")
    assert "Traceback" not in told
    assert os.environ["HYDRA_FULL_ERROR"] == "0"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            "# caf\N{LATIN SMALL LETTER E WITH ACUTE}\n",
            "experiment/mine.yaml: it is not UTF-8 text (line 2 has the byte 0xe9); save it as UTF-8",
        ),
        (
            "trainer:\n  stpes: 3\n",
            "experiment/mine.yaml: trainer.stpes: there is no such setting; did you mean trainer.steps?",
        ),
        ("trainer:\n  steps: many\n", "experiment/mine.yaml: trainer.steps: must be a whole number"),
        ("trainer: {\n", "mine.yaml"),
    ],
)
def test_mistakes_in_a_yaml_name_the_file(capfd, monkeypatch, tmp_path, content, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{content}", "latin-1")
    status, told = run(capfd, monkeypatch, check, f"--config-dir={tmp_path}", "experiment=mine")
    assert status == 2
    assert text in told


@pytest.mark.parametrize("first", ["defaults:\n  - override /data: voc\n", "trainer:\n  steps: 3\n"])
def test_a_byte_order_mark_is_named(capfd, monkeypatch, tmp_path, first):
    """Some editors write one. Behind it, Hydra does not see where the settings belong."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiment").mkdir()
    path = tmp_path / "experiment" / "mine.yaml"
    path.write_text(f"# @package _global_\n{first}", "utf-8-sig")
    status, told = run(capfd, monkeypatch, check, f"--config-dir={tmp_path}", "experiment=mine")
    assert status == 2
    assert f"{path}: it begins with a byte order mark, which hides its first line" in told


@pytest.mark.parametrize(
    "error",
    [ValueError("bad.xml: no box"), FileNotFoundError("no such folder"), FloatingPointError("step 3")],
)
def test_errors_of_the_run_are_told_once(capfd, monkeypatch, tmp_path, error):
    def task(cfg):
        raise error

    monkeypatch.chdir(tmp_path)
    status, told = run(capfd, monkeypatch, task)
    assert (status, told) == (
        2,
        f"error: {error}\n(HYDRA_FULL_ERROR=1 shows where in the code this came up)\n",
    )


def test_ctrl_c_before_anything_is_saved_is_one_line(capfd, monkeypatch, tmp_path):
    """While PyTorch is imported, for instance. The new run's folder, which holds nothing, is removed."""

    def task(cfg):
        assert Path("new/.hydra/config.yaml").is_file()
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    own = ["hydra.run.dir=new", "hydra.output_subdir=.hydra"]
    monkeypatch.setattr(sys, "argv", ["train.py", *own, "hydra/hydra_logging=none"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    with pytest.raises(SystemExit) as stop:
        entry_point("train", config_path=CONF)(task)()
    assert (stop.value.code, capfd.readouterr().err) == (130, "interrupted\n")
    assert not Path("new").exists()


def test_ctrl_c_while_a_verb_is_imported_is_one_line(capfd, monkeypatch):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr("detectors.__main__.import_module", interrupted)
    with pytest.raises(SystemExit, match="130"):
        main(["lint"])
    assert capfd.readouterr().err == "interrupted\n"


def test_a_folder_that_cannot_be_written_to_and_a_full_disk_are_one_line():
    assert message(PermissionError(13, "Permission denied", "/data/run")) == "/data/run: Permission denied"
    assert message(OSError(28, "No space left on device")) == "No space left on device"


def test_an_error_message_keeps_its_lines_and_no_other_control_character(capfd, monkeypatch, tmp_path):
    def task(cfg):
        raise ValueError("a.xml: no class cat\x1b[2K\n  b.xml")

    monkeypatch.chdir(tmp_path)
    status, told = run(capfd, monkeypatch, task)
    assert (status, told.splitlines()[:2]) == (2, [r"error: a.xml: no class cat\x1b[2K", "  b.xml"])


def test_our_own_mistakes_keep_their_traceback(capfd, monkeypatch, tmp_path):
    def task(cfg):
        raise TypeError("a bug")

    monkeypatch.chdir(tmp_path)
    with pytest.raises(TypeError, match="a bug"):
        run(capfd, monkeypatch, task)


def test_a_good_run_returns(capfd, monkeypatch, tmp_path):
    seen = []
    monkeypatch.chdir(tmp_path)
    assert run(capfd, monkeypatch, seen.append) == (0, "")
    assert check(seen[0]).name == "yolov2_160"


def test_full_error_shows_the_traceback(capfd, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigCompositionException):
        run(capfd, monkeypatch, check, "trainer.stpes=3", full_error="1")
    with pytest.raises(ConfigError):
        run(capfd, monkeypatch, check, "+trainer.foo=3", full_error="1")


@pytest.mark.parametrize(
    ("flag", "text"), [("--help", "model: classifier,"), ("--cfg=job", "trainer:\n  steps: 1000\n")]
)
def test_what_can_be_set_is_shown(capfd, monkeypatch, flag, text):
    monkeypatch.setattr(sys, "argv", ["train.py", flag])
    with contextlib.suppress(SystemExit):  # --help leaves so
        entry_point("train", config_path=CONF)(check)()
    assert text in capfd.readouterr().out


def test_train_py_itself(tmp_path):
    command = [sys.executable, str(PROJECT / "train.py"), f"hydra.run.dir={tmp_path}", "trainer.stpes=3"]
    environment = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}
    told = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.startswith(
        "error: trainer.stpes=3: there is no such setting; did you mean trainer.steps?\n"
    )
    assert told.stderr.count("\n") == 2
