"""detections.npz: what evaluate.py measured, detections and ground truth, to evaluate, compare and draw again
without the network and the data set's own files.

Files of older versions and of other programs have no such file; see commands/compare for those.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch

from detectors.annotations import Annotations
from detectors.data.files import atomic_file, require_regular
from detectors.metrics.arrays import to_arrays
from detectors.structures import Detections

LARGEST_FILE = 4 * 2**30  # bytes, unpacked
# Name -> kind of number ("i" whole, "f" real, "b" yes or no, "U" text), and the axes.
DETECTION_COLUMNS = {"image": ("i", "T"), "boxes": ("f", "T4"), "scores": ("f", "T"), "labels": ("i", "T")}
TRUTH_COLUMNS = {
    "class_names": ("U", "C"),
    "category_ids": ("i", "C"),
    "image_ids": ("Ui", "N"),
    "paths": ("U", "N"),
    "sizes": ("i", "N2"),
    "offsets": ("i", "O"),
    "boxes_original": ("f", "G4"),
    "truth_labels": ("i", "G"),
    "difficult": ("b", "G"),
    "crowd": ("b", "G"),
    "areas": ("f", "G"),
}


def write_detections(path: Path, annotations: Annotations, detections: Detections) -> None:
    """detections: original frame; `image` is the row of `annotations`. Other programs' may be float64."""
    ids = list(annotations.image_ids)
    columns = {
        "image": detections.image.cpu().numpy().astype(np.int32),
        "boxes": detections.boxes.cpu().numpy(),
        "scores": detections.scores.cpu().numpy(),
        "labels": detections.labels.cpu().numpy().astype(np.int32),
        "class_names": np.array(annotations.class_names, dtype=np.str_),
        "category_ids": np.array(annotations.category_ids, dtype=np.int64),
        "image_ids": np.array(ids, dtype=np.int64 if ids and isinstance(ids[0], int) else np.str_),
        "paths": np.array(list(annotations.paths), dtype=np.str_),
        "sizes": annotations.sizes,
        "offsets": annotations.offsets,
        "boxes_original": annotations.boxes_original,
        "truth_labels": annotations.labels,
        "difficult": annotations.difficult,
        "crowd": annotations.crowd,
        "areas": annotations.areas,
    }
    with atomic_file(path) as file:
        np.savez_compressed(file, **columns)


def read_detections(path: Path, fix: str) -> tuple[Annotations, Detections]:
    """What write_detections wrote. It may come from others: nothing in it is run.

    FileNotFoundError or ValueError names the file, what is wrong with it, and `fix`, the command to run.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; {fix}")
    try:
        columns = _columns(path)
        annotations, detections = _records(columns)
        to_arrays(annotations, detections)  # images, labels, finite numbers
    except (ValueError, OSError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path}: not a file of detections that can be used ({error}); {fix}") from error
    return annotations, detections


def _columns(path: Path) -> dict[str, np.ndarray]:
    require_regular(path)
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > LARGEST_FILE:
            raise ValueError(f"more than {LARGEST_FILE // 2**30} GiB unpacked")
    with np.load(path, allow_pickle=False) as stored:
        columns = {name: stored[name] for name in (*DETECTION_COLUMNS, *TRUTH_COLUMNS)}
    sizes: dict[str, int] = {}
    for name, (kinds, axes) in {**DETECTION_COLUMNS, **TRUTH_COLUMNS}.items():
        column = columns[name]
        shape = column.shape[0] if column.ndim else -1
        wide = axes[1:]
        right = column.ndim == len(axes) and column.dtype.kind in kinds
        if not right or (wide and column.shape[1] != int(wide)) or sizes.setdefault(axes[0], shape) != shape:
            raise ValueError(f"{name} has the shape {column.shape} and the type {column.dtype}")
    return columns


def _records(columns: dict[str, np.ndarray]) -> tuple[Annotations, Detections]:
    counts = np.diff(columns["offsets"])
    labels = columns["truth_labels"]
    if len(counts) != len(columns["image_ids"]) or (counts < 0).any() or columns["offsets"][0] != 0:
        raise ValueError("offsets do not fit the images")
    if columns["offsets"][-1] != len(labels):
        raise ValueError("offsets do not fit the boxes")
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(columns["class_names"]):
        raise ValueError("truth_labels name a class that there is not")
    if not (np.isfinite(columns["boxes_original"]).all() and np.isfinite(columns["areas"]).all()):
        raise ValueError("boxes_original or areas are not finite")
    annotations = Annotations(
        class_names=tuple(columns["class_names"].tolist()),
        image_ids=columns["image_ids"].tolist(),
        paths=columns["paths"].tolist(),
        sizes=columns["sizes"],
        offsets=columns["offsets"],
        boxes_original=columns["boxes_original"],
        labels=labels,
        difficult=columns["difficult"],
        crowd=columns["crowd"],
        areas=columns["areas"],
        category_ids=tuple(columns["category_ids"].tolist()),
    )
    detections = Detections(
        torch.from_numpy(columns["image"].astype(np.int64)),
        torch.from_numpy(columns["boxes"]),
        torch.from_numpy(columns["scores"]),
        torch.from_numpy(columns["labels"].astype(np.int64)),
    )
    return annotations, detections
