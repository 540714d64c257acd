"""Saved detections of ours or of other programs, measured again without a network.

The content of a file decides which of these it is:

    detections.npz            ours, with the ground truth that they were measured on
    a list in JSON            COCO's results: ours, Darknet's coco_results.json, any other program's
    lines of six words        VOC's comp4_det_test_CLASS.txt, one for each class: Darknet's `valid`, ...
"""

from __future__ import annotations

import glob
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from detectors.annotations import Annotations
from detectors.data.files import require_regular
from detectors.data.result_files import ImageRows, read_coco_results, read_voc_results
from detectors.data.suggestions import did_you_mean
from detectors.structures import Detections
from detectors.training.detections_file import read_detections
from detectors.training.run_files import read_record

NPZ, COCO_RESULTS, VOC_LISTS = "detections.npz", "COCO results", "VOC lists"
NEEDS_DATA = "holds no ground truth; name the data set that the detections are of: data=... split=..."
CARRIED = ("data", "split", "protocol")  # what an evaluation beside our own file knows of it


class SavedDetections(NamedTuple):
    annotations: Annotations
    detections: Detections  # original frame; `image` is the row of `annotations`
    kind: str  # NPZ, COCO_RESULTS or VOC_LISTS
    notes: list[str]


class SavedPlace(NamedTuple):
    """A file, a folder or a pattern such as results/comp4_det_test_*.txt."""

    files: list[Path]
    kind: str
    base: Path  # the file without its suffix, or the folder: names of results follow from it


def find_saved(place: str) -> SavedPlace:
    """FileNotFoundError or ValueError if nothing is there, or if it is not clear which file is meant."""
    path = Path(place)
    if not path.exists() and glob.has_magic(place):
        files = [Path(file) for file in sorted(glob.glob(place))]
        if not files:
            raise FileNotFoundError(f"detections={place}: no file matches")
        base = files[0].parent.resolve()
    elif path.is_dir():
        files = _files_of(path)
        base = path.resolve()
    else:
        files = [path]
        base = path.with_suffix("")
    kinds = {file: _kind(file) for file in files}
    kind = kinds[files[0]]
    if len(files) > 1 and set(kinds.values()) != {VOC_LISTS}:
        odd = next(file for file in files if kinds[file] != VOC_LISTS)
        raise ValueError(f"{odd}: {kinds[odd]}, which is one file; name it alone, as detections={odd}")
    return SavedPlace(files, kind, base)


def _files_of(folder: Path) -> list[Path]:
    """VOC's lists in a folder, or its only other file of detections."""
    texts, others = sorted(folder.glob("*.txt")), sorted([*folder.glob("*.json"), *folder.glob("*.npz")])
    if not texts and not others:
        raise FileNotFoundError(f"detections={folder}: holds no *.txt, *.json or *.npz")
    if (texts and others) or len(others) > 1:
        names = ", ".join(path.name for path in [*others[:3], *texts[:1]])
        fix = f"name one, such as detections={others[0]} or detections='{folder}/comp4_det_test_*.txt'"
        raise ValueError(f"detections={folder}: holds several ({names}, ...); {fix}")
    return texts or others


def _kind(path: Path) -> str:
    try:
        require_regular(path)
        with path.open("rb") as file:
            start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such file of detections") from error
    if start.startswith(b"PK"):
        return NPZ
    return COCO_RESULTS if start[:1] in (b"[", b"{") else VOC_LISTS


def load_saved(place: SavedPlace, truths: Callable[[], Annotations] | None) -> SavedDetections:
    """Reads them. truths: gives the ground truth; None takes that of our own file.

    FileNotFoundError or ValueError names the file, and what is wrong where.
    """
    path = place.files[0]
    if place.kind == NPZ:
        own, detections = read_detections(path, "evaluate the run again, or name another program's results")
        if truths is None:
            return SavedDetections(own, detections, NPZ, [])
        annotations = truths()
        return SavedDetections(annotations, _on_other_truths(own, detections, annotations, path), NPZ, [])
    if truths is None:
        raise ValueError(f"{path}: {NEEDS_DATA}")
    annotations = truths()
    if place.kind == COCO_RESULTS:
        detections = read_coco_results(path, annotations)
        return SavedDetections(annotations, detections, COCO_RESULTS, _negative(detections))
    detections, absent = read_voc_results(place.files, annotations)
    notes = [f"no file, so no detections, of: {', '.join(absent)}"] if absent else []
    return SavedDetections(annotations, detections, VOC_LISTS, notes + _negative(detections))


def _on_other_truths(
    own: Annotations, detections: Detections, annotations: Annotations, path: Path
) -> Detections:
    """Detections with the rows and labels of other ground truth for the same images and classes."""
    label_of = {name: label for label, name in enumerate(annotations.class_names)}
    used = [own.class_names[label] for label in detections.labels.unique().tolist()]
    if unknown := [name for name in used if name not in label_of]:
        hint = did_you_mean(unknown[0], annotations.class_names, listed=True)
        raise ValueError(f"{path}: the ground truth has no class {', '.join(map(repr, unknown))}{hint}")
    images = ImageRows(annotations)
    row_of = np.array([-1] * len(own))
    for row in detections.image.unique().tolist():
        row_of[row] = images.row(own.image_ids[row])
    images.refuse_unknown(str(path))
    labels = torch.tensor([label_of.get(name, -1) for name in own.class_names])
    rows = torch.from_numpy(row_of)[detections.image]
    return Detections(rows, detections.boxes, detections.scores, labels[detections.labels])


def _negative(detections: Detections) -> list[str]:
    swapped = (detections.boxes[:, 2:] < detections.boxes[:, :2]).any(1)
    count = int(swapped.sum())
    return [f"{count:,} boxes of negative size, which match nothing and count as wrong"] if count else []


def known_of(place: SavedPlace) -> dict:
    """Data, split and post-processing from the evaluation beside our own detections; empty for others."""
    name = place.files[0].name
    if not name.startswith("detections"):
        return {}
    beside = place.files[0].with_name(f"evaluation{place.files[0].stem.removeprefix('detections')}.json")
    try:
        record = read_record(beside, "")
    except (FileNotFoundError, ValueError):
        return {}
    return {key: record[key] for key in CARRIED if key in record}
