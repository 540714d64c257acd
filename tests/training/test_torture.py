"""Runs that are killed again and again equal one that was not, to the last bit: weights, curves, files.

SIGKILL comes at random moments of a real process: before the first checkpoint, while one is half written, in
evaluations, in steps. The same command then goes on, until it is done.
"""

from __future__ import annotations

import random
import re
import signal
import time
from pathlib import Path

import pytest
from torch.testing import assert_close

from detectors.training import checkpoint as ckpt
from tests.faults import slow_saves
from tests.processes import Forks, Process
from tests.training.test_saving import assert_same_run

SAVE_EVERY = 2  # steps
SETTINGS = (
    "debug=fast",
    "trainer.steps=14",
    "trainer.batch_size=2",
    "trainer.accumulate=2",
    f"trainer.save_every={SAVE_EVERY}",
    "trainer.eval_every=5",
    "trainer.log_every=1",
    "trainer.ema_decay=0.9",
    "trainer.probe_images=2",
    "trainer.device=cpu",
    "data.shapes.train=10",
    "data.shapes.val=4",
)
MODELS = {
    "yolov2_160": ("data.shapes.size=96", "input.size=[96,96]", "model.width=0.05"),
    "ssd160": ("data.shapes.size=160", "model.width=0.05"),
}
START = 3.0  # seconds after its start in which a process is killed at the latest, if it was not told when
HALF_WRITTEN = 0.2  # seconds that each file is half written, where one of them is the moment to kill
NEVER = 60  # seconds: more than a process takes


@pytest.fixture(scope="module")
def whole(forks, tmp_path_factory):
    """(model, workers) -> the folder of a run that was not interrupted."""
    folders = {}

    def run(model: str, workers: int) -> Path:
        if (model, workers) not in folders:
            folder = folders[model, workers] = tmp_path_factory.mktemp("whole") / "run"
            process = start(forks, folder, model, workers)
            status, output = process.ended()
            assert status == 0, output
        return folders[model, workers]

    return run


def start(forks: Forks, folder: Path, model: str, workers: int, **options) -> Process:
    """The same command each time."""
    return forks.start(
        "train",
        f"hydra.run.dir={folder}",
        "trainer.resume=auto",
        f"model={model}",
        f"data.workers={workers}",
        *MODELS[model],
        *SETTINGS,
        output=folder.parent / "output",
        **options,
    )


def kill_at_random(process: Process, folder: Path, chance: random.Random) -> None:
    """At any moment since the start of the process."""
    wait(process, folder, chance.uniform(0, START))


def kill_in_a_save(process: Process, folder: Path, chance: random.Random) -> None:
    """While a checkpoint is half written: the number of the save is random, and the moment in it."""
    for _ in range(chance.randint(1, 4)):
        until(process, lambda: not drafts(folder, process))
        until(process, lambda: drafts(folder, process))
    wait(process, folder, chance.uniform(0, HALF_WRITTEN / 2))


def kill_before_the_first_save(process: Process, folder: Path, chance: random.Random) -> None:
    """After the curves were begun, if the run has no checkpoint yet."""
    until(process, lambda: any(folder.glob("events.out.tfevents.*")))
    wait(process, folder, chance.uniform(0, 0.3))


def drafts(folder: Path, process: Process) -> list[Path]:
    """Checkpoints that the process is writing."""
    return list(folder.glob(f".*.pt.{process.pid}"))


def until(process: Process, condition) -> None:
    """Polls, until the process has ended."""
    end = time.monotonic() + NEVER
    while not condition() and process.pid in process.session() and time.monotonic() < end:
        time.sleep(0.001)


def wait(process: Process, folder: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    while process.pid in process.session() and time.monotonic() < end:
        time.sleep(0.005)


KILLS = (kill_before_the_first_save, kill_in_a_save, kill_at_random)


def torture(forks: Forks, folder: Path, model: str, workers: int, *, kills: int, seed: int) -> int:
    """Runs the command until it is done, killed `kills` times. Returns how often kill_in_a_save met one."""
    chance = random.Random(seed)
    saved = 0  # the step of last.pt
    in_saves = 0
    for number in range(kills + 1):
        moment = KILLS[number] if number < 2 else chance.choice(KILLS[1:])
        slow = {"prepare": slow_saves, "given": {"seconds": HALF_WRITTEN}} if moment is kill_in_a_save else {}
        process = start(forks, folder, model, workers, **slow)
        if number < kills:
            moment(process, folder, chance)
            process.kill()
        status, output = process.ended()
        went_on = re.search(r"^step (\d+) to 14, ", output, re.MULTILINE)
        assert status == (-signal.SIGKILL if status else 0), output
        assert went_on is None or int(went_on[1]) == saved, output
        in_saves += moment is kill_in_a_save and bool(drafts(folder, process))
        process.wait_for(lambda: not process.session(), seconds=10)  # noqa: B023 - called at once
        made = max(map(int, re.findall(r"^step (\d+) of 14", output, re.MULTILINE)), default=saved)
        saved = step_of(folder)
        assert made - saved <= SAVE_EVERY
        if status == 0:
            break
    assert status == 0, output
    return in_saves


def step_of(folder: Path) -> int:
    """Of last.pt, which is whole at every moment."""
    path = folder / ckpt.LAST
    return ckpt.load_checkpoint(path).step if path.exists() else 0


def assert_equal(parts: Path, whole: Path) -> None:
    assert_same_run(parts, whole)
    first, second = (ckpt.load_checkpoint(folder / ckpt.BEST) for folder in (parts, whole))
    assert_close(first.model, second.model, rtol=0, atol=0)
    assert_close(first.ema, second.ema, rtol=0, atol=0)
    assert files(parts) == files(whole)


def files(folder: Path) -> set[str]:
    """Without the number of the process in an event file's name."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    return {"events" if name.startswith("events.") else name for name in names}


def test_a_killed_run_equals_one_that_was_not(forks, whole, tmp_path):
    """A small part of the next test, which takes six minutes."""
    folder = tmp_path / "run"
    in_saves = torture(forks, folder, "yolov2_160", 2, kills=2, seed=0)
    assert in_saves == 1
    assert_equal(folder, whole("yolov2_160", 2))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("model", MODELS)
def test_twenty_runs_survive_kills_at_random_moments(model, workers, seed, forks, whole, tmp_path):
    folder = tmp_path / "run"
    assert torture(forks, folder, model, workers, kills=6, seed=seed) >= 1
    assert_equal(folder, whole(model, workers))
