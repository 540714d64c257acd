"""The folder from which `detectors replay` repeats the step at which a run was no longer finite."""

from __future__ import annotations

import copy
import os
import shutil
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch

from detectors.config.schema import to_plain
from detectors.data.files import write_json
from detectors.data.sampling import Key
from detectors.training.checkpoint import find_checkpoint
from detectors.training.checkpoint_checks import check_stored_config
from detectors.training.initial.weight_files import PARTIAL_FILE, cfg_beside, is_darknet
from detectors.training.outcome import device_name
from detectors.training.run import Run
from detectors.training.run_files import check_fields, read_record

REPLAY = "replay.json"
START = "start.pt"  # the last whole state; without it, the run starts from its seed
INITIAL = "initial"  # then: the weights of init.from, with the suffixes of their file, and its cfg
BEFORE = "before.pt"  # written by the first replay: the state right before the step
MOST_THREADS = 1024
REPLAY_FIX = "name a folder that a run of train.py has written when it stopped because of NaN or infinity"
REPLAY_FIELDS = {
    "format": int,
    "step": int,
    "error": str,
    "config": dict,
    "class_names": list[str],
    "batches": list,
    "processes": int,
    "threads": int,
    "torch": str,
    "device": str,
}


@dataclass(frozen=True)
class Replay:
    """What replay.json says.

    step: the latest that can be the first bad one. batches: its images, a list for each batch, as [epoch, row
    of the Annotations, (height, width) of the input or null, path]. processes: of torchrun.
    """

    folder: Path
    step: int
    error: str
    config: dict[str, Any]
    class_names: list[str]
    batches: list[list[list]]
    processes: int
    threads: int
    torch: str
    device: str


def write_replay(run: Run, step: int, error: str) -> Path:
    """Writes a new folder in the run's folder; it needs no other file of it. Returns the folder.

    The checkpoint is a hard link where the disk allows it: it takes no space until last.pt is replaced, and
    no later run changes it. OSError: it cannot be written, or the checkpoint is gone; then there is none.
    """
    folder = _fresh(run.folder / f"replay_step_{step:06}")
    content = {
        "format": 1,
        "step": step,
        "error": error,
        "config": to_plain(run.config),
        "class_names": list(run.task.class_names),
        "batches": batches_of(run, step),
        "processes": run.processes.world_size,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": device_name(run.device),
    }
    try:
        if run.saved is not None:
            _keep(run.saved, folder / START)
        elif run.config.init.from_:
            _keep_initial(find_checkpoint(run.config.init.from_), folder)
        write_json(folder / REPLAY, content)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def batches_of(run: Run, step: int) -> list[list[list]]:
    """The images of an optimiser step, of all processes together, see Replay."""
    accumulate = run.config.trainer.accumulate
    sampler = copy.copy(run.train_loader.batch_sampler)
    sampler.batch_size *= sampler.world_size
    sampler.rank, sampler.world_size = 0, 1
    first = (step - 1) * accumulate
    sampler.start_image += (first - sampler.start_step) * sampler.batch_size
    sampler.start_step = first
    sampler.steps = step * accumulate
    paths = run.train_loader.dataset.annotations.paths
    return [[_row(key, paths[key.index]) for key in batch] for batch in sampler]


def _row(key: Key, path: str) -> list:
    return [key.epoch, key.index, None if key.size is None else list(key.size), path]


def _fresh(folder: Path) -> Path:
    """Creates the folder, with a number behind its name if a run has stopped at this step before."""
    for number in count(1):
        place = folder if number == 1 else folder.with_name(f"{folder.name}_{number}")
        try:
            place.mkdir()
        except FileExistsError:
            continue
        return place
    raise AssertionError


def _keep_initial(source: Path, folder: Path) -> None:
    """Keeps the name's end, which says what kind of file it is."""
    end = match[0] if (match := PARTIAL_FILE.search(source.name)) else source.suffix
    _keep(source, folder / f"{INITIAL}{end}")
    if is_darknet(source) and (cfg := cfg_beside(source)):
        _keep(cfg, folder / f"{INITIAL}.cfg")


def initial_place(folder: Path) -> str | None:
    """What write_replay kept of init.from, as a value for it; None for a run from random weights."""
    files = [path for path in folder.glob(f"{INITIAL}.*") if path.suffix != ".cfg"]
    return str(files[0]) if files else None


def _keep(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)


def read_replay(folder: Path) -> Replay:
    """Reads and checks replay.json. It may come from others: see docs/security.md.

    FileNotFoundError or ValueError: the folder is not what write_replay writes.
    """
    path = folder / REPLAY
    content = read_record(path, REPLAY_FIX)
    check_fields(content, REPLAY_FIELDS, str(path), REPLAY_FIX)
    if content["format"] != 1:
        raise ValueError(f"{path}: format is {content['format']}, this version reads 1; {REPLAY_FIX}")
    for name in ("step", "processes", "threads"):
        if content[name] < 1:
            raise ValueError(f"{path}: {name} is {content[name]}, must be 1 or more; {REPLAY_FIX}")
    if content["threads"] > MOST_THREADS:
        raise ValueError(f"{path}: threads is {content['threads']}, at most {MOST_THREADS}; {REPLAY_FIX}")
    if not all(isinstance(batch, list) and all(map(_is_row, batch)) for batch in content["batches"]):
        raise ValueError(f"{path}: batches must be lists of [epoch, row, size, path]; {REPLAY_FIX}")
    if not content["class_names"]:
        raise ValueError(f"{path}: class_names is empty; {REPLAY_FIX}")
    check_stored_config(content["config"], str(path))
    return Replay(folder, **{name: content[name] for name in REPLAY_FIELDS if name != "format"})


def _is_row(row: Any) -> bool:
    return isinstance(row, list) and len(row) == 4 and isinstance(row[3], str)
