"""train.log, through the command: it holds what the terminal showed, with or without a progress bar."""

from __future__ import annotations

import os
import pty
import re
import termios
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

FAST = ("debug=fast", "trainer.device=cpu", "trainer.threads=1", "data.shapes.train=12", "data.shapes.val=4")
SMALL = ("input.size=[96,96]", "data.shapes.size=96", "model.width=0.05")
STAMP = re.compile(r"^\[[-0-9]{10} [:,0-9]{12}\]\[([A-Z]+)\] ")


@pytest.fixture(scope="module")
def train(forks, tmp_path_factory):
    """The command's arguments -> status, stdout and stderr."""
    folder = tmp_path_factory.mktemp("streams")

    def run(*arguments: str) -> tuple[int, str, str]:
        streams = {"output": folder / "out", "errors": folder / "errors"}
        status, out = forks.run("train", *arguments, *FAST, *SMALL, **streams)
        return status, out, (folder / "errors").read_text()

    return run


def log_lines(folder: Path) -> list[str]:
    """The lines of train.log without their stamps."""
    return [STAMP.sub("", line) for line in (folder / "train.log").read_text().splitlines()]


def test_in_a_pipe_the_log_holds_the_same_lines(train, tmp_path):
    """One line for each log point and each evaluation, although trainer.progress is true; no bar."""
    folder = tmp_path / "run"
    status, out, error = train(f"hydra.run.dir={folder}")
    assert (status, error) == (0, "")
    lines = out.splitlines()
    assert log_lines(folder) == lines
    assert [line.split(":")[0] for line in lines if line.startswith("step ") and ": loss" in line] == [
        f"step {step} of 4" for step in (1, 2, 3, 4)
    ]
    assert [line.split(":")[0] for line in lines if line.startswith("evaluation after step")] == [
        *(f"evaluation after step {step}" for step in (2, 4)),
        "evaluation after step 4, the last",
    ]
    assert any(line.startswith("kernels: region: reference (the device is cpu)") for line in lines)
    assert "step 0 to 4, 8 images a step, on cpu" in lines and lines[-1] == f"run folder: {folder}"
    stamps = [STAMP.match(line) for line in (folder / "train.log").read_text().splitlines()]
    assert {stamp[1] for stamp in stamps if stamp} == {"INFO"}


def test_a_folder_that_holds_a_run_takes_no_second_one(train, tmp_path):
    (tmp_path / "last.pt").write_bytes(b"precious")
    (tmp_path / "train.log").write_text("an earlier run\n")
    status, _, error = train(f"hydra.run.dir={tmp_path}")
    assert (status, error.splitlines()[0]) == (
        2,
        f"error: {tmp_path}: holds a run; go on with it: trainer.resume={tmp_path}, "
        "or choose another hydra.run.dir",
    )
    assert (tmp_path / "last.pt").read_bytes() == b"precious"
    assert log_lines(tmp_path)[0] == "an earlier run"


def test_on_a_terminal_the_bar_takes_the_place_of_the_lines(forks, tmp_path):
    """They go to train.log, where everything else is, too."""
    folder = tmp_path / "run"
    main, side = pty.openpty()
    termios.tcsetwinsize(side, (40, 120))
    streams = {"prepare": write_to_terminal, "given": {"name": os.ttyname(side)}}
    process = forks.start(
        "train", *FAST, *SMALL, f"hydra.run.dir={folder}", output=tmp_path / "out", **streams
    )
    with ThreadPoolExecutor() as threads:
        reading = threads.submit(lambda: b"".join(iter(lambda: _read(main), b"")))
        assert process.ended()[0] == 0
        os.close(side)
        shown = reading.result()
    os.close(main)
    text = shown.decode().replace("\r", "\n")
    assert "step/s" in text and ": loss" not in text and "evaluation after step 2" not in text
    log = log_lines(folder)
    assert sum(": loss" in line for line in log) == 4
    assert sum(line.startswith("evaluation after step") for line in log) == 3
    assert f"run folder: {folder}" in text and log[-1] == f"run folder: {folder}"


def write_to_terminal(name: str) -> None:
    """In the process of the command: both streams go there."""
    terminal = os.open(name, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(terminal, stream)
    os.environ["TERM"] = "xterm"


def _read(terminal: int) -> bytes:
    """b"" when the other side is closed, for which Linux raises."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


def test_each_job_has_its_own_log_and_the_error_that_ended_it(train, tmp_path):
    """Two jobs: the first ends by itself, the second with a loss that is not finite."""
    status, out, error = train(
        "-m",
        "optimizer.rate=0.001,1e30",
        f"hydra.sweep.dir={tmp_path}",
        "hydra.sweep.subdir=${hydra:job.num}",
    )
    assert status == 2
    first, second = (log_lines(tmp_path / number) for number in "01")
    assert first[-1] == f"run folder: {tmp_path}/0" and not any("error" in line for line in first)
    message = next(line for line in error.splitlines() if line.startswith("error: "))
    assert message.startswith("error: step ") and message in second
    assert set(first) | set(second) - set(error.splitlines()) <= set(out.splitlines())
