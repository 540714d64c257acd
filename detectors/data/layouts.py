"""The format of a data set, guessed from the names in its folder: for hints in messages, never to read it."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

LAYOUTS = {  # format -> patterns below the folder, any of which shows it
    "voc": ("Annotations", "*/Annotations", "ImageSets"),
    "darknet": ("labels/**/*.txt", "*/labels/*.txt", "*.data", "data.yaml", "data.yml"),
    "coco": ("annotations/*.json", "*.json", "*/_annotations.coco.json"),
}


def guess_format(folder: Path | str) -> str | None:
    """voc, coco or darknet; None for a folder that shows none of them, or that cannot be read."""
    for name, patterns in LAYOUTS.items():
        try:
            if any(True for _ in chain.from_iterable(map(Path(folder).glob, patterns))):
                return name
        except OSError:
            return None
    return None
