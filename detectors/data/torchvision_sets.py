"""torchvision's small sets of labelled images, read from a local folder and kept whole in memory."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torchvision.datasets import CIFAR10, CIFAR100, MNIST, FashionMNIST

from detectors.annotations import Annotations
from detectors.data.checks import selected_classes
from detectors.data.image_subsets import chosen_images
from detectors.data.images import Decoded
from detectors.data.labelled_sets import whole_images

ARRAY_SETS = {"mnist": MNIST, "fashion_mnist": FashionMNIST, "cifar10": CIFAR10, "cifar100": CIFAR100}
PLACES_BELOW_ROOT = {
    "mnist": "MNIST/raw",
    "fashion_mnist": "FashionMNIST/raw",
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
}
ARRAY_SPLITS = ("train", "test")


class LabelledArrays(NamedTuple):
    pixels: np.ndarray  # (N, h, w) or (N, h, w, 3) uint8
    labels: np.ndarray  # (N,) int64
    class_names: tuple[str, ...]


@lru_cache(maxsize=4)  # a run reads a split for its labels, and then for its pixels
def labelled_arrays(name: str, root: str, split: str) -> LabelledArrays:
    """A split of a set of ARRAY_SETS. Nothing is downloaded.

    FileNotFoundError if the files are not there, ValueError if they cannot be read, or for another split.
    """
    if split not in ARRAY_SPLITS:
        raise ValueError(f"data={name}: it has no split {split!r}; it has {' and '.join(ARRAY_SPLITS)}")
    folder = Path(root) / PLACES_BELOW_ROOT[name]
    try:
        data = ARRAY_SETS[name](root, train=split == "train", download=False)
    except RuntimeError as error:
        if not folder.is_dir() or "not found" in str(error):
            raise FileNotFoundError(
                f"{folder}: the files of data={name} are not there, or not whole; put them there, as "
                f"torchvision.datasets.{ARRAY_SETS[name].__name__} stores them, or set data.root"
            ) from error
        raise ValueError(f"{folder}: {error}") from error
    except Exception as error:  # a file that is cut off or is no such file raises any type
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{folder}: the {split} files of data={name} cannot be read ({reason}); restore them"
        ) from error
    names = tuple(text.rpartition(" - ")[2] for text in data.classes)  # MNIST's are "7 - seven"
    pixels = np.asarray(data.data)
    labels = np.asarray(data.targets, dtype=np.int64)
    if len(pixels) != len(labels):
        raise ValueError(f"{folder}: {len(pixels)} images and {len(labels)} labels; restore the files")
    return LabelledArrays(pixels, labels, names)


def read_arrays(
    name: str, root: str, split: str, class_names: list[str] | tuple[str, ...] | None = None
) -> Annotations:
    """The labels of a split. The id of an image is its place in the file.

    class_names: selects and orders the classes; images of other classes are left out.
    """
    arrays = labelled_arrays(name, root, split)
    place = f"{root}/{PLACES_BELOW_ROOT[name]}/{split}"
    count = len(arrays.labels)
    annotations = whole_images(
        arrays.class_names,
        range(count),
        [f"{place}[{row}]" for row in range(count)],
        np.tile(arrays.pixels.shape[1:3], (count, 1)),
        arrays.labels,
    )
    if class_names is None or tuple(class_names) == arrays.class_names:
        return annotations
    selected = selected_classes(class_names, arrays.class_names, source=place, noun="class", plural="classes")
    label_of = np.array([selected.index(n) if n in selected else -1 for n in arrays.class_names])
    labels = label_of[arrays.labels]
    rows = np.flatnonzero(labels >= 0)
    chosen = chosen_images(annotations, rows)
    return whole_images(selected, chosen.image_ids, chosen.paths, chosen.sizes, labels[rows])


def array_image(name: str, root: str, path: str) -> Decoded:
    """The image of a path of read_arrays: ".../train[12]". A grey image has three equal channels."""
    split, _, number = os.path.basename(path).removesuffix("]").partition("[")
    image = labelled_arrays(name, root, split).pixels[int(number)]
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    return Decoded(image, 1, image.shape[:2])


class ArrayReader:
    """Gives the images of read_arrays' Annotations by row, as ImageReader does those of files."""

    def __init__(self, annotations: Annotations, name: str, root: str):
        """name: of ARRAY_SETS. The paths of the images say of which split they are."""
        self.annotations = annotations
        self.name = name
        self.root = root

    def read(self, row: int, wanted: tuple[float, float] | None = None) -> Decoded:
        """wanted: no image is reduced."""
        return array_image(self.name, self.root, self.annotations.paths[row])
