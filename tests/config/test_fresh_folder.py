"""A refused run leaves no folder, and nothing else is ever removed."""

import sys
from pathlib import Path

import pytest

from detectors.config.check import check
from detectors.config.entry import entry_point
from detectors.config.schema import CONF


def run(monkeypatch, task, folder: Path, *arguments: str) -> int:
    """Exit status of train.py with this task, with Hydra's files and log as they are."""
    monkeypatch.setattr(sys, "argv", ["train.py", f"hydra.run.dir={folder}", *arguments])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    with pytest.raises(SystemExit) as ended:
        entry_point("train", config_path=str(CONF))(task)()
    return ended.value.code


def refused(cfg):
    check(cfg)
    raise ValueError("no images")


def test_a_refused_run_leaves_no_folder(monkeypatch, tmp_path, capsys):
    kept = tmp_path / "runs"
    kept.mkdir()
    for arguments in (["seed=-1"], [], ["trainer.device=gpu"]):  # a wrong setting; data that cannot be read
        assert run(monkeypatch, refused, kept / "new", *arguments) == 2
        assert list(kept.iterdir()) == []
    assert "error: no images" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["last.pt", ".hydra/notes.txt", "tensors/a", "empty/"])
def test_a_folder_with_anything_else_stays(content, monkeypatch, tmp_path, capsys):
    folder = tmp_path / "run"

    def task(cfg):
        place = folder / content
        place.parent.mkdir(exist_ok=True)
        place.mkdir() if content.endswith("/") else place.touch()
        raise ValueError("after something was written")

    assert run(monkeypatch, task, folder) == 2
    assert (folder / content).exists()
    assert (folder / ".hydra" / "config.yaml").exists()


def test_a_folder_that_was_there_stays(monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, refused, tmp_path) == 2
    assert tmp_path.exists()
