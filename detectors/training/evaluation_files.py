"""The names of the files of an evaluation, which say what was evaluated."""

from __future__ import annotations

import re
from pathlib import Path

from detectors.training import checkpoint as ckpt
from detectors.training.run_files import SUMMARY, read_record


def file_suffix(checkpoint: Path, split: str, other_data: str = "") -> str:
    """What the names of the written files end with.

    evaluation.json, which compare reads, is best.pt's on `val` of the run's own data, or last.pt's in a run
    without best.pt. Other splits, checkpoints and data get files of their own. other_data: the data_label of
    data that are not the run's.
    """
    main_checkpoint = ckpt.BEST if (checkpoint.parent / ckpt.BEST).exists() else ckpt.LAST
    parts = (
        "" if split == "val" else split,
        "" if checkpoint.name in (ckpt.BEST, main_checkpoint) else checkpoint.stem,
        other_data,
    )
    return "".join(f"_{part}" for part in parts if part)


def data_label(content: dict) -> str:
    """NAME_HASH of the data of an evaluation, for a file name."""
    return f"{re.sub('[^0-9A-Za-z.-]+', '-', content['data'])}_{content['truths_hash'][:8]}"


def is_recorded(truths: str, checkpoint: Path, split: str) -> bool:
    """Whether a truths_hash is known as that of the run's own data, which may have moved.

    It is in summary.json, for `val`, and in an earlier evaluation of the split.
    """
    own = [_recorded(checkpoint.parent / f"evaluation{file_suffix(checkpoint, split)}.json")]
    if split == "val":
        own.append(_recorded(checkpoint.parent / SUMMARY, "validation"))
    return truths in own


def _recorded(path: Path, group: str | None = None) -> object:
    """The truths_hash in a JSON file; None if there is none, or the file is not usable."""
    try:
        content = read_record(path, "")
    except (FileNotFoundError, ValueError):
        return None
    part = content if group is None else content.get(group)
    return part.get("truths_hash") if isinstance(part, dict) else None
