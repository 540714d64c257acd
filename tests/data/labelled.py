"""Small sets of labelled images that tests write."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np


def write_idx(root: Path, *, train: int = 20, test: int = 8, classes: int = 10) -> Path:
    """MNIST's four files below root, in the IDX format; the place of a bar is the digit."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, count in (("train", train), ("t10k", test)):
        labels = np.arange(count, dtype=np.uint8) % classes
        images = np.random.default_rng(count).integers(0, 60, (count, 28, 28), np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[:, 2 + 2 * label : 5 + 2 * label] = 255
        (folder / f"{name}-images-idx3-ubyte").write_bytes(
            struct.pack(">4I", 2051, count, 28, 28) + images.tobytes()
        )
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 2049, count) + labels.tobytes())
    return root


def write_folder(root: Path, counts: dict[str, int], size: tuple[int, int] = (20, 30)) -> Path:
    """root/CLASS/N.png, grey levels that say the class and the number."""
    for level, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            image = np.full((*size, 3), 40 * level + number, np.uint8)
            cv2.imwrite(str(root / name / f"{number}.png"), image)
    return root
