"""Two processes against one: losses, weights and AP, files, and what happens when one of them fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_equal
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.testing import assert_close

from detectors.data.sampling import ResumableSampler
from detectors.data.shapes import write_shapes
from detectors.training import checkpoint as ckpt
from tests.forked import PROJECT
from tests.ranks import in_ranks
from tests.training import rank_tasks


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


def curve(folder, tag: str) -> list[tuple[int, float]]:
    """The points of a curve; the folder has one event file."""
    (file,) = folder.glob("events.*")
    events = EventAccumulator(str(file))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("ssd", ()),
        pytest.param("ssd", ("trainer.accumulate=2", "trainer.steps=3"), marks=pytest.mark.slow),
        pytest.param(
            "yolov2", ("loss=region_keras", "model.class_activation=softmax"), marks=pytest.mark.slow
        ),
    ],
)
def test_two_processes_learn_what_one_does_with_the_same_batch(place, model, settings):
    """Losses within 1e-4, weights within the rounding of some steps; BatchNorm's statistics are fixed."""
    name = f"{model}{len(settings)}"
    (one,) = in_ranks(
        rank_tasks.train, place, f"{name}_one", model, "trainer.batch_size=6", *settings, world_size=1
    )
    two, other = in_ranks(rank_tasks.train, place, f"{name}_two", model, "trainer.batch_size=3", *settings)
    losses = [np.array(curve(place / f"{name}_{run}", "train/loss/total")) for run in ("one", "two")]
    assert_allclose(losses[1], losses[0], rtol=1e-4)
    assert_equal(other["state"], two["state"])
    for key, tensor in one["state"].items():
        assert_allclose(two["state"][key], tensor, rtol=1e-2, atol=1e-4, err_msg=key)
    for key in ("step", "images_seen"):
        assert two["progress"][key] == other["progress"][key] == one["progress"][key]
    assert two["report"] == other["report"]


@pytest.mark.parametrize("model", ["ssd", pytest.param("yolov2", marks=pytest.mark.slow)])
def test_an_evaluation_counts_every_image_once(place, model):
    """Batches of 8 with 0, 1 and 7 images left over: detections and AP are one process's, bit for bit."""
    counts = [16, 17, 23]
    (one,) = in_ranks(rank_tasks.evaluate, place, model, counts, world_size=1)
    two, other = in_ranks(rank_tasks.evaluate, place, model, counts)
    for alone, shared, also, count in zip(one, two, other, counts, strict=True):
        assert_equal(shared["detections"], alone["detections"])
        assert shared["report"] == also["report"] == alone["report"]
        losses = {tag: value for tag, value in alone["curves"].items() if tag.startswith("val/loss")}
        assert len(losses) > 2
        for tag, value in losses.items():
            assert shared["curves"][tag] == pytest.approx(value, rel=1e-12)
        assert alone["report"]["images"] == count
        assert len(set(alone["detections"]["image"])) > count / 2
        assert alone["report"]["AP"] > 0 or model == "yolov2"


OPTIONS = ("model=yolov2_160", "input.size=[96,96]", *rank_tasks.SMALL, "trainer.batch_size=2")


def commands(place, name: str, *arguments: str, fault: str = "none", world_size: int = 2):
    """train.py in each process: exit statuses, outputs, and the run's folder. A resume gets no options."""
    folder = place / name
    folder.mkdir(exist_ok=True)
    if not arguments or not arguments[0].startswith("trainer.resume="):
        paths = (f"paths.cache={place / 'cache'}", f"paths.output={folder / 'out'}")
        arguments = (*paths, *OPTIONS, *arguments)
    for rank in range(world_size):
        (folder / f"{rank}.txt").unlink(missing_ok=True)
    statuses = in_ranks(rank_tasks.command, folder, fault, *arguments, world_size=world_size)
    outputs = [(folder / f"{rank}.txt").read_text() for rank in range(world_size)]
    return statuses, outputs, next((folder / "out").glob("train/*"), None)


def test_the_first_process_alone_leaves_files_and_messages(place):
    statuses, (output, other), folder = commands(place, "files")
    assert statuses == [0, 0]
    assert other == ""
    assert "step 0 to 6, 4 images a step, on 2 processes, this one on cpu" in output
    assert [path for rank in (0, 1) for path in (place / "files" / str(rank)).iterdir()] == []
    assert len(list((place / "files/out/train").iterdir())) == len(list(folder.glob("events.*"))) == 1
    assert {"best.pt", "last.pt", "summary.json", "config.yaml", "train.log", ".hydra"} <= {
        path.name for path in folder.iterdir()
    }
    assert [step for step, _ in curve(folder, "train/loss/total")] == [1, 2, 3, 4, 5, 6]
    assert curve(folder, "train/images_seen")[-1] == (6, 24)


def test_a_signal_to_one_process_stops_all_after_the_same_step(place):
    """Then a resume goes on as if nothing had happened: the same weights bit for bit, and each point once."""
    statuses, (output, other), folder = commands(place, "stopped", fault="signal")
    assert statuses == [130, 130]
    message = f"stopped after step 3; go on with: python train.py trainer.resume={folder}"
    assert output.count(message) == 1 and other == ""
    assert ckpt.load_checkpoint(folder / ckpt.LAST).step == 3
    resumed = commands(place, "stopped", f"trainer.resume={folder}")
    assert resumed[0] == [0, 0]
    _, _, whole = commands(place, "whole")
    parts, weights = (ckpt.load_checkpoint(run / ckpt.LAST) for run in (folder, whole))
    assert_close(parts.model, weights.model, rtol=0, atol=0)
    assert_close(parts.optimizer["state"], weights.optimizer["state"], rtol=0, atol=0)


def test_an_error_in_one_process_ends_all_and_is_told_once(place):
    """The first process reports it, and keeps the steps that were made; nothing waits for the other one."""
    statuses, (output, other), folder = commands(place, "broken", fault="image")
    assert statuses == [2, 2] and other == ""
    assert output.count("error: ") == 1
    assert "error: process 1 of 2: lost.jpg: the image cannot be decoded" in output
    assert f"stopped after step 3; go on with: python train.py trainer.resume={folder}" in output
    assert ckpt.load_checkpoint(folder / ckpt.LAST).step == 3


@pytest.mark.slow
def test_a_fault_of_the_program_in_one_process_is_told_with_its_traceback(place):
    """By that process, because the first one cannot know of it."""
    _, (output, other), _ = commands(place, "fault", fault="fault")
    assert other.startswith("error: process 1 of 2: Traceback (most recent call last):\n")
    assert other.endswith("AttributeError: 'Run' object has no attribute 'nothing'\n")
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_others(place):
    """The others notice it at once, keep the steps that were made, and one of them says it."""
    statuses, (output, _), folder = commands(place, "killed", fault="death")
    assert statuses == [2, -signal.SIGKILL]
    assert "error: another process of this run has ended, or its connection is lost" in output
    assert f"stopped after step 3; go on with: python train.py trainer.resume={folder}" in output
    assert ckpt.load_checkpoint(folder / ckpt.LAST).step == 3


def test_a_loss_that_is_not_finite_in_one_process_ends_all(place):
    statuses, (output, other), _ = commands(place, "nan", fault="nan")
    assert statuses == [2, 2]
    assert output.count("error: ") == 1 and other == ""
    assert "error: step 4: the loss is not finite (box=nan" in output
    images = [line for line in output.splitlines() if line.startswith("  ") and line.endswith(".jpg")]
    assert len(set(images)) == 4  # of both


@pytest.mark.slow
def test_a_signal_within_an_evaluation_ends_it_in_all(place):
    """last.pt is from before the evaluation, which a resume makes."""
    statuses, (output, other), folder = commands(place, "evaluation", fault="evaluation")
    assert statuses == [130, 130] and other == ""
    assert f"stopped after step 6; go on with: python train.py trainer.resume={folder}" in output
    assert {path.name for path in folder.glob("*.pt")} == {"last.pt"}
    assert commands(place, "evaluation", f"trainer.resume={folder}")[0] == [0, 0]
    assert (folder / "best.pt").exists()


@pytest.mark.slow
def test_images_that_only_one_process_met_are_told_and_counted(place):
    """With data.on_error=skip: one training image and one of those to validate on."""
    root = write_shapes(folder=place / "skipped/cache", train=10, val=3, size=96)
    sampler = ResumableSampler(images=10, batch_size=2, seed=0, rank=1, world_size=2)
    stems = [(root / f"ImageSets/Main/{split}.txt").read_text().split() for split in ("train", "val")]
    names = [stems[0][next(iter(sampler))[0].index], stems[1][1]]
    for name in names:
        path = root / f"JPEGImages/{name}.jpg"
        path.write_bytes(path.read_bytes()[:500])
    settings = (f"paths.cache={place / 'skipped/cache'}", "data.on_error=skip", "trainer.eval_batch_size=1")
    statuses, (output, other), folder = commands(
        place, "skipped", *settings, "trainer.steps=1", "schedule.warmup_steps=0"
    )
    assert statuses == [0, 0] and other == ""
    for name in names:
        assert output.count(f"{name}.jpg: the image cannot be decoded") == 1
    for split in ("training", "validation"):
        assert f"{split} images left out, named above: 1 images that cannot be decoded" in output
    assert curve(folder, "train/broken_images") == curve(folder, "val/broken_images") == [(1, 1)]


def test_a_wrong_setting_is_told_once_and_leaves_no_folder(place):
    """The second process waits for torchrun, which ends it when the first one has ended."""
    statuses, (output, other), folder = commands(place, "wrong", "trainer.steps=0", fault="hurry")
    assert statuses == [2, 2] and folder is None and other == ""
    assert output.count("error: ") == 1
    assert "trainer.steps=0: must be 1 or more" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "seed=0,1"], "-m: torchrun starts the processes of one run; start it again for each run"),
        (
            ["trainer.sync_batch_norm=true"],
            "trainer.sync_batch_norm=true: PyTorch has it on GPUs only; leave it out on a CPU",
        ),
    ],
)
def test_what_several_processes_cannot_do(place, arguments, message):
    statuses, (output, other), folder = commands(place, "refused", *arguments, fault="hurry")
    assert statuses == [2, 2] and folder is None and other == ""
    assert output.startswith(f"error: {message}\n")


@pytest.mark.slow
def test_torchrun_starts_and_stops_a_run(place):
    """Two processes with loading processes, ended by SIGTERM to torchrun alone; then resumed to the end."""
    out = place / "torchrun"
    out.mkdir()
    paths = (f"paths.cache={place / 'cache'}", f"paths.output={out}")
    long = ("trainer.steps=4000", "trainer.save_every=1", "data.workers=1")
    options = [option for option in OPTIONS if not option.startswith("trainer.steps")]
    process = torchrun(out, *paths, *options, *long)
    (folder,) = wait_until(lambda: [path.parent for path in out.glob("train/*/last.pt")])
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=60)
    stored = ckpt.load_checkpoint(folder / ckpt.LAST)
    assert text.count("go on with: python train.py trainer.resume=") == 1, text
    assert f"stopped after step {stored.step}" in text
    assert [path.name for path in out.iterdir()] == ["train"]
    resume = torchrun(out, f"trainer.resume={folder}", f"trainer.steps={stored.step + 2}", "data.workers=0")
    text, _ = resume.communicate(timeout=60)
    assert resume.returncode == 0, text
    assert f"evaluation after step {stored.step + 2}, the last:" in text
    assert "processes, this one on cpu" in text


@pytest.mark.slow
def test_a_run_of_two_processes_survives_sigkill(place):
    """SIGKILL to torchrun and both processes, then the same command; and one process goes on from there."""
    folders = [place / name for name in ("uninterrupted", "killed")]
    paths = (f"paths.cache={place / 'cache'}", "trainer.resume=auto", "trainer.save_every=2")
    options = [option for option in OPTIONS if not option.startswith("trainer.steps")]
    options += ["trainer.steps=14", "trainer.ema_decay=0.9", "trainer.eval_every=5"]
    for folder in folders:
        start = (*paths, f"hydra.run.dir={folder}", *options)
        if folder == folders[1]:
            process = torchrun(place, *start)
            wait_until(lambda: (folders[1] / ckpt.LAST).exists())
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            for number in (process.pid, *map(int, children)):
                os.kill(number, signal.SIGKILL)
            process.communicate(timeout=60)
            assert ckpt.load_checkpoint(folder / ckpt.LAST).step < 14
        process = torchrun(place, *start)
        text, _ = process.communicate(timeout=120)
        assert process.returncode == 0, text
    whole, parts = (ckpt.load_checkpoint(folder / ckpt.LAST) for folder in folders)
    states = [(stored.model, stored.ema, stored.optimizer["state"]) for stored in (parts, whole)]
    assert_close(*states, rtol=0, atol=0)
    assert curve_of_all(folders[1], "train/loss/total") == curve_of_all(folders[0], "train/loss/total")

    images = whole.progress["images_seen"]
    alone = [sys.executable, str(PROJECT / "train.py"), f"trainer.resume={folders[1]}", "trainer.steps=16"]
    environment = {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(alone, check=True, env={**os.environ, **environment}, capture_output=True, timeout=120)
    stored = ckpt.load_checkpoint(folders[1] / ckpt.LAST)
    per_process = stored.config["trainer"]["batch_size"] * stored.config["trainer"]["accumulate"]
    assert images == 14 * 2 * per_process
    assert stored.progress["images_seen"] == images + 2 * per_process


def curve_of_all(folder, tag: str) -> list[tuple[int, float]]:
    """The points of a curve in all event files of a run that was resumed, as TensorBoard shows them."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def torchrun(folder, *arguments: str) -> subprocess.Popen:
    """torchrun --nproc-per-node 2 train.py ARGUMENTS in a folder."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [*launcher, str(PROJECT / "train.py"), *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_until(condition, seconds: float = 90):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return value
