"""Curves of a run that is SIGKILLed again and again, against those of an uninterrupted one: no point is lost,
none is there twice, in metrics.csv and in TensorBoard.
"""

from __future__ import annotations

import csv
import random
import time
from functools import partial
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from detectors.training.csv_log import METRICS
from tests.processes import Forks, Process

RUN = (
    "trainer.steps=24",
    "trainer.eval_every=6",
    "trainer.save_every=3",
    "trainer.log_every=2",
    "trainer.batch_size=4",
    "trainer.device=cpu",
    "trainer.threads=1",
    "trainer.progress=false",
    "trainer.probe_images=1",
    "schedule.warmup_steps=4",
    "data.shapes.train=12",
    "data.shapes.val=4",
    "data.shapes.size=96",
)
MEASURED = (
    "train/images_per_second",
    "train/data_wait",
    "train/peak_memory",
    "time/evaluation",
)  # of a process, not of the run


def killed(
    forks: Forks, folder: Path, overrides: tuple[str, ...], moments: random.Random, kills: int
) -> None:
    """Starts the run, kills it after some more rows, goes on with it, ...; the last process ends alone."""
    for number in range(kills + 1):
        arguments = ("trainer.resume=auto", f"hydra.run.dir={folder}", *overrides)
        process = forks.start("train", *arguments, output=folder.parent / "output")
        if number < kills:
            count = len(rows(folder))
            process.wait_for(partial(any_change, process, folder, count))
            time.sleep(moments.uniform(0, 0.15))
            process.kill()
        status, output = process.ended()
        assert status in ((-9, 0) if number < kills else (0,)), output


def any_change(process: Process, folder: Path, count: int) -> bool:
    """Whether there are more rows than `count`, or the process has ended."""
    return len(rows(folder)) > count or not process.session()


def rows(folder: Path) -> list[list[str]]:
    """Those of metrics.csv that do not measure the machine."""
    if not (folder / METRICS).exists():
        return []
    with (folder / METRICS).open(newline="") as file:
        return [row for row in csv.reader(file) if len(row) < 2 or row[1] not in MEASURED]


def points(folder: Path) -> dict[str, list[tuple[int, list]]]:
    """Tag -> steps and values, as TensorBoard shows them, without what each process writes once."""
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    others = ("_hparams_", "run/", "probe/anchors")
    tags = [tag for tag in events.Tags()["tensors"] if tag not in MEASURED and not tag.startswith(others)]
    return {
        tag: [(e.step, make_ndarray(e.tensor_proto).tolist()) for e in events.Tensors(tag)] for tag in tags
    }


@pytest.mark.parametrize(
    ("model", "kills"),
    [
        ("yolov2_160", 2),
        pytest.param("ssd160", 8, marks=pytest.mark.slow),
        pytest.param("yolov2_160", 20, marks=pytest.mark.slow),
    ],
)
def test_curves_are_those_of_an_uninterrupted_run(model, kills, forks, tmp_path):
    size = "[160,160]" if model == "ssd160" else "[96,96]"
    overrides = (f"model={model}", f"input.size={size}", f"trainer.steps={8 * (kills + 1)}", *RUN[1:])
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    status, output = forks.run("train", f"hydra.run.dir={whole}", *overrides, output=tmp_path / "output")
    assert status == 0, output
    killed(forks, parts, overrides, random.Random(kills), kills)
    assert rows(parts) == rows(whole)
    assert points(parts) == points(whole)
    assert len(list(parts.glob("events.*"))) > 1
