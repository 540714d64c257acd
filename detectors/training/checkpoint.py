"""Checkpoints: one file with all that a resume or an evaluation needs.

Written atomically, read without running code.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from detectors.data.files import atomic_file
from detectors.training.checkpoint_checks import GO_ON, check_content
from detectors.training.checksums import damaged_part

CHECKPOINT_FORMAT = 1
LAST = "last.pt"
BEST = "best.pt"


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
    recent: dict[str, Any] = field(default_factory=dict)  # loss terms since the last log line: Recent.state()
    versions: dict[str, str] = field(
        default_factory=dict
    )  # of the programs that wrote it: program_versions()
    scaler: dict[str, float] = field(default_factory=dict)  # float16's loss scale: LossScaler.state()
    ema: dict[str, torch.Tensor] = field(
        default_factory=dict
    )  # averaged weights; {} without trainer.ema_decay

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """What evaluations use: the averaged weights, where the run averages them."""
        return self.ema or self.model


def save_checkpoint(checkpoint: Checkpoint) -> None:
    """Writes checkpoint.path atomically. OSError names it, where the disk is full or gone."""
    content = {
        "format": CHECKPOINT_FORMAT,
        **{k: v for k, v in vars(checkpoint).items() if k != "path"},
        "class_names": list(checkpoint.class_names),
    }
    with atomic_file(checkpoint.path) as file, _told_by_the_disk():
        torch.save(content, file)


@contextmanager
def _told_by_the_disk() -> Iterator[None]:
    """Raises the OSError that PyTorch's zip writer covers with a RuntimeError of its own ("enforce fail")."""
    try:
        yield
    except RuntimeError as error:
        cause = error.__context__
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__context__
        raise cause or error from None


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Reads a checkpoint of ours; tensors come to the CPU.

    FileNotFoundError without the file; ValueError for one that is truncated or damaged, needs more than
    tensors, or is no checkpoint of ours.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such checkpoint; a run folder holds {BEST} and {LAST}")
    return from_content(path, read_tensors(path))


def from_content(path: Path, content: Any) -> Checkpoint:
    """A Checkpoint from what read_tensors returned. ValueError if it is none."""
    version = content.get("format") if isinstance(content, dict) else None
    if type(version) is not int or version != CHECKPOINT_FORMAT:
        raise ValueError(
            f"{path}: a file of tensors, but no checkpoint that train.py wrote (format {CHECKPOINT_FORMAT})"
        )
    parts = [part for part in fields(Checkpoint) if part.name != "path"]
    required = [part.name for part in parts if part.default_factory is MISSING]
    if absent := [name for name in required if name not in content]:
        raise ValueError(f"{path}: a checkpoint without {', '.join(absent)}; {GO_ON}")
    check_content(content, str(path))
    values = {part.name: content[part.name] for part in parts if part.name in content}
    values["class_names"] = tuple(values["class_names"])
    config = _with_clipping_or_null(_with_shapes_in_the_cache(values["config"]))
    values["config"] = _with_memory_format(config)
    return Checkpoint(path, **_with_images_seen(values))


def _with_shapes_in_the_cache(config: dict[str, Any]) -> dict[str, Any]:
    """Older configurations could keep generated images under another data.root; they are drawn again."""
    data = config.get("data")
    paths = config.get("paths")
    if not isinstance(data, dict) or data.get("format") != "shapes" or not isinstance(paths, dict):
        return config
    return config | {"data": data | {"root": paths.get("cache", data.get("root"))}}


def _with_clipping_or_null(config: dict[str, Any]) -> dict[str, Any]:
    """Older configurations could have trainer.clip_grad_norm 0, which did not clip; today null says that."""
    trainer = config.get("trainer")
    if not isinstance(trainer, dict) or trainer.get("clip_grad_norm") != 0:
        return config
    return config | {"trainer": trainer | {"clip_grad_norm": None}}


def _with_memory_format(config: dict[str, Any]) -> dict[str, Any]:
    """Older runs were all channels_last."""
    trainer = config.get("trainer")
    if not isinstance(trainer, dict):
        return config
    return config | {"trainer": {"memory_format": "channels_last"} | trainer}


def _with_images_seen(fields: dict[str, Any]) -> dict[str, Any]:
    """Older checkpoints hold the number in the loss's state, too; today it stands in `progress` alone."""
    model = dict(fields["model"])
    progress = dict(fields["progress"])
    seen = model.pop("loss.images_seen", None)
    if seen is not None:
        progress.setdefault("images_seen", int(seen))
    return fields | {"model": model, "progress": progress}


def read_tensors(path: Path) -> Any:
    """Reads a file of torch.save with weights_only=True: tensors, numbers, texts, lists and dicts.

    It cannot run code.

    FileNotFoundError without the file; ValueError for one that is truncated, has a changed byte or holds
    something else, which it names.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if not path.is_file():
        raise ValueError(f"{path}: not a regular file, so it is not a checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        damaged = damaged_part(path, content)
    except PermissionError:
        raise
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: refused, because it is not a plain file of tensors ({_refusal_reason(error)})"
        ) from error
    # on garbage PyTorch raises nearly anything, struct.error and IndexError included
    except Exception as error:
        raise ValueError(
            f"{path}: cannot be read as a checkpoint, it may be truncated ({_first_line(error)})"
        ) from error
    if damaged is not None:
        raise ValueError(
            f"{path}: damaged: {damaged} differs from what was written (by its checksum); {GO_ON}"
        )
    return content


def _refusal_reason(error: Exception) -> str:
    """What a pickle wants beyond tensors: PyTorch names it in the middle of its advice."""
    if match := re.search(r"GLOBAL (\w+(?:\.\w+)+)", str(error)):
        return (
            f"it asks for {match[1]}, which could run any code; "
            "save only the state dict where the file was made"
        )
    match = re.search(r"WeightsUnpickler error: (.+)", str(error))
    return match[1] if match else "torch.save writes other files"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def find_checkpoint(place: Path | str, which: str = BEST) -> Path:
    """The checkpoint file in a run folder, or `place` itself if it is a file.

    In a folder without `which`, last.pt takes its place. FileNotFoundError if there is neither.
    """
    place = Path(place)
    if not place.exists():
        address = str(place).startswith(("http:/", "https:/"))
        hint = "; an address is not read: download the file, and name it" if address else ""
        raise FileNotFoundError(f"{place}: no such run folder or checkpoint{hint}")
    if not place.is_dir():
        return place
    for name in (which, LAST):
        if (place / name).exists():
            return place / name
    runs = sorted(file.parent.name for file in place.glob(f"*/{LAST}"))
    hint = (
        f"it holds runs, name one: {', '.join(runs)}"
        if runs
        else "did the training reach its first evaluation?"
    )
    raise FileNotFoundError(f"{place}: neither {BEST} nor {LAST} in this folder; {hint}")


def random_state() -> dict[str, torch.Tensor]:
    """The state of PyTorch's generators on the CPU and on the current GPU.

    Data need no state: sample k of epoch e depends on (seed, e, k) only.
    """
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, torch.Tensor], path: Path) -> None:
    """ValueError, with the checkpoint's path, if it is not a state as random_state stores it."""
    try:
        torch.set_rng_state(state["cpu"])
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda"])
    except (KeyError, RuntimeError, TypeError) as error:
        reason = "cpu is missing" if isinstance(error, KeyError) else _first_line(error)
        raise ValueError(
            f"{path}: random is not a state of PyTorch's generators ({reason}); {GO_ON}"
        ) from error
