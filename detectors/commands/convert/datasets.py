"""Data sets between VOC's, COCO's and Darknet's format: detectors convert data=... --to FORMAT FOLDER."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from detectors.annotations import Annotations
from detectors.commands.convert.dataset_files import FORMAT_WRITERS, DataSetWriter, image_names
from detectors.config.check import check
from detectors.config.composing import composed
from detectors.config.schema import SPLITS
from detectors.data.checks import settled, to_offsets
from detectors.data.files import require_regular
from detectors.training import ground_truth

AREA_TOLERANCE = 1e-6  # relative; a smaller difference from width * height is rounding


def convert_data_set(
    overrides: Sequence[str], target: Path, *, target_format: str | None, images: str
) -> list[str]:
    """Writes the set that `overrides` choose, as for train.py, into a new folder. Returns lines for the user.

    images: how they get there: copy, link (hard links) or none. The folder appears complete or not at all.
    """
    if target_format not in FORMAT_WRITERS:
        raise ValueError(f"data sets are written as {', '.join(FORMAT_WRITERS)}: choose one with --to")
    data = check(composed(list(overrides))).data
    splits = {}
    left_out: Counter[str] = Counter()
    for name in filter(lambda name: getattr(data, name), SPLITS):
        scanned = ground_truth.scan_annotations(data, name)
        splits[name] = settled(scanned, data.on_error)
        left_out[name] += len(scanned[1])
    writer = FORMAT_WRITERS[target_format]
    lost = _not_kept(splits.values(), writer)
    splits = {name: _selection(split, writer.can_express(split)) for name, split in splits.items()}
    target = target.resolve()
    try:
        with _new_folder(target) as folder:
            _write(writer, folder, splits, images)
    except OSError as error:
        hint = "; set --images copy" if images == "link" else ""
        raise ValueError(f"{target}: not written: {error.filename}: {error.strerror}{hint}") from error
    lines = [_count(name, annotations, left_out[name]) for name, annotations in splits.items()]
    if lost:
        lines.append(f"not kept, because the format cannot express it: {', '.join(lost)}")
    lines.append(f"written: {target} ({target_format})")
    command = ["python", "train.py", f"data={target_format}", f"data.root={target}", *writer.settings(splits)]
    return [*lines, shlex.join(command)]


def _count(name: str, annotations: Annotations, left_out: int) -> str:
    faults = f"; {left_out} faults left out" if left_out else ""
    return f"{name}: {len(annotations):,} images, {len(annotations.labels):,} boxes{faults}"


def _not_kept(splits: Iterable[Annotations], writer: DataSetWriter) -> list[str]:
    """What the boxes have that the format cannot express, with numbers."""
    counts: Counter[str] = Counter()
    for split in splits:
        plain = (split.boxes_original[:, 2:] - split.boxes_original[:, :2]).prod(1)
        counts["difficult"] += int(split.difficult.sum())
        counts["crowd"] += int(split.crowd.sum())
        counts[writer.cannot_express] += int((~writer.can_express(split)).sum())
        counts["areas"] += int((np.abs(split.areas - plain) > AREA_TOLERANCE * plain).sum())
    titles = {
        "difficult": "difficult (now ordinary boxes)",
        "crowd": "crowd (now ordinary boxes)",
        "areas": "areas other than width * height",
        writer.cannot_express: writer.cannot_express,
    }
    lost = {what: title for what, title in titles.items() if what not in writer.keeps}
    return [f"{counts[what]:,} {title}" for what, title in lost.items() if counts[what]]


def _selection(annotations: Annotations, keep: np.ndarray) -> Annotations:
    """The same images with some of their boxes. keep: (T,) bool."""
    counts = np.bincount(annotations.image[keep], minlength=len(annotations))
    arrays = ("boxes_original", "labels", "difficult", "crowd", "areas")
    kept = {name: getattr(annotations, name)[keep] for name in arrays}
    return replace(annotations, offsets=to_offsets(counts), **kept)


def _write(writer: DataSetWriter, folder: Path, splits: Mapping[str, Annotations], images: str) -> None:
    """Images and annotations of all splits."""
    paths = [path for split in splits.values() for path in split.paths]
    shared = image_names(paths) if writer.one_folder else None
    for name, split in splits.items():
        names = shared or image_names(split.paths)
        place = folder / writer.image_folder(name)
        place.mkdir(parents=True, exist_ok=True)
        for path in split.paths if images != "none" else ():
            _bring(path, place / names[path], images)
        writer.write_split(folder, name, split, names)
    writer.finish(folder, splits)


def _bring(source: str, target: Path, images: str) -> None:
    if target.exists():
        return  # an image of two splits
    require_regular(source)
    if images == "link":
        os.link(os.path.realpath(source), target)
    else:
        shutil.copyfile(source, target)


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `target` at the end, or disappears after an error.

    ValueError if there is anything at `target`, except an empty folder.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target}: is not an empty folder; name a new one, so that nothing is overwritten")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as draft:
        folder = Path(draft) / target.name  # a subfolder: only the owner may read the temporary folder itself
        folder.mkdir()
        yield folder
        os.replace(folder, target)
