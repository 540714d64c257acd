"""Disks that are full, folders that are deleted, files that vanish: one line, and nothing good is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from detectors.training import checkpoint as ckpt
from tests.processes import Forks, Process

TINY = (
    "debug=fast",
    "trainer.steps=40",
    "trainer.eval_every=0",
    "trainer.save_every=10",
    "trainer.device=cpu",
    "data.shapes.train=12",
    "data.shapes.val=4",
    "data.shapes.size=96",
    "input.size=[96,96]",
    "model.width=0.05",
)
unmeasured = pytest.mark.skipif(
    "COVERAGE_PROCESS_CONFIG" in os.environ,
    reason="make coverage writes a file, too, under the same limit",
)
TRACEBACK_HINT = "(HYDRA_FULL_ERROR=1 shows where in the code this came up)"


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of its own with 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if mount.returncode:
        pytest.skip(f"mounting a small disk is not allowed here: {mount.stderr.strip()}")
    yield folder
    while folder.is_mount():  # once more where a test has mounted it again
        subprocess.run(["umount", "--lazy", folder], check=True)


def train(forks: Forks, folder: Path, output: Path, *overrides: str, **options) -> Process:
    return forks.start("train", f"hydra.run.dir={folder}", *TINY, *overrides, output=output, **options)


def fill(folder: Path) -> Path:
    """A file that leaves no byte free on the disk of the folder."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
    return path


def test_a_full_disk_costs_the_steps_since_the_last_save(forks, small_disk, tmp_path):
    """With room again, the run goes on from there."""
    folder = small_disk / "run"
    process = train(forks, folder, tmp_path / "output", "trainer.steps=100000")
    process.wait_for((folder / ckpt.LAST).exists)
    filler = fill(small_disk)
    status, output = process.ended()
    stored = ckpt.load_checkpoint(folder / ckpt.LAST)
    failed = stored.step + 10
    lines = output.splitlines()
    assert (status, lines[-2:]) == (2, [f"error: {folder}/last.pt: No space left on device", TRACEBACK_HINT])
    told = (
        f"step {failed} could not be saved ({folder}/last.pt: No space left on device); {folder}/last.pt "
        f"holds step {stored.step}: python train.py trainer.resume={folder}"
    )
    assert told in lines and "Traceback" not in output
    assert [path.name for path in folder.glob(".*")] == [".hydra"]
    filler.unlink()
    status, output = forks.run(
        "train", f"trainer.resume={folder}", f"trainer.steps={failed + 2}", output=tmp_path / "resumed"
    )
    assert (status, "Traceback" in output) == (0, False)
    assert ckpt.load_checkpoint(folder / ckpt.LAST).step == failed + 2


def test_a_disk_that_turns_read_only_costs_the_steps_since_the_last_save(forks, small_disk, tmp_path):
    """As after an error of the hardware, or of the network. A new run does not start there."""
    folder = small_disk / "run"
    process = train(forks, folder, tmp_path / "output", "trainer.steps=100000")
    process.wait_for((folder / ckpt.LAST).exists)
    for options in ("bind", "remount,bind,ro"):
        subprocess.run(["mount", "-o", options, small_disk, small_disk], check=True)
    status, output = process.ended()
    problem = "last.pt: Read-only file system"
    assert (status, output.splitlines()[-2:]) == (2, [f"error: {folder}/{problem}", TRACEBACK_HINT])
    stored = ckpt.load_checkpoint(folder / ckpt.LAST)
    told = f"({folder}/{problem}); {folder}/last.pt holds step {stored.step}: python train.py trainer.resume="
    assert told in output and "Traceback" not in output
    other = small_disk / "other"
    status, output = train(forks, other, tmp_path / "output").ended()
    assert (status, output) == (2, f"error: {other}: Read-only file system\n{TRACEBACK_HINT}\n")


@unmeasured
@pytest.mark.parametrize("largest_file", [60_000, 200_000])
def test_a_checkpoint_that_does_not_fit_leaves_no_part_of_it(largest_file, forks, tmp_path):
    """Everywhere: a limit on the size of files stands in for the disk. PyTorch says "enforce fail" here."""
    folder = tmp_path / "run"
    status, output = train(forks, folder, tmp_path / "output", largest_file=largest_file).ended()
    assert (status, output.splitlines()[-3:]) == (
        2,
        [
            f"step 10 could not be saved ({folder}/last.pt: File too large); nothing was saved before",
            f"error: {folder}/last.pt: File too large",
            TRACEBACK_HINT,
        ],
    )
    assert "Traceback" not in output
    assert not list(folder.glob("*.pt"))
    assert [path.name for path in folder.glob(".*")] == [".hydra"]


def test_curves_and_log_on_a_full_disk_do_not_end_the_run(forks, tmp_path):
    """One warning for each. last.pt is small enough to fit; the log lies on a device that is always full."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "train.log").symlink_to("/dev/full")
    status, output = train(
        forks, folder, tmp_path / "output", "trainer.steps=12", "trainer.log_every=1"
    ).ended()
    assert (status, "Traceback" in output) == (0, False)
    lost = "/train.log cannot be written (No space left on device); the run goes on without it"
    assert [line for line in output.splitlines() if "cannot be written" in line] == [f"{folder}{lost}"]
    assert ckpt.load_checkpoint(folder / ckpt.LAST).step == 12


def test_a_folder_that_is_deleted_is_made_again_for_the_weights(forks, tmp_path):
    folder = tmp_path / "run"
    process = train(forks, folder, tmp_path / "output", "trainer.log_every=1")
    process.wait_for((folder / ckpt.LAST).exists)
    shutil.rmtree(folder)
    status, output = process.ended()
    assert (status, "Traceback" in output) == (0, False)
    told = f"{folder} was deleted: it is made again for checkpoints, but its log and curves are lost"
    assert output.splitlines().count(told) == 1
    assert {path.name for path in folder.iterdir()} == {"best.pt", "last.pt", "config.yaml", "summary.json"}
    assert ckpt.load_checkpoint(folder / ckpt.LAST).step == 40


def test_a_folder_that_cannot_be_made_is_one_line(forks, tmp_path):
    (tmp_path / "file").write_text("no folder")
    folder = tmp_path / "file" / "run"
    status, output = train(forks, folder, tmp_path / "output").ended()
    assert (status, output) == (2, f"error: {folder}: Not a directory\n{TRACEBACK_HINT}\n")


@unmeasured
def test_evaluate_prints_its_numbers_before_it_fails_to_write_them(forks, tmp_path):
    folder = tmp_path / "run"
    status, output = train(forks, folder, tmp_path / "output", "trainer.steps=2").ended()
    assert status == 0, output
    before = {path.name for path in folder.iterdir()}
    status, output = forks.run(
        "evaluate", f"run={folder}", "device=cpu", output=tmp_path / "evaluated", largest_file=4000
    )
    lines = output.splitlines()
    assert status == 2
    assert lines[0].startswith(f"{folder}/best.pt, step 2, on shapes val (4 images)")
    assert any(line.startswith("mean ") for line in lines)
    assert lines[-2:] == [f"error: {folder}/detections.json: File too large", TRACEBACK_HINT]
    assert "Traceback" not in output
    assert {path.name for path in folder.iterdir()} == before | {"evaluation.json"}
