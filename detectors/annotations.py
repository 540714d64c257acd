"""A data set's ground truth in flat arrays, and the buffers that hold its texts.

N images, T boxes; see structures.py for the legend.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np


class Texts(Sequence[str]):
    """Many texts in one buffer; equal to any sequence of the same texts.

    A tuple of str holds an object with a reference count for each text. A worker process that only reads them
    changes the counts, and thereby copies all memory pages that it shares with its parent.
    """

    def __init__(self, texts: Sequence[str] = ()):
        # surrogatepass: JSON and file names may hold lone surrogates, which strict UTF-8 rejects.
        parts = [text.encode("utf-8", "surrogatepass") for text in texts]
        self.data = b"".join(parts)
        self.offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)  # (N + 1,)

    @classmethod
    def packed(cls, data: bytes, offsets: np.ndarray) -> Texts:
        """From the `data` and `offsets` of another Texts."""
        texts = cls()
        texts.data = data
        texts.offsets = offsets
        return texts

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index):
        if isinstance(index, slice):
            return tuple(self[row] for row in range(*index.indices(len(self))))
        row = range(len(self))[index]  # a negative index counts from the end; raises IndexError
        return self.data[self.offsets[row] : self.offsets[row + 1]].decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        # One at a time: a list of all offsets would be as large as the texts.
        for start, end in pairwise(map(int, self.offsets)):
            yield self.data[start:end].decode("utf-8", "surrogatepass")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str | bytes):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        more = f" and {len(self) - 3} more" if len(self) > 3 else ""
        return f"Texts({list(self[:3])}{more})"


def pack_ids(ids: Sequence[str | int]) -> Texts | array:
    """(N) integer ids as an array, all others as Texts: neither holds a Python object per image."""
    if isinstance(ids, Texts | array):
        return ids
    are_int64 = all(type(i) is int and -(2**63) <= i < 2**63 for i in ids)
    return array("q", ids) if are_int64 and len(ids) else Texts([str(i) for i in ids])


@dataclass(frozen=True)
class Annotations:
    """A data set's ground truth in flat arrays.

    There is no Python object per image or box, so memory does not grow with the number of workers. The boxes
    of image n are rows offsets[n]:offsets[n + 1], in the frame of the original image, with continuous edges
    (readers convert). `image_ids` and `paths` may be given as any sequence.
    """

    class_names: tuple[str, ...]
    image_ids: Sequence[str | int]  # (N) VOC's file stems: Texts; COCO's integers: array
    paths: Sequence[str]  # (N) Texts
    sizes: np.ndarray  # (N, 2) int64 (height, width)
    offsets: np.ndarray  # (N + 1,) int64
    boxes_original: np.ndarray  # (T, 4) float64 xyxy
    labels: np.ndarray  # (T,) int64
    difficult: np.ndarray  # (T,) bool: VOC's flag; ignored in evaluation
    crowd: np.ndarray  # (T,) bool: COCO's iscrowd; never trained on
    areas: np.ndarray  # (T,) float64: COCO's segmentation area; width * height elsewhere
    category_ids: tuple[int, ...]  # (C) the ids of COCO's file, not contiguous there; 1..C elsewhere
    # (N) int64: the label of an image of which nothing else is known, and which has no row in the arrays of
    # boxes; -1: an image with boxes, or without objects. None: no image has a label alone.
    image_labels: np.ndarray | None = None
    parts: tuple[int, ...] | None = None  # images of each of several joined sets; None: it is one set

    def __post_init__(self):
        object.__setattr__(self, "image_ids", pack_ids(self.image_ids))
        object.__setattr__(self, "paths", self.paths if isinstance(self.paths, Texts) else Texts(self.paths))

    @classmethod
    def without_images(cls, class_names: Sequence[str]) -> Annotations:
        """A split without images."""
        return cls(
            class_names=tuple(class_names),
            image_ids=(),
            paths=(),
            sizes=np.zeros((0, 2), np.int64),
            offsets=np.zeros(1, np.int64),
            boxes_original=np.zeros((0, 4)),
            labels=np.zeros(0, np.int64),
            difficult=np.zeros(0, bool),
            crowd=np.zeros(0, bool),
            areas=np.zeros(0),
            category_ids=tuple(range(1, len(class_names) + 1)),
        )

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def image(self) -> np.ndarray:
        """(T,) int64: the image of each box."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def rows(self, index: int) -> slice:
        """The rows of image `index` in the flat arrays."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))
