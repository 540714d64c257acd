"""Signals to a real process with loading processes: what it saves, and who stays behind."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from detectors.training import checkpoint as ckpt
from tests.faults import slow_images, slow_saves, small_shared_memory
from tests.processes import Forks, Process

TINY = (
    "debug=fast",
    "trainer.steps=100000",
    "trainer.eval_every=0",
    "trainer.log_every=5",
    "trainer.device=cpu",
    "data.shapes.train=12",
    "data.shapes.val=4",
    "data.shapes.size=96",
    "input.size=[96,96]",
    "model.width=0.05",
)
HANG = 1000  # seconds
SOON = 30  # seconds in which a process ends, on a machine that does much else


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "run"


def train(forks: Forks, folder: Path, *overrides: str, **options) -> Process:
    return forks.start(
        "train", f"hydra.run.dir={folder}", *TINY, *overrides, output=folder.parent / "output", **options
    )


def assert_saved(process: Process, folder: Path) -> int:
    """It ended with one line about the checkpoint, and nobody stays behind. Returns the step of last.pt."""
    status, output = process.ended(seconds=SOON)
    step = ckpt.load_checkpoint(folder / ckpt.LAST).step
    last = f"stopped after step {step}; go on with: python train.py trainer.resume={folder}"
    assert (status, output.splitlines()[-1]) == (130, last), output
    assert "Traceback" not in output
    assert process.session() == []
    assert [path.name for path in folder.glob(".*")] == [".hydra"]
    return step


@pytest.mark.parametrize(("number", "times"), [(signal.SIGTERM, 3), (signal.SIGHUP, 1)])
def test_a_signal_to_the_whole_group_saves_the_step(number, times, forks, folder):
    """As `timeout` and schedulers send it, with repeats: launchers pass on what the group has got."""
    process = train(forks, folder, "data.workers=2")
    process.wait_for_text("step 10 of")
    assert len(process.session()) == 3
    for _ in range(times):
        process.send(number, group=True)
        time.sleep(0.005)
    assert assert_saved(process, folder) >= 10


def test_a_second_signal_a_second_later_leaves_at_once(forks, folder):
    """Even in the middle of a save, which leaves the last good checkpoint and no part of the new one."""
    process = train(forks, folder, "trainer.save_every=10", prepare=slow_saves, given={"seconds": 2.5})
    process.wait_for((folder / ckpt.LAST).exists)
    process.wait_for(lambda: any(folder.glob(".last.pt.*")))
    process.send(signal.SIGTERM)
    time.sleep(1.2)
    process.send(signal.SIGTERM)
    process.wait_for(lambda: not any(folder.glob(".last.pt.*")), seconds=3)
    status, output = process.ended(seconds=SOON)
    assert (status, output.splitlines()[-1]) == (130, "stopped at once; what was saved before is still there")
    assert ckpt.load_checkpoint(folder / ckpt.LAST).step == 10


@pytest.mark.parametrize("workers", [0, 2])
def test_a_signal_is_heard_while_loading_hangs(workers, forks, folder):
    """The step that waits for its batch is left out. PyTorch alone would wait 5 s for each worker at exit."""
    hang = {"seconds": HANG, "named": "train_00005"}
    process = train(forks, folder, f"data.workers={workers}", prepare=slow_images, given=hang)
    process.wait_for_text("curves: ")
    process.wait_for(lambda: len(process.session()) == 1 + workers)
    time.sleep(0.5)
    process.send(signal.SIGTERM, group=True)
    process.wait_for((folder / ckpt.LAST).exists, seconds=3)
    assert assert_saved(process, folder) <= 1


def test_a_signal_in_the_final_evaluation_leaves_it_to_a_resume(forks, folder):
    """ "go on with" is right there: the resume makes the evaluation and ends the run."""
    steps = ("trainer.steps=2", "trainer.log_every=1", "data.workers=2")
    hang = {"seconds": HANG, "named": "/val_00001"}
    process = train(forks, folder, *steps, prepare=slow_images, given=hang)
    process.wait_for_text("step 2 of 2")
    time.sleep(0.5)
    process.send(signal.SIGTERM, group=True)
    assert assert_saved(process, folder) == 2
    status, output = forks.run("train", f"trainer.resume={folder}", output=folder.parent / "resumed")
    assert status == 0
    assert "evaluation after step 2, the last:" in output


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (signal.SIGKILL, "a loading process was killed (SIGKILL), most often because memory ran out: "),
        (
            signal.SIGBUS,
            "a loading process ended with a bus error. Most often /dev/shm, through which they pass",
        ),
    ],
)
def test_a_worker_that_is_lost_costs_no_step(number, cause, forks, folder):
    process = train(forks, folder, "data.workers=2")
    process.wait_for_text("step 10 of")
    os.kill(process.session()[1], number)
    status, output = process.ended(seconds=SOON)
    step = ckpt.load_checkpoint(folder / ckpt.LAST).step
    assert status == 2
    *_, saved, error, _ = output.splitlines()
    assert saved.endswith(f"stopped after step {step}; go on with: python train.py trainer.resume={folder}")
    assert error.startswith(f"error: {cause}")
    assert error.endswith("set a smaller data.workers, data.prefetch or batch size")
    assert step >= 10 and "Traceback" not in output
    assert process.session() == []


def test_workers_end_with_a_main_process_that_is_killed(forks, folder):
    """Also those that hang."""
    hang = {"seconds": HANG, "named": "train_00005"}
    process = train(forks, folder, "data.workers=2", prepare=slow_images, given=hang)
    process.wait_for(lambda: len(process.session()) == 3)
    time.sleep(1)
    process.send(signal.SIGKILL)
    assert process.ended(seconds=SOON)[0] == -signal.SIGKILL
    process.wait_for(lambda: not process.session(), seconds=10)


def test_a_loader_that_hangs_ends_the_run_with_advice(forks, folder):
    hang = {"seconds": HANG, "named": "train_00005"}
    process = train(forks, folder, "data.workers=2", "data.timeout=1", prepare=slow_images, given=hang)
    status, output = process.ended(seconds=SOON)
    assert status == 2
    error = next(line for line in output.splitlines() if line.startswith("error: "))
    assert error.startswith(
        "error: no batch came within data.timeout=1 seconds: the data.workers=2 loading processes hang. "
        "Most often /dev/shm, through which they pass batches on, is too small ("
    )
    assert error.endswith(
        "MiB are free): enlarge it (docker run --shm-size=8g), set a smaller data.workers, data.prefetch or "
        "batch size; or the images lie on a disk that does not answer. data.workers=0 loads without them; a "
        "higher data.timeout (0: no limit) waits longer"
    )
    assert process.session() == []


def test_a_full_shared_memory_is_one_line(forks, folder):
    """PyTorch's queue would print a traceback in a worker's thread, and the batch would never come."""
    process = train(forks, folder, "data.workers=2", prepare=small_shared_memory, given={"size": "64k"})
    status, output = process.ended(seconds=SOON)
    if "not permitted" in output:
        pytest.skip(f"this test mounts a small /dev/shm, and may not: {output}")
    assert status == 2
    assert (
        "error: a loading process could not hand over a batch. Most often /dev/shm, through which" in output
    )
    assert "Traceback" not in output
    assert process.session() == []
