"""Checkpoints: one file that holds all that a resume or an evaluation needs. Written whole or not at all, read without running code."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

FORMAT = 1
LAST, BEST = "last.pt", "best.pt"


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    step: int  # optimiser steps done
    config: dict[str, Any]  # the resolved configuration
    class_names: tuple[str, ...]
    model: dict[str, torch.Tensor]
    progress: dict[str, float]  # images seen, seconds trained, best metric, ...
    optimizer: dict[str, Any]
    random: dict[str, torch.Tensor]  # PyTorch's generators


def save(checkpoint: Checkpoint) -> None:
    """Writes checkpoint.path through a temporary file beside it, so that a kill or a full disk leaves the previous one whole."""
    path = checkpoint.path
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"format": FORMAT, **{k: v for k, v in vars(checkpoint).items() if k != "path"}, "class_names": list(checkpoint.class_names)}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path | str) -> Checkpoint:
    """Reads a checkpoint with weights_only=True: the file cannot run code. Tensors come to the CPU.

    FileNotFoundError without the file; ValueError for one that is truncated, needs more than tensors, or is no checkpoint of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint; a run folder holds {BEST} and {LAST}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: refused, because it is no plain file of tensors ({_first_line(error)})") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: cannot be read as a checkpoint, it may be truncated ({_first_line(error)})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path}: a file of tensors, but no checkpoint that train.py wrote (format {FORMAT})")
    fields = {k: v for k, v in content.items() if k != "format"} | {"class_names": tuple(content["class_names"])}
    return Checkpoint(path=path, **fields)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def find(place: Path | str, which: str = BEST) -> Path:
    """A run folder or a checkpoint file -> the checkpoint file. In a folder without `which`, last.pt stands in for best.pt.

    FileNotFoundError that says what is there instead.
    """
    place = Path(place)
    if place.is_file():
        return place
    if not place.is_dir():
        raise FileNotFoundError(f"{place}: no such run folder or checkpoint")
    for name in (which, LAST):
        if (place / name).is_file():
            return place / name
    raise FileNotFoundError(f"{place}: neither {BEST} nor {LAST} in this folder; did the training reach its first evaluation?")


def random_state() -> dict[str, torch.Tensor]:
    """The generators of PyTorch on the CPU and on the current GPU. Data need none: sample k of epoch e depends on (seed, e, k) only."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
