"""What may be given to a detector: paths, folders, arrays, PIL images, and iterables of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image

from detectors.data.image_headers import IMAGE_SUFFIXES

SUFFIXES = (*IMAGE_SUFFIXES, ".webp")

Images = str | PathLike | np.ndarray | Image.Image | Iterable
Given = tuple[str | None, np.ndarray | None]  # a path to be read, or (h, w, 3) uint8 RGB


def given_images(images: Images) -> Iterator[Given]:
    """Every image in what a user gave, in order; folders sorted by name.

    FileNotFoundError for a path that does not exist; ValueError for a folder without images, or an array of
    another shape or type.
    """
    if isinstance(images, str | PathLike):
        yield from ((str(path), None) for path in find_images([Path(images)]))
    elif isinstance(images, np.ndarray):
        yield None, _checked(images)
    elif isinstance(images, Image.Image):
        yield None, np.asarray(images.convert("RGB"))
    elif isinstance(images, Iterable):
        for image in images:
            yield from given_images(image)
    else:
        raise ValueError(
            f"images of type {type(images).__name__}: give a path, a folder, an array (h, w, 3) uint8 RGB, "
            "a PIL image, or an iterable of them"
        )


def _checked(image: np.ndarray) -> np.ndarray:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"an array of shape {image.shape} and type {image.dtype}: an image is (h, w, 3) uint8 RGB; "
            "give several images as a list"
        )
    return image


def find_images(places: list[Path]) -> Iterator[Path]:
    """Files as they are; what has the name of an image in folders, sorted by name.

    It may be anything: a folder or a FIFO, too, which the reader refuses.
    FileNotFoundError for a path that does not exist; ValueError for a folder without images.
    """
    for place in places:
        if place.is_dir():
            inside = sorted(path for path in place.iterdir() if path.suffix.lower() in SUFFIXES)
            if not inside:
                raise ValueError(f"{place}: no image in this folder; looked for {', '.join(SUFFIXES)}")
            yield from inside
        elif os.path.lexists(place):  # of a link to nowhere, too: the reader names it
            yield place
        else:
            raise FileNotFoundError(f"{place}: no such image or folder")
